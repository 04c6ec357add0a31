"""Read the files of the original repositories (IPR, ETO): `conversations` and preferences.

Both are JSON lists whose turns are `{"from": "human" | "gpt", "value": ...}` (FastChat's form).
Two habits of those files are translated: the first exchange (the instruction, answered with "OK")
is our system message, so that "OK" is not counted as an action; and a human turn after the last
action is kept as the last observation. Sources: `fastchat/train/train_dpo.py` and
`construct_preference*.py` of WeiminXiong/IPR and Yifan-Song793/ETO.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ipr_lite.jsonl import DataError, Message, Record, field_of, messages_of, number_of, rest_of
from ipr_lite.records import Pair
from ipr_lite.trajectory import Task, Trajectory

T = TypeVar("T")

_ROLES = {"human": "user", "gpt": "assistant"}
_INSTRUCTION = {
    "shop": re.compile(r"Instruction: \[SEP\] (.*?) \[SEP\]", re.S),
    "house": re.compile(r"Your task is to: (.*)", re.S),
}


def import_conversations(path: str | Path, env: str, split: str = "train") -> list[Trajectory]:
    """The expert trajectories of an SFT file: a JSON list of `{"id", "conversations", ...}`.

    The reward is the record's `reward` or `gpt_reward`. WebShop files carry one; the SQL and
    ALFWorld demonstrations were kept only if solved, so there an absent reward is 1, as in
    `construct_preference.py`. Fields such as `game_file` go into the task's setup.

    Raises DataError with file, record number, line, field and remedy.
    """

    def convert(record: Record) -> Trajectory:
        messages = _chat(record, "conversations")
        messages = messages_of({"conversations": messages}, "conversations", ("system", "user"), ("user", "assistant"))
        name = next((n for n in ("reward", "gpt_reward") if n in record), None)
        if name is None and env == "shop":
            raise DataError("field 'reward': missing; WebShop episodes end with a reward in [0, 1]: add it")
        reward = 1.0 if name is None else number_of(record, name)
        first = next((m["content"] for m in messages if m["role"] == "user"), "")
        found = _INSTRUCTION[env].search(first) if env in _INSTRUCTION else None
        task = Task(
            id=_identity(record),
            env=env,
            split=split,
            instruction=(found.group(1) if found else first).strip(),
            setup=rest_of(record, ("id", "conversations", "reward", "gpt_reward")),
        )
        return Trajectory(task, messages, reward, success=reward >= 1.0, agent="expert")

    return _convert_all(path, convert)


def import_preferences(path: str | Path) -> list[Pair]:
    """The pairs of a preference file: a JSON list of `{"id", "prompt", "chosen", "rejected"}`.

    `chosen` and `rejected` are lists of turns, or one turn. A prompt without an action makes an
    outcome pair, any other a step pair. These files hold no rewards: they are None.

    Raises DataError with file, record number, line, field and remedy.
    """

    def convert(record: Record) -> Pair:
        prompt = _chat(record, "prompt")
        step = 1 + sum(message["role"] == "assistant" for message in prompt)
        return Pair.from_record(
            {
                **rest_of(record, ()),
                "id": _identity(record),
                "prompt": prompt,
                "chosen": _chat(record, "chosen"),
                "rejected": _chat(record, "rejected"),
                "kind": "outcome" if step == 1 else "step",
                "step": step,
            }
        )

    return _convert_all(path, convert)


def _identity(record: Record) -> str:
    value = record.get("id", record.get("game_file"))
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError("field 'id': missing or not a text or number; give every record an id")
    return str(value)


def _chat(record: Record, name: str) -> list[Message]:
    """The turns of a field as messages with roles; whether they alternate is checked later."""
    value = record.get(name)
    turns = [value] if isinstance(value, dict) else field_of(record, name, list)
    messages = []
    for index, turn in enumerate(turns):
        place = f"field '{name}[{index}]'"
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise DataError(f'{place}: not a turn; write {{"from": "human" or "gpt", "value": text}}')
        if turn["from"] not in _ROLES:
            raise DataError(f"{place}: 'from' is {turn['from']!r}; it must be human or gpt")
        if not isinstance(turn["value"], str):
            raise DataError(f"{place}: 'value' is not a text; write the turn as a text")
        messages.append({"role": _ROLES[turn["from"]], "content": turn["value"]})
    roles = [message["role"] for message in messages[:3]]
    if roles == ["user", "assistant", "user"] and messages[1]["content"].strip().rstrip(".") == "OK":
        return [{"role": "system", "content": messages[0]["content"]}, *messages[2:]]
    return messages


def _convert_all(path: str | Path, convert: Callable[[Record], T]) -> list[T]:
    found = []
    for number, (line, record) in enumerate(_records_of_list(path), start=1):
        try:
            if not isinstance(record, dict):
                raise DataError("not an object; every record must be {...}")
            found.append(convert(record))
        except DataError as error:
            raise DataError(f"{path}, record {number} (line {line}): {error}") from None
    return found


def _records_of_list(path: str | Path) -> list[tuple[int, object]]:
    """The items of a JSON list, each with the line on which it begins."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,]*")
    if not text.lstrip().startswith("["):
        raise DataError(f"{path}: does not begin with '['; these files are one JSON list of records")
    found, line, seen = [], 1, 0
    position = gap.match(text, text.index("[") + 1).end()
    while position < len(text) and text[position] != "]":
        line, seen = line + text.count("\n", seen, position), position
        try:
            record, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, record {len(found) + 1} (line {error.lineno}, column {error.colno}): "
                f"not JSON ({error.msg}); download or write the file anew"
            ) from None
        found.append((line, record))
        position = gap.match(text, end).end()
    if position >= len(text):
        raise DataError(f"{path}: ends inside the list, after record {len(found)}; download the file anew")
    return found
