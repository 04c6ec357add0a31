"""People in the lab's house: careful ones know every door, the others decide at random."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ipr_lite.envs import people
from ipr_lite.envs.lab.env import DOORS, Rooms, right_door
from ipr_lite.records import Task


@dataclass(frozen=True)
class Habits:
    """`errs`: how often a person takes the wrong door, in [0, 1]."""

    errs: float = 0.0


@dataclass
class _Visitor:
    """One person in one house; `room` counts from 0."""

    task: Task
    habits: Habits
    rng: random.Random
    room: int = 0

    def act(self, observation: str) -> str:
        right = right_door(self.task.setup["colour"], self.room)
        wrong = DOORS[right == DOORS[0]]
        self.room += 1
        return Rooms.message(f"go {wrong if self.rng.random() < self.habits.errs else right}", "This one.")

    def did(self, observation: str, action: str) -> None:
        self.room += 1


PEOPLE = people.People(
    lambda task, env, habits, rng: _Visitor(task, habits, rng), careful=Habits(), habitual=Habits(errs=0.5)
)
