"""Read the SFT files of the original repositories (IPR, ETO): JSON lists of `conversations` in FastChat's form.

Turns are `{"from": "human" | "gpt", "value": ...}`. Two habits of those files are translated: the first exchange (the
instruction, answered with "OK") is our system message, so that "OK" is not counted as an action; and a human turn after
the last action is kept as the last observation. Source: `construct_preference*.py` of WeiminXiong/IPR and
Yifan-Song793/ETO.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, TypeAdapter

from ipr_lite.envs import world
from ipr_lite.records import DataError, Message, Task, Trajectory, checked, parse, read_text


class _Turn(BaseModel):
    who: Literal["human", "gpt"] = Field(alias="from")
    value: str


def _alternate(turns: list[_Turn]) -> list[_Turn]:
    for index, turn in enumerate(turns):
        if turn.who != ("human", "gpt")[index % 2]:
            raise ValueError(f"[{index}] is from {turn.who}; turns alternate, human first: correct it")
    if not turns:
        raise ValueError("holds no turn; take the record out")
    return turns


class _Outcome(BaseModel):
    reward: Annotated[float, Field(strict=True, ge=0, le=1)] = None
    gpt_reward: Annotated[float, Field(strict=True, ge=0, le=1)] = None
    success: StrictBool = None


class _Conversation(_Outcome):
    model_config = ConfigDict(extra="allow")
    id: Any = None
    conversations: Annotated[list[_Turn], AfterValidator(_alternate)]
    meta: _Outcome = _Outcome()


_CONVERSATION = TypeAdapter(_Conversation)


def import_conversations(path: str | Path, env: str, split: str = "train") -> list[Trajectory]:
    """The trajectories of an SFT file: a JSON list of `{"id", "conversations", ...}`.

    The reward is the record's `reward`, `gpt_reward` or `success`, or that of its `meta`. WebShop files carry one; the SQL and
    ALFWorld demonstrations were kept only if solved, so there an absent reward is 1, as in `construct_preference.py`.
    Fields such as `game_file` go into the task's setup.

    Raises DataError with file, record number, line, field and remedy.
    """
    text, found = read_text(path), []
    try:
        records = parse(text, list, "these files are one JSON list of records: download or write the file anew")
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    for number, record in enumerate(records):
        try:
            found.append(_trajectory(record, env, split))
        except DataError as error:
            raise DataError(f"{path}, record {number + 1} (line {_line_of(text, number)}): {error}") from None
    return found


def _trajectory(record: Any, env: str, split: str) -> Trajectory:
    read = checked(_CONVERSATION, record)
    name = read.model_extra.get("game_file") if read.id is None else read.id
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise DataError("field 'id': missing or not a text or number; give every record an id")
    told = [getattr(part, field) for part in (read, read.meta) for field in _Outcome.model_fields]
    reward = next((float(value) for value in told if value is not None), None if env == "shop" else 1.0)
    if reward is None:
        raise DataError("field 'reward': missing; WebShop episodes end with a reward in [0, 1]: add it")
    messages = _messages(read.conversations)
    first = next(m["content"] for m in messages if m["role"] == "user")
    pattern = world(env).instruction
    asked = re.search(pattern, first, re.S) if pattern else None
    task = Task(str(name), env, split, (asked.group(1) if asked else first).strip(), read.model_extra)
    return Trajectory(task, messages, reward, reward >= 1.0, "demonstrator")


def _messages(turns: list[_Turn]) -> list[Message]:
    roles = {"human": "user", "gpt": "assistant"}
    messages = [{"role": roles[turn.who], "content": turn.value} for turn in turns]
    begin = [message["role"] for message in messages[:3]]
    if begin == ["user", "assistant", "user"] and messages[1]["content"].strip().rstrip(".") == "OK":
        return [{"role": "system", "content": messages[0]["content"]}, *messages[2:]]
    return messages


def _line_of(text: str, number: int) -> int:
    """The line on which a record of a JSON list begins, counted from 1; `number` is counted from 0."""
    decoder, gap, place = json.JSONDecoder(), re.compile(r"[\s,]*"), text.index("[") + 1
    for _ in range(number):
        place = decoder.raw_decode(text, gap.match(text, place).end())[1]
    return 1 + text.count("\n", 0, gap.match(text, place).end())
