"""All three worlds as one: an episode is in the world that its task names."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path

from ipr_lite.envs import house, shop, sql
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.people import People, Person
from ipr_lite.envs.world import Data, World
from ipr_lite.records import Message, Task, Trajectory

WORLDS = {world.name: world for world in (shop.WORLD, sql.WORLD, house.WORLD)}


class AllWorlds(TextEnv):
    """Worlds by name behind one door. `reset` opens the world that the task's `env` names."""

    name = "all"
    system_prompt = "You are an agent in one of three text worlds; its own prompt says which."

    def __init__(self, worlds: Mapping[str, TextEnv], tasks: Sequence[Task]):
        super().__init__()
        self.worlds, self.tasks = dict(worlds), tuple(tasks)
        self.here: TextEnv | None = None

    @property
    def max_steps(self) -> int:
        """The open world's; where none is open, the largest."""
        return max(world.max_steps for world in ([self.here] if self.here else self.worlds.values()))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Starts `options["task"]`, or a task drawn with `seed`. Raises ValueError for an unknown world."""
        task = self.task_of(seed, options)
        self.here = self.worlds[task.env].clone()
        return self.here.reset(options={"task": task})

    def check(self, task: Task) -> None:
        """Raises ValueError for a task of a world that is not here."""
        if task.env not in self.worlds:
            raise ValueError(f"task {task.id} is for the world {task.env!r}; here are {', '.join(self.worlds)}")

    def parse(self, message: str) -> str | None:
        """As the world that the form of the message belongs to reads it."""
        if "```" in message or message.rstrip(". \n").endswith("submit"):
            return self.worlds["sql"].parse(message)
        return self.worlds["shop" if "search[" in message or "click[" in message else "house"].parse(message)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Takes a whole message; see `TextEnv`. Raises RuntimeError outside an episode."""
        if self.here is None:
            raise RuntimeError("no world is open: call reset() before step()")
        return self.here.step(action)

    def message(self, action: str, thought: str = "") -> str:
        return (self.here or self.worlds["shop"]).message(action, thought)

    def messages(self, observation: str, task: Task) -> list[Message]:
        return self.worlds[task.env].messages(observation, task)

    def clone(self) -> AllWorlds:
        """A copy of the episode; what the worlds share, it shares."""
        other = copy.copy(self)
        other.here = self.here.clone() if self.here is not None else None
        other._np_random = copy.deepcopy(self._np_random)
        return other


def make(data: Data = None) -> AllWorlds:
    """The three generated worlds; of the originals' files, PATH/shop, PATH/sql and PATH/house."""
    worlds = {name: world.make(_folder(data, name)) for name, world in WORLDS.items()}
    return AllWorlds(worlds, tasks("train", data))


def tasks(split: str, data: Data = None) -> list[Task]:
    """The tasks of a split of all worlds, in turn. Raises ValueError for another name."""
    each = [world.tasks(split, _folder(data, name)) for name, world in WORLDS.items()]
    return [task for task in chain.from_iterable(zip_longest(*each)) if task is not None]


def _folder(data: Data, name: str) -> Path | None:
    return None if data is None else Path(data) / name


class _Everybody(People):
    def least(self, task: Task) -> float:
        return WORLDS[task.env].people.keep

    def transcripts(self, n: int, seed: int) -> Iterator[Trajectory]:
        """`n` episodes of people of all sorts, a third in each world, for the base model's corpus."""
        each = (world.people.transcripts(n, seed) for world in WORLDS.values())
        return islice(chain.from_iterable(zip(*each, strict=True)), n)


def _person(task: Task, env: AllWorlds, habits: str, rng: random.Random) -> Person:
    return WORLDS[task.env].people.person(task, env.worlds[task.env], WORLDS[task.env].people.sorts[habits], rng)


WORLD = World("all", make, tasks, _Everybody(_person, careful="careful", habitual="habitual", keep=None))
