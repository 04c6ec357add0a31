"""What is written down, a JSON object a line: tasks, trajectories, step rewards, pairs; and how it is read again.

A trajectory is kept as chat messages (system, user, assistant, user, ...), the format that TRL, `datasets` and every
chat template take as it is. Files are UTF-8, each an atomic write. `DataError` names file, line, field and
remedy, so that a wrong file never changes anything silently.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import reprlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

SCHEMA_VERSION = 1

Message = dict[str, str]
Record = dict[str, Any]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
StepNumber = Annotated[int, Field(strict=True, ge=1)]
T = TypeVar("T")


class DataError(ValueError):
    """A file or record that cannot be used; the message is one line and ends with the remedy."""


def _chat(first: tuple[str, ...], last: tuple[str, ...]) -> Any:
    """A chat whose roles alternate: it begins with a role of `first` and ends with one of `last`."""
    follows = {"system": ("user",), "user": ("assistant",), "assistant": ("user",)}

    def alternates(messages: list[Message]) -> list[Message]:
        due, role = first, "nothing"
        for index, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in due or not isinstance(content, str):
                wanted = f"{{role: {' or '.join(due)}, content: a text}}"
                raise ValueError(f"[{index}] is {reprlib.repr(message)} where {wanted} is due; correct it")
            due = follows[role]
        if role not in last:
            raise ValueError(f"ends with {role}; the last message must be from {' or '.join(last)}")
        return messages

    return Annotated[list[dict[str, Any]], AfterValidator(alternates)]


class Entry:
    """What every kind of record shares; its `extra` keeps the fields that its class does not know."""

    def to_record(self) -> Record:
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "extra"}
        return {**own, **self.extra, "schema": SCHEMA_VERSION}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Raises DataError that names the field and the remedy."""
        return checked(_adapter(cls), cls._parts(record))

    @classmethod
    def _parts(cls, record: Record) -> Record:
        own = cls.__dataclass_fields__.keys() - {"extra"}
        rest = {key: value for key, value in record.items() if key not in own and key != "schema"}
        return {**{key: value for key, value in record.items() if key in own}, "extra": rest}


@dataclass(frozen=True)
class Task(Entry):
    """An instruction plus what the world needs to set it up.

    `setup` holds only JSON values; the environment that `env` names knows how to read them.
    """

    id: str
    env: str
    split: str
    instruction: str
    setup: dict[str, Any] = field(default_factory=dict, hash=False)
    extra: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass
class Step:
    """One action of the agent and the observation that followed ("" after the last action)."""

    action: str
    observation: str


@dataclass
class Trajectory(Entry):
    """One episode, from the system message to the last action.

    A *step* is one assistant message (the action, a ReAct message `Thought: ...\\nAction: ...`) and the user message
    that answers it (the observation). `reward` is the outcome reward of the whole episode, `seed` the seed of whoever
    acted. `demonstration` tells apart the demonstrations of one task, where there are several: see `key`.
    """

    task: Task
    messages: _chat(("system", "user"), ("user", "assistant"))
    reward: Number
    success: StrictBool
    agent: str
    seed: StrictInt = 0
    extra: dict[str, Any] = field(default_factory=dict)
    demonstration: str = ""

    @property
    def id(self) -> str:
        return self.task.id

    @property
    def key(self) -> str:
        """What no other demonstration has: the task's id, unless the task was demonstrated more than once."""
        return self.demonstration or self.id

    @property
    def actions(self) -> list[str]:
        return [m["content"] for m in self.messages if m["role"] == "assistant"]

    @property
    def steps(self) -> int:
        """The number of actions."""
        return len(self.actions)

    def as_steps(self) -> list[Step]:
        """The steps in order, each an action with the observation that answered it."""
        both = pairwise([*self.messages, {"content": ""}])
        return [Step(act["content"], answer["content"]) for act, answer in both if act["role"] == "assistant"]

    def prefix(self, step: int) -> list[Message]:
        """The messages before action number `step` (1-based, as t in the paper): e_{t-1}."""
        if not 1 <= step <= self.steps:
            raise ValueError(f"trajectory {self.id} has steps 1 to {self.steps}, not {step}")
        return self.messages[: [i for i, m in enumerate(self.messages) if m["role"] == "assistant"][step - 1]]

    def suffix(self, step: int) -> list[Message]:
        """The messages from action number `step` (1-based) to the end: e_{t:n}."""
        return self.messages[len(self.prefix(step)) :]

    def to_record(self) -> Record:
        """The task's id, env and split stand first; its other fields stay together."""
        task = self.task.to_record()
        head = {key: task.pop(key) for key in ("id", "env", "split")}
        del task["schema"]
        own = {"reward": self.reward, "steps": self.steps, "success": self.success, "agent": self.agent}
        told = {"demonstration": self.demonstration} if self.demonstration else {}
        chat = {"task": task, "messages": self.messages}
        return {**head, **chat, **own, "seed": self.seed, **told, **self.extra, "schema": SCHEMA_VERSION}

    @classmethod
    def _parts(cls, record: Record) -> Record:
        parts = super()._parts(record)
        rest = parts["extra"]
        head = {key: rest.pop(key) for key in ("id", "env", "split") if key in rest}
        if isinstance(parts.get("task"), dict):
            parts["task"] = Task._parts(parts["task"] | head)
        return parts

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.extra.pop("steps", self.steps) != self.steps:
            raise ValueError(f"field 'steps': the messages hold {self.steps} assistant turns; correct or remove it")
        return self


