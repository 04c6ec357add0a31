"""InterCode's and Spider's own files: databases and questions from a folder of the user's.

Two layouts: InterCode's, `ic_spider_*.json` beside `ic_spider_dbs.sql` (a MySQL dump) or beside
`catalogue.json` and `dbs/*.sqlite`; and Spider's, `train_spider.json` and `dev.json` beside
`database/NAME/NAME.sqlite`. Databases are read into memory with MySQL's comparison of texts.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.envs.sql.mysql.schema import Column, Schema
from ipr_lite.records import DataError, Task, read_json

DUMP = "ic_spider_dbs.sql"
TRAIN = ("ic_spider_train.json", "train_spider.json")
TEST = ("ic_spider_test.json", "ic_spider_dev.json", "dev.json")
# Where there is one file of questions only, InterCode's setting.
SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}


def load(folder: str | Path) -> tuple[dict[str, Database], dict[str, list[Task]]]:
    """The databases by name, and the questions by split (train, dev, test).

    Spider's and IPR's train file gives train and, a tenth of its questions, dev; their other file is
    test. Raises FileNotFoundError for what is missing, ValueError for what is broken; the message
    names the file, the record, the field and the remedy.
    """
    folder = Path(folder)
    databases = _databases(folder)
    files = [[path for name in names if (path := folder / name).is_file()] for names in (TRAIN, TEST)]
    if not any(files):
        raise FileNotFoundError(f"{folder}: no questions; wanted one of {', '.join(TRAIN + TEST)}")
    tasks: dict[str, list[Task]] = {split: [] for split in SHARES}
    shares = [{"train": 0.9, "dev": 0.1}, {"test": 1.0}] if all(files) else [SHARES, SHARES]
    for found, parts in zip(files, shares, strict=True):
        for task in _questions(found[0], parts, databases) if found else ():
            tasks[task.split].append(task)
    return databases, tasks


def _questions(path: Path, shares: dict[str, float], databases: dict[str, Database]) -> Iterator[Task]:
    records = read_json(path, list, "take the original file")
    for number, record in enumerate(records):
        where = f"{path.name}, record {number}"
        if not isinstance(record, dict):
            raise ValueError(f"{where}: wanted an object; take the original file")
        db = (
            _field(record, ("db", "db_id"), where) if "extra" not in record else _field(record["extra"], ("db",), where)
        )
        # Spider calls the question `question` and the gold query `query`; InterCode calls them `query` and `gold`.
        spider = "question" in record
        question = _field(record, ("question",) if spider else ("query",), where)
        gold = _field(record, ("query",) if spider else ("gold",), where)
        if db.lower() not in databases:
            raise ValueError(
                f"{where}, field db: no database {db!r} in the folder; put it there or take the record out"
            )
        setup = {"db": db.lower(), "gold": gold, **({"hardness": record["hardness"]} if "hardness" in record else {})}
        yield Task(f"{path.stem}-{number}", "sql", _split(f"{db}/{question}", shares), question, setup)


def _field(record: Any, names: Iterable[str], where: str) -> str:
    for name in names:
        if isinstance(record, dict) and isinstance(record.get(name), str) and record[name].strip():
            return record[name].strip()
    raise ValueError(f"{where}, field {' or '.join(names)}: wanted a text; take the original file")


def _split(key: str, shares: dict[str, float]) -> str:
    """A split drawn from a hash of the question, so that no other question changes it."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        place -= share
        if place < 0:
            return split
    return split


