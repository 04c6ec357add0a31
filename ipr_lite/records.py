"""What IPR learns from: the step rewards of a trajectory, and the pairs built from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
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
    rest_of,
    write_jsonl,
)


@dataclass
class StepReward:
    """How good one action was: `reward_mc`, the mean outcome of `n` rollouts after it (eq. 3-5).

    `id` is the task's, `step` the 1-based number t of the action, `who` is "expert" or "agent",
    `samples` the outcomes of the n rollouts, `outcome` the outcome reward of the episode that the
    action belongs to. Where the action ended the episode, `terminal` is true, `reward_mc` is the
    outcome itself and no rollout was made (n = 0).
    """

    id: str
    step: int
    action: str
    observation: str
    who: str
    reward_mc: float
    n: int
    samples: list[float]
    outcome: float
    terminal: bool
    extra: dict[str, Any] = field(default_factory=dict)

    def to_record(self) -> Record:
        return _to_record(self)

    @classmethod
    def from_record(cls, record: Record) -> StepReward:
        """Raises DataError that names the field and the remedy."""
        samples = field_of(record, "samples", list)
        for index in range(len(samples)):
            number_of({f"samples[{index}]": samples[index]}, f"samples[{index}]")
        found = cls(
            id=field_of(record, "id", str),
            step=_step(record),
            action=field_of(record, "action", str),
            observation=field_of(record, "observation", str),
            who=_one_of(record, "who", ("expert", "agent")),
            reward_mc=number_of(record, "reward_mc"),
            n=field_of(record, "n", int),
            samples=samples,
            outcome=number_of(record, "outcome"),
            terminal=field_of(record, "terminal", bool),
            extra=rest_of(record, _names(cls)),
        )
        if found.n != len(samples):
            raise DataError(f"field 'n': is {found.n} but there are {len(samples)} samples; correct one")
        return found


@dataclass
class Pair:
    """One preference in TRL's conversational format: after `prompt`, `chosen` beats `rejected`.

    `kind` is "outcome" (whole trajectories, step 1) or "step" (suffixes from step t >= 2). The
    rewards are the step rewards of the two actions at `step`, the outcomes those of the two
    episodes; None where a file of another project does not tell.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    kind: str
    id: str
    step: int
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    chosen_outcome: float | None = None
    rejected_outcome: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_record(self) -> Record:
        return _to_record(self)

    @classmethod
    def from_record(cls, record: Record) -> Pair:
        """Raises DataError that names the field and the remedy."""
        return cls(
            prompt=messages_of(record, "prompt", ("system", "user"), ("user",)),
            chosen=messages_of(record, "chosen", ("assistant",), ("assistant",)),
            rejected=messages_of(record, "rejected", ("assistant",), ("assistant",)),
            kind=_one_of(record, "kind", ("outcome", "step")),
            id=field_of(record, "id", str),
            step=_step(record),
            chosen_reward=number_of(record, "chosen_reward", optional=True),
            rejected_reward=number_of(record, "rejected_reward", optional=True),
            chosen_outcome=number_of(record, "chosen_outcome", optional=True),
            rejected_outcome=number_of(record, "rejected_outcome", optional=True),
            extra=rest_of(record, _names(cls)),
        )


def read_step_rewards(path: str | Path) -> list[StepReward]:
    """Raises DataError with file, line, field and remedy."""
    return read_as(path, StepReward.from_record)


def write_step_rewards(path: str | Path, step_rewards: Iterable[StepReward]) -> Path:
    return write_jsonl(path, (item.to_record() for item in step_rewards))


def read_pairs(path: str | Path) -> list[Pair]:
    """Raises DataError with file, line, field and remedy."""
    return read_as(path, Pair.from_record)


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> Path:
    return write_jsonl(path, (pair.to_record() for pair in pairs))


def _names(cls: type) -> list[str]:
    return [item.name for item in fields(cls) if item.name != "extra"]


def _to_record(item: StepReward | Pair) -> Record:
    own = {name: getattr(item, name) for name in _names(type(item))}
    return {**own, **item.extra, "schema": SCHEMA_VERSION}


def _step(record: Record) -> int:
    step = field_of(record, "step", int)
    if step < 1:
        raise DataError(f"field 'step': is {step}; steps are counted from 1")
    return step


def _one_of(record: Record, name: str, allowed: tuple[str, ...]) -> str:
    value = field_of(record, name, str)
    if value not in allowed:
        raise DataError(f"field '{name}': is {value!r}; it must be {' or '.join(allowed)}")
    return value
