"""Several purchases, one outcome: episodes in the shop with more than one errand.

Where several good and bad decisions share one outcome, an outcome says little about each. `shop-2` and `shop-3` are
the shop with two and three errands an episode: each is a task of the shop, with the shop's own pages, rules and step
cap; after one the next instruction is shown, and only at the end of the last does the agent get its reward, their mean.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.shop import generated as shop_world
from ipr_lite.envs.shop.env import PREFIX, SEP, Shop
from ipr_lite.envs.shop.people import PEOPLE as SHOPPERS
from ipr_lite.envs.shop.people import Habits
from ipr_lite.envs.world import Data, World
from ipr_lite.records import Message, Task


class Errands(TextEnv):
    """An episode of several errands. `info["success"]`: all of them are perfect."""

    system_prompt = Shop.system_prompt

    def __init__(self, shop: Shop, tasks: Sequence[Task], errands: int):
        super().__init__()
        self.shop, self.tasks, self.errands = shop, tuple(tasks), errands
        self.name = f"shop-{errands}"
        self.max_steps = errands * shop.max_steps
        self._left: list[Task] | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Starts `options["task"]`, or a task drawn with `seed`. Returns the first errand's search page."""
        self._task = self.task_of(seed, options)
        first, *self._left = errands_of(self._task)
        self._rewards: list[float] = []
        self.shop = self.shop.clone()
        page, _ = self.shop.reset(options={"task": first})
        return page, {"task": self._task}

    def parse(self, message: str) -> str | None:
        return self.shop.parse(message)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Takes a whole message; see `TextEnv`. Raises RuntimeError outside an episode."""
        if self._left is None:
            raise RuntimeError("the shop is closed: call reset() before step()")
        page, reward, bought, cut_off, info = self.shop.step(action)
        info["task"] = self._task
        if not bought and not cut_off:
            return page, 0.0, False, False, info
        self._rewards.append(reward)
        if self._left:
            start, _ = self.shop.reset(options={"task": self._left.pop(0)})
            return PREFIX + start, 0.0, False, False, info | {"success": False}
        info["success"] = all(reward == 1.0 for reward in self._rewards)
        return page, sum(self._rewards) / self.errands, bought, cut_off, info

    def clone(self) -> Errands:
        """A copy of the episode; the catalogue and the tasks are shared."""
        other = copy.copy(self)
        other.shop = self.shop.clone()
        if self._left is not None:
            other._left, other._rewards = list(self._left), list(self._rewards)
        other._np_random = copy.deepcopy(self._np_random)
        return other

    def messages(self, observation: str, task: Task) -> list[Message]:
        return self.shop.messages(observation, task)


def errands_of(task: Task) -> list[Task]:
    """The shop's tasks that a task of several errands consists of."""
    return [Task.from_record(record) for record in task.setup["errands"]]


def make(errands: int, data: Data = None) -> Errands:
    """The shop, generated or on WebShop's own files, with so many errands an episode."""
    return Errands(shop_world.make(data), tasks(errands, "train", data), errands)


def tasks(errands: int, split: str, data: Data = None) -> list[Task]:
    """As many tasks as the shop has in the split; each of the shop's is an errand in `errands` of them."""
    singles = shop_world.tasks(split, data)
    found = []
    for number in range(len(singles)):
        parts = [singles[(number + i * len(singles) // errands) % len(singles)] for i in range(errands)]
        found.append(replace(
            parts[0], id="+".join(part.id for part in parts), env=f"shop-{errands}", extra={},
            setup={"errands": [part.to_record() for part in parts]},
        ))  # fmt: skip
    return found


class _Errander:
    """One person with several errands: a shopper for each errand, in turn."""

    def __init__(self, task: Task, env: Errands, habits: Habits, rng: random.Random):
        self.left = [
            (errand.instruction, SHOPPERS.person(errand, env.shop, habits, rng)) for errand in errands_of(task)
        ]

    def _now(self, page: str):
        if len(self.left) > 1 and self.left[1][0] in page.split(SEP):
            self.left.pop(0)
        return self.left[0][1]

    def act(self, page: str) -> str:
        return self._now(page).act(page)

    def did(self, page: str, action: str) -> None:
        self._now(page).did(page, action)


PEOPLE = replace(SHOPPERS, person=_Errander, elsewhere=None)
TWO, THREE = (World(f"shop-{n}", partial(make, n), partial(tasks, n), PEOPLE) for n in (2, 3))
