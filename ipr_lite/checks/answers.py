"""What every check does: call an answer, and say right, wrong and why, or not attempted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def two_numbers(found: Any, kind: type, shown: str, names: str) -> tuple:
    """The two numbers of an answer as `kind` (int or float). Raises WrongAnswer, which says what they are to be."""
    try:
        first, second = (kind(value) for value in found)
    except (TypeError, ValueError):
        raise WrongAnswer(f"{shown}: you gave {found!r}; give two numbers, ({names})") from None
    return first, second


def conversation(actions: Sequence[str]) -> list[dict[str, str]]:
    """Messages of a trajectory that says these actions, with placeholders for all that it reads."""
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "o"}]
    for action in actions:
        messages += [{"role": "assistant", "content": action}, {"role": "user", "content": "o"}]
    return messages[:-1]


def say_right(why: str) -> None:
    print(f"right: {why}")
