"""TRL's `GRPOTrainer(environment_factory=...)`: each world as a class whose public methods are tools that a model calls.

A tool says an action of the world in the world's own form, so that what it answers, what a step is and what is paid stay
the world's. It can say no thought: what the model thinks stands beside its call. Tested with TRL 1.16.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

from ipr_lite import envs
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.world import Data
from ipr_lite.records import Task, parse


@cache
def _opened(world: str, data: Data) -> TextEnv:
    """One of each world in a process: an episode plays in a copy, which shares what never changes."""
    return envs.make(world, data)


class _Tools:
    """What the classes share, beside their `_world` and its `_prompt`. `data`: a folder with the original's own files."""

    def __init__(self, data: Data = None):
        self._env = _opened(self._world, data).clone()
        self._reward, self._over = 0.0, True

    def reset(self, task: str, **columns: object) -> str:
        """Starts the task of a row of `rows`. Returns the first observation, which TRL adds to the prompt.

        Raises DataError where the column `task` holds no task, ValueError for one of another world.
        """
        record = parse(task, dict, "fill the column task as ipr_lite.doors.tools.rows does")
        observation, _ = self._env.reset(options={"task": Task.from_record(record)})
        self._reward, self._over = 0.0, False
        return observation

    def get_reward(self) -> float:
        """The outcome reward, in the world's range; 0 where the episode did not come to its end."""
        return float(self._reward)

    def _do(self, argument: str, form: str = "{}") -> str:
        """The world's observation. Raises ValueError, which TRL shows to the model, for what is no text and after the end."""
        if self._over:
            raise ValueError("the episode is over: call no more tools")
        if not isinstance(argument, str):
            raise ValueError(f"the argument is of the type {type(argument).__name__}; give a text")
        action = self._env.message(form.format(argument))
        observation, self._reward, terminated, truncated, _ = self._env.step(action)
        self._over = terminated or truncated
        return observation


class ShopTools(_Tools):
    """The shop: `search` and `click`."""

    _world, _prompt = "shop", "You are a shopping agent. Call one tool a turn, until you have bought."

    def search(self, keywords: str) -> str:
        """Search the shop for products.

        Args:
            keywords: What to search for, in a few words.
        """
        return self._do(keywords, "search[{}]")

    def click(self, what: str) -> str:
        """Click something on the page.

        Args:
            what: A product, an option or a button, as the page calls it.
        """
        return self._do(what, "click[{}]")


class SQLTools(_Tools):
    """The database: `execute` and `submit`."""

    _world, _prompt = "sql", "You answer a question with a MySQL database. Call one tool a turn, until you submit."

    def execute(self, query: str) -> str:
        """Ask the database.

        Args:
            query: One MySQL query, in one line.
        """
        return self._do(query)

    def submit(self) -> str:
        """Submit what the last query gave as the answer."""
        return self._do("submit")


class HouseTools(_Tools):
    """The household: `act`."""

    _world, _prompt = "house", "You are a household robot. Call one tool a turn, until the task is done."

    def act(self, command: str) -> str:
        """Do something: go to, open, close, take ... from, put ... in/on, clean/heat/cool/slice ... with, use, examine, look, inventory.

        Args:
            command: What to do, with the names that the household uses.
        """
        return self._do(command)


TOOLS = {tools._world: tools for tools in (ShopTools, SQLTools, HouseTools)}
"""A class for each world; as it stands, an `environment_factory` for the three at once."""


def rows(tasks: Iterable[Task]) -> list[dict]:
    """Rows of a `train_dataset`: prompt (TRL adds the first observation), task (JSON), environment (the world's name)."""
    user = {"role": "user", "content": ""}
    said = {name: [{"role": "system", "content": tools._prompt}, user] for name, tools in TOOLS.items()}
    return [{"prompt": said[t.env], "task": json.dumps(t.to_record()), "environment": t.env} for t in tasks]
