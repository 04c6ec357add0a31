"""What an agent did, and how it is written down: Task, Step, Trajectory, JSON Lines.

A trajectory is kept as chat messages (system, user, assistant, user, ...), the format that TRL,
`datasets` and every chat template take as it is. A *step* is one assistant message (the action, a
ReAct message `Thought: ...\\nAction: ...`) and the user message that answers it (the observation).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipr_lite.jsonl import (
    SCHEMA_VERSION,
    DataError,
    Message,
    Record,
    field_of,
    messages_of,
    number_of,
    read_as,
    read_jsonl,
    rest_of,
    write_jsonl,
)

__all__ = [
    "SCHEMA_VERSION", "DataError", "Message", "Record", "Step", "Task", "Trajectory",
    "read_jsonl", "read_tasks", "read_trajectories", "write_jsonl", "write_tasks", "write_trajectories",
]  # fmt: skip


@dataclass(frozen=True)
class Task:
    """An instruction plus what the world needs to set it up.

    `setup` holds only JSON values; the environment that `env` names knows how to read them.
    `extra` keeps the fields of a record that this class does not know.
    """

    id: str
    env: str
    split: str
    instruction: str
    setup: dict[str, Any] = field(default_factory=dict, hash=False)
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    def to_record(self) -> Record:
        return {
            "id": self.id,
            "env": self.env,
            "split": self.split,
            "instruction": self.instruction,
            "setup": self.setup,
            **self.extra,
            "schema": SCHEMA_VERSION,
        }

    @classmethod
    def from_record(cls, record: Record) -> Task:
        """Raises DataError that names the field and the remedy."""
        return cls(
            id=field_of(record, "id", str),
            env=field_of(record, "env", str),
            split=field_of(record, "split", str),
            instruction=field_of(record, "instruction", str),
            setup=field_of(record, "setup", dict, {}),
            extra=rest_of(record, ("id", "env", "split", "instruction", "setup")),
        )


@dataclass
class Step:
    """One action of the agent and the observation that followed ("" after the last action)."""

    action: str
    observation: str


@dataclass
class Trajectory:
    """One episode, from the system message to the last action.

    `reward` is the outcome reward of the whole episode, `steps` the number of actions, `seed` the
    seed of whoever acted. `extra` keeps the fields of a record that this class does not know, so
    that reading and writing a file loses nothing.
    """

    task: Task
    messages: list[Message]
    reward: float
    success: bool
    agent: str
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.task.id

    @property
    def actions(self) -> list[str]:
        return [m["content"] for m in self.messages if m["role"] == "assistant"]

    @property
    def steps(self) -> int:
        return len(self.actions)

    def as_steps(self) -> list[Step]:
        """The steps in order, each an action with the observation that answered it."""
        answers = [*self.messages[1:], {"role": "user", "content": ""}]
        return [
            Step(message["content"], answer["content"])
            for message, answer in zip(self.messages, answers)
            if message["role"] == "assistant"
        ]

    def prefix(self, step: int) -> list[Message]:
        """The messages before action number `step` (1-based, as t in the paper): e_{t-1}."""
        if not 1 <= step <= self.steps:
            raise ValueError(f"trajectory {self.id} has steps 1 to {self.steps}, not {step}")
        return self.messages[: self._position(step)]

    def suffix(self, step: int) -> list[Message]:
        """The messages from action number `step` (1-based) to the end: e_{t:n}."""
        return self.messages[len(self.prefix(step)) :]

    def _position(self, step: int) -> int:
        positions = [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]
        return positions[step - 1]

    def to_record(self) -> Record:
        task = self.task.to_record()
        head = {key: task.pop(key) for key in ("id", "env", "split")}
        del task["schema"]
        return {
            **head,
            "task": task,
            "messages": self.messages,
            "reward": self.reward,
            "steps": self.steps,
            "success": self.success,
            "agent": self.agent,
            "seed": self.seed,
            **self.extra,
            "schema": SCHEMA_VERSION,
        }

    @classmethod
    def from_record(cls, record: Record) -> Trajectory:
        """Raises DataError that names the field and the remedy."""
        head = {key: field_of(record, key, str) for key in ("id", "env", "split")}
        try:
            task = Task.from_record({**field_of(record, "task", dict), **head})
        except DataError as error:
            raise DataError(str(error).replace("field '", "field 'task.", 1)) from None
        trajectory = cls(
            task=task,
            messages=messages_of(record, "messages", ("system", "user"), ("user", "assistant")),
            reward=number_of(record, "reward"),
            success=field_of(record, "success", bool),
            agent=field_of(record, "agent", str),
            seed=field_of(record, "seed", int, 0),
            extra=rest_of(record, _TRAJECTORY_FIELDS),
        )
        if field_of(record, "steps", int, trajectory.steps) != trajectory.steps:
            raise DataError(
                f"field 'steps': is {record['steps']} but the messages hold {trajectory.steps} "
                "assistant turns; correct the messages or remove the field"
            )
        return trajectory


_TRAJECTORY_FIELDS = (
    "id", "env", "split", "task", "messages", "reward", "steps", "success", "agent", "seed",
)  # fmt: skip


def read_trajectories(path: str | Path) -> list[Trajectory]:
    """Raises DataError with file, line, field and remedy."""
    return read_as(path, Trajectory.from_record)


def write_trajectories(path: str | Path, trajectories: Iterable[Trajectory]) -> Path:
    return write_jsonl(path, (trajectory.to_record() for trajectory in trajectories))


def read_tasks(path: str | Path) -> list[Task]:
    """Raises DataError with file, line, field and remedy."""
    return read_as(path, Task.from_record)


def write_tasks(path: str | Path, tasks: Iterable[Task]) -> Path:
    return write_jsonl(path, (task.to_record() for task in tasks))
