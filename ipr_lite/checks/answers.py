"""What every check does: call an answer, and say right, wrong and why, or not attempted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NOTHING = object()


class WrongAnswer(AssertionError):
    """What is wrong with an answer, and where to look."""


def guess(number: float | None, truth: float, unit: str = "") -> None:
    """Puts a prediction beside the answer. No prediction is fine, a wrong one too."""
    answer = f"the answer is {truth:.3g} {unit}".strip()
    print(f"no guess; {answer}" if number is None else f"your guess {number:.3g}, {answer}")


def attempt(function: Callable, *arguments: Any) -> Any:
    """What the learner's function returns; says "not attempted yet" where it does not."""
    try:
        found = function(*arguments)
    except NotImplementedError:
        print("not attempted yet")
        return NOTHING
    if found is None or found is ...:
        raise WrongAnswer(f"{function.__name__} returned {found}: is a `return` missing?")
    return found


def say_right(why: str) -> None:
    print(f"right: {why}")
