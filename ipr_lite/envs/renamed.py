"""A world whose buttons, or verbs, go by other names: does an agent read what the world offers, or recite it?

`shop-renamed` and `house-renamed` are the shop and the household with other words, in the prompt, in what is shown and in
what may be said. The old names are refused. (AgentRefine, Fu et al., ICLR 2025, tests its agents like this.)
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Mapping
from dataclasses import replace

from ipr_lite.envs import house, shop
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.people import People, Person
from ipr_lite.envs.world import Data, World
from ipr_lite.records import Task

SHOP_NAMES = {"Buy Now": "Purchase", "Back to Search": "Start Over", "< Prev": "< Return"}
HOUSE_NAMES = {"go to": "walk to", "take": "grab", "put": "place"}


class Renamed(TextEnv):
    """`world` with other words. `names`: old name -> new one, whatever the case; each is swapped with the other, so that
    an old name means nothing any more."""

    def __init__(self, world: TextEnv, names: Mapping[str, str]):
        super().__init__()
        self.world, self.name = world, f"{world.name}-renamed"
        self._other = {old.lower(): new for old, new in names.items()}
        self._other |= {new.lower(): old for old, new in names.items()}
        longest = sorted(self._other, key=len, reverse=True)
        self._any = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
        self.system_prompt, self.max_steps = self.swapped(world.system_prompt), world.max_steps

    @property
    def tasks(self) -> list[Task]:
        return [replace(task, env=self.name) for task in self.world.tasks]

    def swapped(self, text: str) -> str:
        """A text with every name in place of the other; doing it twice gives the text back, but for capitals."""
        return self._any.sub(lambda found: self._other[found[0].lower()], text)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Starts `options["task"]`, or a task drawn with `seed`."""
        self._task = self.task_of(seed, options)
        self.world = self.world.clone()
        observation, info = self.world.reset(options={"task": replace(self._task, env=self.world.name)})
        return self.swapped(observation), info | {"task": self._task}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Takes a whole message; see `TextEnv`."""
        observation, *rest, info = self.world.step(self.swapped(action))
        return self.swapped(observation), *rest, info | {"task": self._task}

    def parse(self, message: str) -> str | None:
        action = self.world.parse(self.swapped(message))
        return action if action is None else self.swapped(action)

    def message(self, action: str, thought: str = "") -> str:
        return self.world.message(action, thought)

    def clone(self) -> Renamed:
        other = copy.copy(self)
        other.world = self.world.clone()
        other._np_random = copy.deepcopy(self._np_random)
        return other

    def page_score(self) -> float:
        return self.world.page_score()


class Translator:
    """A person of the world itself, who reads and says everything in the other words."""

    def __init__(self, person: Person, env: Renamed):
        self.person, self.env = person, env

    def act(self, observation: str) -> str | None:
        message = self.person.act(self.env.swapped(observation))
        return message if message is None else self.env.swapped(message)

    def finishes(self, message: str) -> bool:
        return self.person.finishes(self.env.swapped(message))

    def look_again(self, observation: str) -> str:
        return self.env.swapped(self.person.look_again(self.env.swapped(observation)))

    def did(self, observation: str, action: str) -> None:
        self.person.did(self.env.swapped(observation), self.env.swapped(action))


def renamed(world: World, names: Mapping[str, str]) -> World:
    """The record of a world with other words."""

    def make(data: Data = None) -> Renamed:
        return Renamed(world.make(data), names)

    def tasks(split: str, data: Data = None) -> list[Task]:
        return [replace(task, env=f"{world.name}-renamed") for task in world.tasks(split, data)]

    def person(task: Task, env: Renamed, habits: object, rng: random.Random) -> Translator:
        return Translator(world.people.person(replace(task, env=world.name), env.world, habits, rng), env)

    people = People(person, world.people.careful, world.people.habitual, world.people.keep, world.people.others)
    return World(f"{world.name}-renamed", make, tasks, people, scored=world.scored, seconds=world.seconds)


SHOP, HOUSE = renamed(shop.WORLD, SHOP_NAMES), renamed(house.WORLD, HOUSE_NAMES)