def _databases(folder: Path) -> dict[str, Database]:
    if (folder / "catalogue.json").is_file():
        catalogue = read_json(folder / "catalogue.json", dict, "copy it anew from where the databases came")
        try:
            schemas = {name: Schema.of_catalogue(name, tables) for name, tables in catalogue.items()}
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            where = f"{folder / 'catalogue.json'}: not as it was made ({type(error).__name__}: {error})"
            raise DataError(f"{where}; copy it anew from where the databases came") from None
        return {name: Database(folder / "dbs" / f"{name}.sqlite", schema) for name, schema in schemas.items()}
    if (folder / DUMP).is_file():
        try:
            text = (folder / DUMP).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{folder / DUMP}: not UTF-8 ({error}); take the original file, or save it as UTF-8"
            ) from None
        return {name: Database(data, name=name) for name, data in read_dump(text).items()}
    found = sorted((folder / "database").glob("*/*.sqlite"))
    if not found:
        raise FileNotFoundError(f"{folder}: no databases; wanted {DUMP}, or database/NAME/NAME.sqlite as in Spider")
    return {path.stem.lower(): Database(_as_mysql(path), name=path.stem.lower()) for path in found}


def _as_mysql(path: Path) -> bytes:
    """A SQLite database of Spider's, copied into memory with columns that compare as MySQL's do. Raises DataError."""
    source, target = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True), sqlite3.connect(":memory:")
    source.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        for table in Schema.of_sqlite(path.stem, source).tables:
            rows = source.execute(f"SELECT * FROM {_quoted(table.name)}")
            _fill(target, table.name, table.columns, table.keys, rows)
    except sqlite3.Error as error:
        raise DataError(f"{path}: not a whole SQLite database ({error}); take the original file") from None
    finally:
        source.close()
    return _serialized(str(path), target)


def _fill(target: sqlite3.Connection, name: str, columns: Iterable[Column], keys: tuple, rows: Iterable[tuple]) -> None:
    columns = list(columns)
    parts = [_declared(column) for column in columns]
    if keys:
        parts.append(f"PRIMARY KEY ({', '.join(map(_quoted, keys[0]))})")
    target.execute(f"CREATE TABLE {_quoted(name)} ({', '.join(parts)})")
    # Spider's data break their own keys here and there: the first row of a key stays, as in MySQL's import.
    marks = ", ".join("?" * len(columns))
    target.executemany(f"INSERT OR IGNORE INTO {_quoted(name)} VALUES ({marks})", rows)


def _declared(column: Column) -> str:
    """A column for CREATE TABLE, whose texts compare as MySQL's do."""
    collate = " COLLATE NOCASE" if column.kind == "text" else ""
    return f"{_quoted(column.name)} {column.type}{collate}{' NOT NULL' if column.null == 'NO' else ''}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _serialized(name: str, connection: sqlite3.Connection) -> bytes:
    connection.commit()
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise DataError(f"{name}: a database without tables; take the original file")
    data = connection.serialize()
    connection.close()
    return data


# --- a MySQL dump -----------------------------------------------------------------------------------

