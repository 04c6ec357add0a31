"""What demonstrators of every world share: an episode from beginning to end, and one of each task."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from ipr_lite.envs.base import TextEnv
from ipr_lite.trajectory import Task, Trajectory


class Person(Protocol):
    """Somebody who reads what a world says and answers with a message."""

    def act(self, observation: str) -> str:
        """The next message."""

    def did(self, action: str) -> None:
        """Somebody took this action in their place, whatever they would have done."""


def play(task: Task, env: TextEnv, person: Person) -> Trajectory:
    """One whole episode of a person; the environment is left at its end."""
    observation, _ = env.reset(options={"task": task})
    messages = env.messages(observation, task)
    over, reward, info = False, 0.0, {}
    while not over:
        message = person.act(observation)
        observation, reward, terminated, truncated, info = env.step(message)
        over = terminated or truncated
        messages.append({"role": "assistant", "content": message})
        if not over:
            messages.append({"role": "user", "content": observation})
    return Trajectory(task, messages, reward, info["success"], "expert")


def one_each(
    demonstrate: Callable[..., Trajectory], tasks: Sequence[Task], env: TextEnv, habits: object, seed: int, keep: float
) -> list[Trajectory]:
    """One demonstration for each task, `demonstrate(task, env, habits, rng)`, less those under `keep` in reward.

    Habits at their defaults are a careful person's.

    Each has its own random numbers, from a hash of (seed, task id), so that no task's demonstration
    depends on the others.
    """
    agent = "expert-careful" if habits == type(habits)() else "expert-habitual"
    found = []
    for task in tasks:
        digest = hashlib.sha256(f"{seed}/{task.id}".encode()).digest()
        trajectory = demonstrate(task, env, habits, random.Random(int.from_bytes(digest[:8], "big")))
        trajectory.agent, trajectory.seed = agent, seed
        if trajectory.reward >= keep:
            found.append(trajectory)
    return found