@dataclass
class StepReward(Entry):
    """How good one action was: `reward_mc`, the mean outcome of `n` rollouts after it (eq. 3-5).

    `id` is the demonstration's key, `step` the 1-based number t of the action, `samples` the outcomes of the n rollouts, `outcome`
    the outcome reward of the episode that the action belongs to. Where the action ended the episode, `terminal` is
    true, `reward_mc` is the outcome itself and no rollout was made (n = 0).
    """

    id: str
    step: StepNumber
    action: str
    observation: str
    who: Annotated[
        Literal["demonstrator", "agent"], BeforeValidator(lambda who: "demonstrator" if who == "expert" else who)
    ]
    reward_mc: Number
    n: StrictInt
    samples: list[Number]
    outcome: Number
    terminal: StrictBool
    extra: dict[str, Any] = field(default_factory=dict)

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.n != len(self.samples):
            raise ValueError(f"field 'n': is {self.n} but there are {len(self.samples)} samples; correct one")
        return self


@dataclass
class Pair(Entry):
    """One preference in TRL's conversational format: after `prompt`, `chosen` beats `rejected`.

    `kind` is "outcome" (whole trajectories, step 1) or "step" (suffixes from a step t >= `step_pairs_from`). The
    rewards are the step rewards of the two actions at `step`, the outcomes those of the two episodes.
    """

    prompt: _chat(("system", "user"), ("user",))
    chosen: _chat(("assistant",), ("assistant",))
    rejected: _chat(("assistant",), ("assistant",))
    kind: Literal["outcome", "step"]
    id: str
    step: StepNumber
    chosen_reward: Number | None = None
    rejected_reward: Number | None = None
    chosen_outcome: Number | None = None
    rejected_outcome: Number | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @model_validator(mode="after")
    def _prefers(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError("field 'rejected': equal to 'chosen', so that nothing is preferred; remove the pair")
        return self


def read_tasks(path: str | Path) -> list[Task]:
    """Raises DataError with file, line, field and remedy; so do the three below."""
    return read_as(path, Task.from_record)


def read_trajectories(path: str | Path) -> list[Trajectory]:
    return read_as(path, Trajectory.from_record)


def read_step_rewards(path: str | Path) -> list[StepReward]:
    return read_as(path, StepReward.from_record)


def read_pairs(path: str | Path) -> list[Pair]:
    return read_as(path, Pair.from_record)


def write_records(path: str | Path, entries: Iterable[Entry]) -> Path:
    return write_jsonl(path, (entry.to_record() for entry in entries))


write_tasks = write_trajectories = write_step_rewards = write_pairs = write_records


_adapter = cache(TypeAdapter)


def checked(adapter: TypeAdapter[T], value: Any) -> T:
    """`value` as pydantic reads it. Raises DataError that names the first field that is wrong, and the remedy."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in wrong["loc"])[1:]
    name = re.sub(r"^task\.(?=(id|env|split)$)", "", name)  # in a trajectory's record they stand beside the task
    told = {"missing": "missing; add it", "value_error": wrong["msg"].removeprefix("Value error, ")}
    what = told.get(wrong["type"], f"{wrong['msg']}, not {reprlib.repr(wrong['input'])}; correct it")
    raise DataError(f"field '{name}': {what}" if name else what)


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Atomic write: aside, then renamed to `path`. A reader sees the old file or the new one. Folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def write_jsonl(path: str | Path, records: Iterable[Record]) -> Path:
    """Write one record per line. Raises DataError on what a file cannot hold (NaN, objects, half a character)."""
    lines = []
    for number, record in enumerate(records, start=1):
        try:
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except (TypeError, ValueError, RecursionError) as error:
            remedy = "nothing was written: use finite numbers, texts, lists and dicts only"
            raise DataError(f"{path}, record {number}: {error}; {remedy}") from None
    return write_atomically(path, b"".join(lines))


def read_jsonl(path: str | Path) -> list[Record]:
    """The records of a JSON Lines file; empty lines are passed over. Raises DataError."""
    return read_as(path, dict)


def read_as(path: str | Path, from_record: Callable[[Record], T]) -> list[T]:
    """Each record of a JSON Lines file, turned into an object by `from_record`. Raises DataError with file and line."""
    found: list[T] = []
    for number, line in lines_of(path):
        try:
            if line.strip():
                record = parse(line, dict, "every line must be one whole JSON object: correct or remove the line")
                if (version := record.get("schema", SCHEMA_VERSION)) != SCHEMA_VERSION:
                    raise DataError(f"field 'schema': is {version!r}, not {SCHEMA_VERSION}; update ipr_lite")
                found.append(from_record(record))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    return found


def read_json(path: str | Path, kind: type[T], remedy: str) -> T:
    """What a file of one JSON value holds, a `kind` (list or dict). Raises DataError, which ends with `remedy`."""
    text = read_text(path)
    try:
        return parse(text, kind, remedy)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_text(path: str | Path) -> str:
    return "".join(line for _, line in lines_of(path))


def lines_of(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, from 1 on; its name ends in .gz where it is gzipped. Raises DataError."""
    number = 0
    try:
        with (gzip.open if Path(path).suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}, after line {number}: not a whole gzip file ({error}); get the file anew") from None


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"holds {text[:20]}, which is no finite number")
    return value


_JSON = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: str, kind: type[T], remedy: str) -> T:
    """The JSON value of a text, a `kind`. Raises DataError, which ends with `remedy`, for all that cannot be kept."""
    try:
        value = _JSON.decode(text)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # no JSON, NaN, half a character, thousands of digits or levels
        what = str(error).partition(";")[0].replace("line 1 ", "")
        raise DataError(f"not valid JSON ({what}); {remedy}") from None
    if not isinstance(value, kind):
        wanted = "list" if kind is list else "object"
        raise DataError(f"a {type(value).__name__} where a JSON {wanted} is needed; {remedy}")
    return value
