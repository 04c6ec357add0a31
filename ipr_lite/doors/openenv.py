"""OpenEnv: the worlds behind a server, a session for each connection, and copies of an episode over the wire.

A session is reset to a task by its name, to a drawn one, or to a copy of another session's episode, at the state that it
is in. Needs `openenv-core`, which `requirements-doors.txt` pins. Tested with 0.3.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import cache, partial
from threading import get_ident

from fastapi import FastAPI
from openenv.core.env_server import Action, Environment, Observation, State, create_app

from ipr_lite import envs
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.world import Data
from ipr_lite.records import Task


class Said(Action):
    """The agent's whole message, `Thought: ...` and `Action: ...`."""

    message: str


class Seen(Observation):
    """What the world answers; `reward` and `done` are OpenEnv's. The rest as in `TextEnv.step`."""

    text: str
    action: str | None = None
    invalid: bool = False
    success: bool = False
    terminated: bool = False
    truncated: bool = False


class Session(Environment[Said, Seen, State]):
    """An episode at a time, for one connection.

    opened(thread): the world, as this thread may use it. tasks: by name. live: the server's sessions, by their episode's name.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True
    # A database belongs to the thread that opened it, and copies are taken between two steps: one thread plays all.
    REQUIRES_SINGLE_THREAD_EXECUTOR = True

    def __init__(self, opened: Callable[[int], TextEnv], tasks: Mapping[str, Task], live: dict[str, Session]):
        super().__init__()
        self._env, self._tasks, self._live = opened(get_ident()).clone(), tasks, live
        self._name, self._seen, self._state = "", Seen(text=""), State()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, task: str | None = None, clone: str | None = None
    ) -> Seen:
        """Starts `task`, a name that /tasks lists, or one drawn with `seed`; or goes on from a copy of the episode `clone`.

        Raises ValueError for an unknown task or episode, and for an `episode_id` that another session plays.
        """
        name = episode_id or str(uuid.uuid4())
        if self._live.get(name, self) is not self:
            raise ValueError(f"episode_id {name!r} is played already; choose another, or none")
        if clone is None:
            seen, state = self._start(seed, task)
        elif task is None and clone in self._live:
            other = self._live[clone]
            self._env, seen, state = other._env.clone(), other._seen, other._state.model_copy()
        else:
            raise ValueError(
                f"clone {clone!r}, task {task!r}: give an episode_id that a session plays now, and no task"
            )
        self.close()
        self._name, self._seen, self._state = name, seen, state
        self._state.episode_id = name
        self._live[name] = self
        return seen

    def _start(self, seed: int | None, task: str | None) -> tuple[Seen, State]:
        if task is not None and task not in self._tasks:
            raise ValueError(f"no task {task!r}; GET /tasks/train, /tasks/dev and /tasks/test list them")
        text, info = self._env.reset(seed=seed, options={"task": self._tasks[task]} if task else None)
        told, (system, *_) = info["task"], self._env.messages(text, info["task"])
        facts = {"env": told.env, "task": told.id, "max_steps": self._env.max_steps}
        return Seen(text=text), State(**facts, system_prompt=system["content"])

    def step(self, action: Said, timeout_s: float | None = None) -> Seen:
        """Takes a whole message. Raises RuntimeError outside an episode."""
        text, reward, terminated, truncated, info = self._env.step(action.message)
        how = {"terminated": bool(terminated), "truncated": bool(truncated), "success": bool(info["success"])}
        how |= {"action": info["action"], "invalid": bool(info["invalid"])}
        self._seen = Seen(text=text, reward=float(reward), done=bool(terminated or truncated), **how)
        self._state.step_count += 1
        return self._seen

    @property
    def state(self) -> State:
        """`episode_id`, `step_count`, and after a reset also `env`, `task`, `system_prompt` and `max_steps`."""
        return self._state

    def close(self) -> None:
        """The episode can be copied no more."""
        self._live.pop(self._name, None)


def app(world: str = "all", data: Data = None, sessions: int = 64) -> FastAPI:
    """The server of a world; `all`: of the three. `sessions`: connections at once. Raises as `envs.make` does."""
    listed = {split: envs.tasks(world, split, data) for split in ("train", "dev", "test")}
    named = {task.id: task for split in listed.values() for task in split}
    opened = cache(lambda thread: envs.make(world, data))
    session = partial(Session, opened, named, {})
    server = create_app(session, Said, Seen, env_name=world, max_concurrent_envs=sessions)

    @server.get("/tasks/{split}")
    def tasks(split: str) -> list[dict[str, str]]:
        """Name, world and instruction of each task of a split; of an unknown split, none."""
        return [{"task": t.id, "env": t.env, "instruction": t.instruction} for t in listed.get(split, ())]

    return server