_USE = re.compile(r"USE `([^`]+)`")
_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?`([^`]+)` \((.*)\)[^)]*", re.DOTALL)
_COLUMN = re.compile(r"`([^`]+)` (\w+(?:\([^)]*\))?)(.*)")
_KEY = re.compile(r"(PRIMARY KEY|UNIQUE KEY|KEY|CONSTRAINT)[^(]*\(([^)]*)\)")
_INSERT = re.compile(r"INSERT INTO `([^`]+)`[^(]*?VALUES\s*(.*)", re.DOTALL)
_VALUE = re.compile(r"\s*(?:'((?:[^'\\]|\\.|'')*)'|(NULL)|([-+\w.]+))\s*([,)])", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "Z": "\x1a"}


def read_dump(text: str) -> dict[str, bytes]:
    """The databases of a `mysqldump` file, as SQLite databases by name.

    Raises DataError for a statement that is not read as mysqldump writes it; it names the line.
    """
    connections: dict[str, sqlite3.Connection] = {}
    current: sqlite3.Connection | None = None
    for line, statement in _statements(text):
        try:
            if found := _USE.match(statement):
                current = connections.setdefault(found.group(1).lower(), sqlite3.connect(":memory:"))
            elif statement.startswith(("CREATE TABLE", "INSERT")):
                _run(current, statement)
        except (sqlite3.Error, OverflowError, DataError) as error:
            raise DataError(f"{DUMP}, line {line}, {statement[:40]!r}: {error}; take the original file") from None
    return {name: _serialized(f"{DUMP}, {name}", connection) for name, connection in connections.items()}


def _run(current: sqlite3.Connection | None, statement: str) -> None:
    """A CREATE TABLE or INSERT of mysqldump's, done in SQLite."""
    if current is None:
        raise DataError("comes before any USE")
    if found := _TABLE.match(statement):
        _create(current, found.group(1), found.group(2))
    elif (found := _INSERT.match(statement)) and (rows := list(_rows(found.group(2)))):
        marks = ", ".join("?" * len(rows[0]))
        current.executemany(f"INSERT INTO {_quoted(found.group(1))} VALUES ({marks})", rows)
    else:
        raise DataError("is not as mysqldump writes it by default")


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Statements without comments, each with the line where it begins; a semicolon inside quotes ends none."""
    start, quoted, place, line = 0, False, 0, 1
    text = re.sub(r"^(?:--.*|/\*!.*?\*/;?)$", "", text, flags=re.MULTILINE)
    for found in re.finditer(r"\\.|'|;", text, re.DOTALL):
        place = found.end()
        if found.group() == "'":
            quoted = not quoted
        elif found.group() == ";" and not quoted:
            statement = text[start : place - 1]
            line += statement.count("\n", 0, len(statement) - len(statement.lstrip()))
            yield line, statement.strip()
            line += statement.lstrip().count("\n")
            start = place
    if rest := text[start:].strip():
        line += text.count("\n", start, text.index(rest, start))
        raise DataError(f"{DUMP}, line {line}: the file ends inside {rest[:40]!r}; it is cut: take the original file")


def _create(connection: sqlite3.Connection, table: str, body: str) -> None:
    parts, foreign = [], []
    for line in body.strip().splitlines():
        line = line.strip().rstrip(",")
        if found := _COLUMN.match(line):
            name, kind, rest = found.groups()
            parts.append(_declared(Column(name, kind, null="NO" if "NOT NULL" in rest else "YES")))
        elif found := _KEY.match(line):
            columns = ", ".join(_quoted(part.strip(" `").partition("`")[0]) for part in found.group(2).split(","))
            if found.group(1) == "PRIMARY KEY":
                parts.append(f"PRIMARY KEY ({columns})")
            elif found.group(1) == "UNIQUE KEY":
                parts.append(f"UNIQUE ({columns})")
            elif found.group(1) == "CONSTRAINT" and (other := re.search(r"REFERENCES `([^`]+)` \(`([^`]+)`", line)):
                foreign.append(
                    f"FOREIGN KEY ({columns}) REFERENCES {_quoted(other.group(1))} ({_quoted(other.group(2))})"
                )
    connection.execute(f"CREATE TABLE {_quoted(table)} ({', '.join(parts + foreign)})")


def _rows(text: str) -> Iterator[tuple]:
    """The tuples of `(1,'a'),(2,NULL)`."""
    row: list[object] = []
    place = text.find("(") + 1
    while place > 0:
        found = _VALUE.match(text, place)
        if not found:
            raise DataError(f"cannot read the values at {text[place : place + 40]!r}")
        quoted, null, bare, end = found.groups()
        if quoted is not None:
            row.append(
                re.sub(r"\\(.)|''", lambda e: _ESCAPES.get(e.group(1), e.group(1) or "'"), quoted, flags=re.DOTALL)
            )
        else:
            row.append(
                None if null else float(bare) if "." in bare else int(bare) if bare.lstrip("-").isdigit() else bare
            )
        place = found.end()
        if end == ")":
            yield tuple(row)
            row = []
            place = text.find("(", place) + 1
