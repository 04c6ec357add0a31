"""Files of records: UTF-8 JSON Lines, written whole or not at all, read with errors that help.

A record is one line, one JSON object. `DataError` names the file, the line, the field, what is
wrong and the remedy, in one line, so that a wrong file never changes anything silently.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

SCHEMA_VERSION = 1

Message = dict[str, str]
Record = dict[str, Any]
T = TypeVar("T")


class DataError(ValueError):
    """A file or record that cannot be used; the message is one line and ends with the remedy."""


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write `content` aside, then rename it to `path`: a reader sees the old file or the new one.

    A text is UTF-8 with LF on every system, so that equal content has equal bytes. Folders are made.
    """
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
    """Write one record per line. Raises DataError on a value that JSON cannot hold (NaN, objects)."""
    lines = []
    for number, record in enumerate(records, start=1):
        try:
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}, record {number}: {error}; nothing was written: "
                "use finite numbers, texts, lists and dicts only"
            ) from None
    return write_whole(path, "".join(lines))


def read_jsonl(path: str | Path) -> list[Record]:
    """The records of a JSON Lines file; empty lines are passed over. Raises DataError."""
    return read_as(path, lambda record: record)


def read_json(path: str | Path, kind: type[T], remedy: str) -> T:
    """What a file of one JSON value holds, a `kind` (list or dict). Raises DataError, which ends with `remedy`."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); {remedy}") from None
    if not isinstance(content, kind):
        found = type(content).__name__
        raise DataError(f"{path}: expected a JSON {'list' if kind is list else 'object'}, found {found}; {remedy}")
    return content


def read_as(path: str | Path, from_record: Callable[[Record], T]) -> list[T]:
    """Read a JSON Lines file, each record turned into an object by `from_record`.

    A DataError of `from_record` is given its place (file and line) on the way out.
    """
    found: list[T] = []
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(_decoded(handle, path), start=1):
            if not line.strip():
                continue
            try:
                found.append(from_record(_parse(line)))
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
    return found


def _decoded(handle: Iterable[str], path: str | Path) -> Iterable[str]:
    try:
        yield from handle
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _parse(line: str) -> Record:
    try:
        record = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON ({error.msg}, column {error.colno}); "
            "every line must be one whole JSON object: correct or remove the line"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"a {type(record).__name__} where a JSON object is needed; write one record {{...}} per line")
    check_schema(record)
    return record


def _no_constant(name: str) -> float:
    raise DataError(f"holds {name}, which JSON does not know; write a finite number or null")


def check_schema(record: Record) -> None:
    """Raises DataError when the record was written by a later version of the format."""
    version = record.get("schema", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise DataError(
            f"field 'schema': is {version!r}, this program reads {SCHEMA_VERSION}; "
            "update ipr_lite or write the file anew"
        )


_MISSING = object()
_NAMES = {str: "a text", bool: "true or false", int: "a whole number", dict: "an object", list: "a list"}


def field_of(record: Record, name: str, kind: type, default: Any = _MISSING) -> Any:
    """The value of a field, of the type asked for; `default` where the field is absent."""
    if name not in record:
        if default is _MISSING:
            raise DataError(f"field '{name}': missing; add {_NAMES[kind]}")
        return default
    value = record[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"field '{name}': {_short(value)} where {_NAMES[kind]} is needed; correct it")
    return value


def number_of(record: Record, name: str, optional: bool = False) -> float | None:
    """The value of a field as a finite float; None only where `optional` and null or absent."""
    value = record.get(name)
    if value is None and optional:
        return None
    if name not in record:
        raise DataError(f"field '{name}': missing; add a finite number")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"field '{name}': {_short(value)} where a finite number is needed; correct it")
    return float(value)


def messages_of(record: Record, name: str, first: tuple[str, ...], last: tuple[str, ...]) -> list[Message]:
    """The chat in a field: its roles alternate (system?, user, assistant, user, ...).

    `first` and `last` are the roles that it may begin and end with.
    """
    messages = field_of(record, name, list)
    follows = {"system": "user", "user": "assistant", "assistant": "user"}
    expected = first
    for index, message in enumerate(messages):
        place = f"field '{name}[{index}]'"
        if not isinstance(message, dict):
            raise DataError(f"{place}: {_short(message)} where {{role, content}} is needed; correct it")
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            raise DataError(f"{place}: content is {_short(content)}; write the message as a text")
        if role not in expected:
            raise DataError(
                f"{place}: role {_short(role)} where {' or '.join(expected)} is due; "
                "roles must alternate: system (optional), user, assistant, user, ..."
            )
        expected = (follows[role],)
    if not messages or messages[-1]["role"] not in last:
        ends = repr(messages[-1]["role"]) if messages else "nothing"
        raise DataError(f"field '{name}': ends with {ends}; the last message must be from {' or '.join(last)}")
    return messages


def rest_of(record: Record, known: Iterable[str]) -> Record:
    """The fields that a class does not know; it keeps them, so that a round trip loses nothing."""
    known = {*known, "schema"}
    return {key: value for key, value in record.items() if key not in known}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
