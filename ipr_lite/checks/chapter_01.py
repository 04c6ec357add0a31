"""Meet the worlds: an errand, and a reward below nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right


def wins(write: Callable[[], list[str]], env: Any, task: Any) -> None:
    """Notebook 01: `write()` gives the commands that win a household task."""
    commands = attempt(write)
    if commands is NOTHING:
        return
    if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
        raise WrongAnswer('commands() must return a list of texts such as "go to countertop 1"')
    env.reset(options={"task": task})
    for number, command in enumerate(commands, start=1):
        observation, reward, terminated, truncated, info = env.step(env.message(command))
        if info["invalid"]:
            raise WrongAnswer(
                f"command {number}, {command!r}, was answered: {observation!r}. Look at what came before: {commands[: number - 1]}"
            )
        if terminated:
            return say_right(f"won with {number} commands")
        if truncated:
            raise WrongAnswer(f"the {number} steps are used up; the task was: {task.instruction}")
    last = f"the last answer was {observation!r}" if commands else "there was none"
    raise WrongAnswer(f"after {len(commands)} commands the goal does not hold yet ({last}): {task.instruction}")


def negative(write: Callable[[], str], env: Any, task: Any) -> None:
    """Notebook 01: `write()` gives a query that earns less than nothing."""
    query = attempt(write)
    if query is NOTHING:
        return
    env.reset(options={"task": task})
    observation, *_, info = env.step(env.message(str(query)))
    if info["invalid"]:
        raise WrongAnswer(f"the database answered: {observation.strip()!r}")
    _, reward, *_ = env.step(env.message("submit"))
    if reward >= 0:
        raise WrongAnswer(
            f"this earns {reward}: {'these are not the right rows' if reward == 0 else 'turn the order around'}"
        )
    env.reset(options={"task": task})
    wanted, *_ = env.step(env.message(task.setup["gold"]))
    if _rows(observation) != _rows(wanted):
        raise WrongAnswer(
            f"this earns {reward}, but not with the right rows: give all that the question asks for, in the wrong order"
        )
    say_right(f"a reward of {reward}, for the right rows")


def _rows(observation: str) -> list[str]:
    """The rows that an answer of the database shows, in any order."""
    return sorted(re.findall(r"\([^()]*\)", observation))
