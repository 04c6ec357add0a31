"""A house of K rooms with two doors each. One door of each room is right; how many were, is told at the end alone.

Which one depends on the colour of the house and on the room, by a hash: there is nothing to understand, only to learn.
A message that names no door goes nowhere: the room counts as wrong, and the next one follows.
"""

from __future__ import annotations

import copy
import hashlib
import re

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.world import Data
from ipr_lite.records import Task

COLOURS = ("red", "blue", "green", "white", "black", "grey", "pink", "brown", "gold", "silver")
DOORS = ("left", "right")
SIZES = {"train": 160, "dev": len(COLOURS), "test": len(COLOURS)}
"""Tasks of a split. Houses of one colour are alike, so that ten tell all."""


class Rooms(TextEnv):
    """The house. The reward is the share of right doors; `info["success"]`: all were right."""

    system_prompt = (
        "You walk through a house of one colour. Each room has two doors, and one of them is right. "
        "Answer with a thought and an action: `go left` or `go right`."
    )

    def __init__(self, decisions: int):
        super().__init__()
        self.name, self.max_steps = f"lab-{decisions}", decisions
        self.tasks = tasks(decisions, "train")
        self._right: list[bool] | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Starts `options["task"]`, or a task drawn with `seed`."""
        self._task = self.task_of(seed, options)
        self._right = []
        return f"{self._task.instruction}\n{self._room()}", {"task": self._task}

    def _room(self) -> str:
        return f"Room {len(self._right) + 1} of {self.max_steps}: doors left and right."

    def parse(self, message: str) -> str | None:
        found = re.search(r"Action:\s*(go (?:left|right))\s*$", message)
        return found and found[1]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Takes a whole message; see `TextEnv`. Raises RuntimeError outside an episode."""
        if self._right is None or len(self._right) == self.max_steps:
            raise RuntimeError("nobody is in the house: call reset() before step()")
        door = self.parse(action)
        self._right.append(door == f"go {right_door(self._task.setup['colour'], len(self._right))}")
        over = len(self._right) == self.max_steps
        share = sum(self._right) / self.max_steps
        info = {"task": self._task, "action": door, "invalid": door is None, "success": over and share == 1}
        page = (
            f"The house ends here: {sum(self._right)} of {self.max_steps} doors were right." if over else self._room()
        )
        return f"Observation: {page}", share if over else 0.0, over, False, info

    def clone(self) -> Rooms:
        other = copy.copy(self)
        other._right = None if self._right is None else list(self._right)
        other._np_random = copy.deepcopy(self._np_random)
        return other


def right_door(colour: str, room: int) -> str:
    """The right door of a room (from 0) in a house of this colour."""
    return DOORS[hashlib.sha256(f"{colour}/{room}".encode()).digest()[0] % 2]


def make(decisions: int, data: Data = None) -> Rooms:
    """A house of so many rooms. Raises ValueError for `data`: there is no original."""
    if data is not None:
        raise ValueError(f"--data {data}: the lab has no original data; leave the option out")
    return Rooms(decisions)


def tasks(decisions: int, split: str, data: Data = None) -> list[Task]:
    """The houses of a split, colours in turn. Raises ValueError for another split."""
    if split not in SIZES:
        raise ValueError(f"no split {split!r}; the splits are {', '.join(SIZES)}")
    name = f"lab-{decisions}"
    found = []
    for number in range(SIZES[split]):
        colour = COLOURS[number % len(COLOURS)]
        found.append(Task(f"{name}-{split}-{number}", name, split, f"The house is {colour}.", {"colour": colour}))
    return found
