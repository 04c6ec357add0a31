"""Runs SQL that a model wrote: reads only, and within bounds, whatever it says.

Four walls, each enough for what it stops: the file is opened read-only; an authorizer allows nothing
but reading and a list of harmless functions; SQLite's own limits bound texts, depth and width; a budget of
virtual-machine steps, rows and bytes ends what would not end. The budget counts steps and not
seconds, so that the same query ends the same way on every machine; a clock and a look at the process's
memory are there as a last resort. SQLite looks at no budget while it compiles: how large a query becomes
there is bounded by `names.py`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ipr_lite.envs.sql.mysql.schema import Schema, Table
from ipr_lite.records import DataError

# What an answer can need. Others load code, touch files, or make much out of nothing in one step, in
# which no budget is looked at: `printf('%.*c', 1000000000, 'x')` takes seconds before it is too long.
FUNCTIONS = frozenset(
    """abs avg ceil ceiling char coalesce concat concat_ws count cume_dist current_date current_time current_timestamp
    date datetime dense_rank exp first_value floor glob group_concat hex ifnull iif instr julianday lag last_value lead
    length like ln log lower ltrim max min mod nth_value ntile nullif percent_rank pow power quote rank replace round
    row_number rtrim sign sqrt strftime string_agg substr substring sum time total trim trunc typeof unicode
    unixepoch upper""".split()
)
_ALLOWED = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION))
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 200_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 30,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_CHECK_EVERY = 1_000


class QueryError(Exception):
    """The query was refused, is wrong, or went over a bound; the message says which."""


class GuardedDatabase:
    """A SQLite file, or the bytes of one, that can be asked, and nothing else.

    steps: virtual-machine instructions of one query. rows, size: of one result, the size in
    characters or bytes. seconds, heap: the last resort, of one query, the heap in bytes. Raises
    FileNotFoundError, DataError for what is no SQLite database.
    """

    def __init__(
        self,
        path: str | Path | bytes,
        steps: int = 2_000_000,
        rows: int = 5_000,
        size: int = 500_000,
        seconds: float = 0.8,
        heap: int = 100_000_000,
    ):
        self.steps, self.rows, self.size, self.seconds, self.heap = steps, rows, size, seconds, heap
        self._connection = _open(path)
        for limit, value in _LIMITS.items():
            self._connection.setlimit(limit, value)
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute("PRAGMA cell_size_check = ON")
        self._connection.set_authorizer(_authorize)
        self._connection.set_progress_handler(self._tick, _CHECK_EVERY)
        self._left, self._deadline, self._most = 0, 0.0, 0

    def execute(self, query: str) -> list[tuple]:
        """The rows of one SELECT. Raises QueryError, and nothing else, for whatever is wrong."""
        self._left = self.steps // _CHECK_EVERY
        self._deadline = time.monotonic() + self.seconds
        self._process = psutil.Process()  # the one that asks: a worker may have been forked since
        self._most = self._process.memory_info().rss + self.heap
        try:
            cursor = self._connection.execute(query)
            try:
                return self._fetch(cursor)
            finally:
                cursor.close()
        except sqlite3.OperationalError as error:
            if str(error) == "interrupted":
                raise QueryError("the query takes too long") from None
            raise QueryError(str(error)) from None
        except (sqlite3.Error, sqlite3.Warning, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise QueryError(str(error) or type(error).__name__) from None

    def attach(self, name: str, tables: Iterable[tuple[Table, list[tuple]]]) -> None:
        """Puts tables with their rows beside those of the file, in memory, as another database."""
        with self._unguarded() as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
            connection.execute("PRAGMA query_only = OFF")
            connection.execute(f"ATTACH ':memory:' AS {name}")
            for table, rows in tables:
                columns = ", ".join(f"{c.name} {c.type} COLLATE NOCASE" for c in table.columns)
                connection.execute(f"CREATE TABLE {name}.{table.name} ({columns})")
                marks = ", ".join("?" * len(table.columns))
                connection.executemany(f"INSERT INTO {name}.{table.name} VALUES ({marks})", rows)
            connection.execute("PRAGMA query_only = ON")
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)

    def schema(self, name: str) -> Schema:
        """The tables and columns, read off the file."""
        with self._unguarded() as connection:
            return Schema.of_sqlite(name, connection)

    def holds(self, table: str, column: str, pattern: str) -> bool:
        """Does any text of a column match the LIKE pattern? For our own questions: without a budget."""
        table, column = (name.replace('"', '""') for name in (table, column))
        with self._unguarded() as connection:
            query = f'SELECT 1 FROM "{table}" WHERE "{column}" LIKE ? LIMIT 1'
            return connection.execute(query, (pattern,)).fetchone() is not None

    @contextmanager
    def _unguarded(self) -> Iterator[sqlite3.Connection]:
        self._connection.set_authorizer(None)
        self._connection.set_progress_handler(None, 0)
        try:
            yield self._connection
        finally:
            self._connection.set_authorizer(_authorize)
            self._connection.set_progress_handler(self._tick, _CHECK_EVERY)

    def close(self) -> None:
        self._connection.close()

    def _fetch(self, cursor: sqlite3.Cursor) -> list[tuple]:
        found, size = [], 0
        for row in cursor:
            found.append(row)
            size += sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)
            if len(found) > self.rows or size > self.size:
                raise QueryError("the result is too large")
        return found

    def _tick(self) -> int:
        self._left -= 1
        if self._left % 4 == 0 and self._process.memory_info().rss > self._most:
            return 1
        return int(self._left < 0 or time.monotonic() > self._deadline)


def _open(path: str | Path | bytes) -> sqlite3.Connection:
    if isinstance(path, bytes):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.deserialize(path)
        return connection
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such database")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    try:
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path}: not a whole SQLite database ({error}); copy it anew from where it came") from None
    if not tables:
        raise DataError(f"{path}: a database without tables; copy it anew from where it came")
    return connection


def _authorize(action: int, first: str | None, second: str | None, *unused: str | None) -> int:
    """SQLite asks this for everything that a statement would do, while it compiles it."""
    if action not in _ALLOWED:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
