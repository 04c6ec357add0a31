"""SkyRL: the worlds as a text environment of `skyrl_gym`, which importing this file registers as `ipr-lite`.

An environment is one episode: it is made for the task of a row, `init` gives the chat that an agent sees first, `step`
takes the agent's whole message. Needs `skyrl-gym`, which `requirements-doors.txt` pins. Tested with 0.4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from ipr_lite import envs
from ipr_lite.records import Message, Task, parse

NAME = "ipr-lite"
_made = cache(envs.make)
# SkyRL steps an environment from whichever thread is free; a database belongs to the thread that opened it.
_thread = ThreadPoolExecutor(1, "worlds")


def _alone(function: Callable, *arguments):
    """What a call gives, or raises, in the one thread that plays all worlds."""
    return _thread.submit(function, *arguments).result()


class Episode(BaseTextEnv):
    """An episode of the world that its task belongs to.

    env_config: may have `data`, a folder with the original's own files. extras: the other columns of a row of `rows`.
    """

    def __init__(self, env_config: Mapping | None = None, extras: Mapping | None = None):
        """Raises DataError where the column `task` holds no task."""
        super().__init__()
        record = parse((extras or {}).get("task", ""), dict, "fill the column task as ipr_lite.doors.skyrl.rows does")
        self._task = Task.from_record(record)
        self._env = _alone(lambda: _made(self._task.env, (env_config or {}).get("data")).clone())
        self.max_turns = self._env.max_steps
        self._metrics = {"success": 0.0, "invalid": 0.0}

    def init(self, prompt: list[Message]) -> tuple[list[Message], dict]:
        """Starts the task. Returns the chat that an agent sees first, whatever the row's prompt says, and the task's name."""
        observation, _ = _alone(lambda: self._env.reset(options={"task": self._task}))
        self.turns, self._metrics = 0, {"success": 0.0, "invalid": 0.0}
        return self._env.messages(observation, self._task), {"task": self._task.id}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Takes the agent's whole message. The reward is the outcome reward, once, at the end. Raises RuntimeError outside an episode."""
        observation, reward, terminated, truncated, info = _alone(self._env.step, action)
        self.turns += 1
        self._metrics["success"] = float(info["success"])
        self._metrics["invalid"] += float(info["invalid"])
        return BaseTextEnvStepOutput(
            observations=[{"role": "user", "content": observation}],
            reward=float(reward),
            done=bool(terminated or truncated),
            metadata={"terminated": bool(terminated), "truncated": bool(truncated), "action": info["action"]},
        )

    def get_metrics(self) -> dict[str, float]:
        """Of the episode so far: whether it is a success, and how many messages the world did not accept."""
        return dict(self._metrics)


skyrl_gym.register(id=NAME, entry_point="ipr_lite.doors.skyrl:Episode")


def rows(tasks: Iterable[Task]) -> list[dict]:
    """Rows of a dataset of SkyRL: prompt (the chat that an agent sees first), env_class, task (JSON)."""
    found = []
    for task in tasks:
        row = {"env_class": NAME, "task": json.dumps(task.to_record())}
        prompt, _ = Episode(extras=row).init([])
        found.append({"prompt": prompt, **row})
    return found
