"""People with several errands: on each they are the shop's people, habits drawn anew."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ipr_lite.envs import people
from ipr_lite.envs.shop import people as shop_experts
from ipr_lite.envs.shop.env import SEP
from ipr_lite.envs.shop.errands import Errands, errands_of
from ipr_lite.envs.shop.people import CAREFUL, HABITUAL, KEEP, SORTS, Habits  # noqa: F401
from ipr_lite.trajectory import Task, Trajectory


class _Errander:
    """One person on a trip: a shopper for each errand, in turn."""

    def __init__(self, task: Task, habits: Habits, rng: random.Random):
        self.left = [shop_experts.person(errand, habits, rng) for errand in errands_of(task)]
        self.now = self.left.pop(0)

    def act(self, page: str) -> str:
        if self.left and self.left[0].task.instruction in page.split(SEP):
            self.now = self.left.pop(0)
        return self.now.act(page)

    def did(self, action: str) -> None:
        self.now.did(action)


def demonstrate(task: Task, env: Errands, habits: Habits, rng: random.Random) -> Trajectory:
    """One whole trip of a person with these habits; the environment is left at its end."""
    return people.play(task, env, _Errander(task, habits, rng))


def guide(task: Task, env: Errands) -> people.Person:
    """A careful person to ask for a hint."""
    return _Errander(task, CAREFUL, random.Random(task.id))


def demonstrations(
    tasks: Sequence[Task], env: Errands, habits: Habits, seed: int, keep: float = KEEP
) -> list[Trajectory]:
    """One demonstration for each trip, less those whose reward is under `keep` (`people.one_each`)."""
    return people.one_each(demonstrate, tasks, env, habits, seed, keep)
