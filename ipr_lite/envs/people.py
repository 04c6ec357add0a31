"""The demonstrators of a world: who they are, an episode of theirs, one of each task, and one to ask."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from ipr_lite.envs.base import TextEnv
from ipr_lite.records import Task, Trajectory

Habits = Any
"""A world's own; equal to a careful person's or not is all that is asked of them here."""


class Person(Protocol):
    """Somebody who reads what a world says and answers with a message."""

    def act(self, observation: str) -> str | None:
        """The next message; None: they leave."""

    def finishes(self, message: str) -> bool:
        """Would this message of theirs end the task?"""

    def look_again(self, observation: str) -> str:
        """What they say in its place if they do not want to finish yet."""

    def did(self, observation: str, action: str) -> None:
        """They read this, and somebody took this action in their place, whatever they would have done."""


@dataclass(frozen=True)
class People:
    """A world's demonstrators.

    person(task, env, habits, rng): one of them at the beginning of a task. careful, habitual: the habits of those
    who are the ceiling and of those who are cloned; others: of more sorts, by name. keep: a demonstration is kept if
    its reward is at least this. elsewhere(seed): (task, env, rng) without end, for the base model's corpus, whose people
    are mixed: for each habit, in order, the share of them who have it, and the most that it is then. finishes: how often
    one of them ends a task that they could end; else they look again, or leave.
    """

    person: Callable[[Task, TextEnv, Habits, random.Random], Person]
    careful: Habits
    habitual: Habits
    keep: float | None = 0.0
    others: Mapping[str, Habits] = field(default_factory=dict)
    elsewhere: Callable[[int], Iterator[tuple[Task, TextEnv, random.Random]]] | None = None
    mixed: Sequence[tuple[float, float]] = ()
    finishes: float = 0.15

    @property
    def sorts(self) -> dict[str, Habits]:
        """The habits of people to learn from, by name."""
        return {"habitual": self.habitual, "careful": self.careful, **self.others}

    def least(self, task: Task) -> float:
        """The least reward of a demonstration of this task that is kept."""
        return self.keep

    def demonstrate(self, task: Task, env: TextEnv, habits: Habits, rng: random.Random) -> Trajectory:
        """One whole episode of a person with these habits; the environment is left at its end."""
        return play(task, env, self.person(task, env, habits, rng))

    def guide(self, task: Task, env: TextEnv) -> Person:
        """A careful person to ask for a hint."""
        return self.person(task, env, self.careful, random.Random(task.id))

    def demonstrations(
        self, tasks: Sequence[Task], env: TextEnv, habits: Habits, seed: int, keep: float | None = None
    ) -> list[Trajectory]:
        """One demonstration for each task, less those under `keep` (None: `least`) in reward.

        Each has its own random numbers, from a hash of (seed, task id), so that no task's demonstration depends on
        the others.
        """
        agent = "careful" if habits == self.careful else "habitual"
        found = []
        for task in tasks:
            digest = hashlib.sha256(f"{seed}/{task.id}".encode()).digest()
            trajectory = self.demonstrate(task, env, habits, random.Random(int.from_bytes(digest[:8], "big")))
            trajectory.agent, trajectory.seed = agent, seed
            if trajectory.reward >= (self.least(task) if keep is None else keep):
                found.append(trajectory)
        return found

    def transcripts(self, n: int, seed: int) -> Iterator[Trajectory]:
        """`n` episodes of people of all sorts in generated worlds, for the base model's corpus.

        They know how to do it and hardly ever do: what is never seen could not be taught afterwards, and what
        is always seen would make of the base an agent that has nothing to learn.
        """
        for task, env, rng in islice(self.elsewhere(seed), n):
            person = Undecided(self.person(task, env, self._someone(rng), rng), self.finishes, rng)
            trajectory = play(task, env, person)
            trajectory.agent, trajectory.seed = "transcript", seed
            yield trajectory

    def _someone(self, rng: random.Random) -> Habits:
        if rng.random() < 0.3:
            return self.careful
        drawn = (rng.uniform(0, most) if share == 1 or rng.random() < share else 0.0 for share, most in self.mixed)
        return type(self.careful)(*drawn)


class Undecided:
    """Does as another person does, but ends a task in a share of the cases alone: else they look again, and in half of them
    leave after it, so that most of an episode is the way to its end."""

    def __init__(self, person: Person, finishes: float, rng: random.Random):
        self.person, self.share, self.rng, self.leaves = person, finishes, rng, False

    def act(self, observation: str) -> str | None:
        if self.leaves:
            return None
        message = self.person.act(observation)
        if not self.person.finishes(message) or self.rng.random() < self.share:
            return message
        self.leaves = self.rng.random() < 0.5
        return self.person.look_again(observation)


def play(task: Task, env: TextEnv, person: Person) -> Trajectory:
    """One episode of a person, to its end or until they leave; the environment is left there."""
    observation, _ = env.reset(options={"task": task})
    messages = env.messages(observation, task)
    over, reward, info = False, 0.0, {"success": False}
    while not over and (message := person.act(observation)) is not None:
        observation, reward, terminated, truncated, info = env.step(message)
        over = terminated or truncated
        messages.append({"role": "assistant", "content": message})
        if not over:
            messages.append({"role": "user", "content": observation})
    return Trajectory(task, messages, reward, info["success"], "demonstrator")
