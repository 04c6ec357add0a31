"""What a database holds, as MySQL would describe it: tables, columns, types and keys."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TOO_LONG = "Query execution was interrupted, maximum statement execution time exceeded"
NOT_YET = "This version of MySQL doesn't yet support '{}'"
_CHARSET, _COLLATION = "utf8mb4", "utf8mb4_general_ci"
# The columns of information_schema's views, in MySQL 8's order; a type where they are no texts.
_VIEWS = {
    "schemata": """CATALOG_NAME SCHEMA_NAME DEFAULT_CHARACTER_SET_NAME DEFAULT_COLLATION_NAME SQL_PATH
        DEFAULT_ENCRYPTION""",
    "tables": """TABLE_CATALOG TABLE_SCHEMA TABLE_NAME TABLE_TYPE ENGINE VERSION:int ROW_FORMAT TABLE_ROWS:int
        AVG_ROW_LENGTH:int DATA_LENGTH:int MAX_DATA_LENGTH:int INDEX_LENGTH:int DATA_FREE:int AUTO_INCREMENT:int
        CREATE_TIME UPDATE_TIME CHECK_TIME TABLE_COLLATION CHECKSUM:int CREATE_OPTIONS TABLE_COMMENT""",
    "columns": """TABLE_CATALOG TABLE_SCHEMA TABLE_NAME COLUMN_NAME ORDINAL_POSITION:int COLUMN_DEFAULT IS_NULLABLE
        DATA_TYPE CHARACTER_MAXIMUM_LENGTH:int CHARACTER_OCTET_LENGTH:int NUMERIC_PRECISION:int NUMERIC_SCALE:int
        DATETIME_PRECISION:int CHARACTER_SET_NAME COLLATION_NAME COLUMN_TYPE COLUMN_KEY EXTRA PRIVILEGES
        COLUMN_COMMENT GENERATION_EXPRESSION SRS_ID:int""",
}
_DIGITS = {"tinyint": 3, "smallint": 5, "mediumint": 7, "int": 10, "bigint": 19, "float": 12, "double": 22}


class SQLError(Exception):
    """What MySQL answers instead of rows."""


@dataclass(frozen=True)
class Column:
    """A column as DESC shows it: name, type, "YES" where it may be NULL, key, default, extra."""

    name: str
    type: str
    null: str = "YES"
    key: str = ""
    default: str | None = None
    extra: str = ""

    @property
    def kind(self) -> str:
        """What queries see of the type: int, double, decimal, text, date or datetime. The digits after
        the point follow where the type fixes them: "decimal:2", "double:2" (a FLOAT(10,2))."""
        word = self.type.lower()
        if found := re.match(r"(?:decimal|numeric)(?:\(\d+(?:,\s*(\d+))?\))?", word):
            return f"decimal:{found.group(1) or 0}"
        if re.match(r"(tiny|small|medium|big)?int|bool|year|bit", word):
            return "int"
        if found := re.match(r"(?:double|float|real)(?:\(\d+,\s*(\d+)\))?", word):
            return f"double:{found.group(1)}" if found.group(1) else "double"
        if re.match(r"datetime|timestamp", word):
            return "datetime"
        return "date" if word.startswith("date") else "text"


@dataclass(frozen=True)
class Table:
    """A table. `keys`: sets of columns that are unique and never NULL, the primary key first.
    `indexed`: the columns that lead an index, which MySQL reads in that column's order."""

    name: str
    columns: tuple[Column, ...]
    keys: tuple[tuple[str, ...], ...] = ()
    indexed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Schema:
    """A database's name and tables."""

    name: str
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table | None:
        """The table of that name, in any case of letters (MySQL with lower_case_table_names=1)."""
        return next((t for t in self.tables if t.name.lower() == name.lower()), None)

    def information(self, name: str) -> tuple[Table, list[tuple]] | None:
        """information_schema's view of that name (schemata, tables and columns only) and its rows."""
        if name.lower() not in _VIEWS:
            return None
        if name.lower() == "schemata":
            rows = [("def", self.name, _CHARSET, _COLLATION, None, "NO")]
        elif name.lower() == "tables":
            middle, end = ("BASE TABLE", "InnoDB", 10, "Dynamic", *[None] * 10), (_COLLATION, None, "", "")
            rows = [
                ("def", self.name, table.name, *middle, *end) for table in sorted(self.tables, key=lambda t: t.name)
            ]
        else:
            rows = [
                ("def", self.name, t.name, c.name, n, c.default, c.null, *_facts(c.type), c.type, c.key, c.extra)
                + ("select,insert,update,references", "", "", None)
                for t in self.tables
                for n, c in enumerate(t.columns, 1)
            ]
        kinds = (title.partition(":") for title in _VIEWS[name.lower()].split())
        return Table(name.upper(), tuple(Column(title, kind or "text") for title, _, kind in kinds)), rows

    @classmethod
    def of_catalogue(cls, name: str, tables: Mapping[str, Mapping]) -> Schema:
        """From what MySQL said of each table: `cols` (rows of DESC), `pk`, `unique`, `keys`."""
        found = []
        for table, facts in tables.items():
            columns = tuple(Column(*row) for row in facts["cols"])
            required = {c.name for c in columns if c.null == "NO"}
            keys = [tuple(facts["pk"])] if facts["pk"] else []
            keys += [tuple(key) for key in facts["unique"] if required.issuperset(key)]
            leading = (key[0] for key in (facts["pk"], *facts["unique"], *facts["keys"]) if key)
            found.append(Table(table, columns, tuple(keys), frozenset(c.lower() for c in leading)))
        return cls(name, tuple(found))

    @classmethod
    def of_sqlite(cls, name: str, connection: sqlite3.Connection) -> Schema:
        """From a SQLite database whose columns were declared with MySQL's types."""
        query = (
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1"
        )
        return cls(name, tuple(_table(connection, row[0]) for row in connection.execute(query)))


def _facts(kind: str) -> tuple:
    """What information_schema.columns says of a type, from DATA_TYPE to COLLATION_NAME."""
    word, *sizes = re.findall(r"\w+", kind)
    sizes = [int(size) for size in sizes if size.isdigit()] + [None, None]
    if word in ("char", "varchar"):
        return (word, sizes[0], sizes[0] and 4 * sizes[0], None, None, None, _CHARSET, _COLLATION)
    if Column("", word).kind == "text":
        return (word, 65535, 65535, None, None, None, _CHARSET, _COLLATION)
    if word in ("datetime", "timestamp"):
        return (word, None, None, None, None, 0, None, None)
    digits, scale = sizes[:2] if word in ("decimal", "numeric") else (_DIGITS.get(word), 0 if "int" in word else None)
    return (word, None, None, digits, scale, None, None, None)


def _table(connection: sqlite3.Connection, table: str) -> Table:
    def ask(pragma: str, name: str) -> Sequence[tuple]:
        return connection.execute(f"SELECT * FROM pragma_{pragma}(?)", (name,)).fetchall()

    rows = ask("table_info", table)
    primary = tuple(row[1] for row in sorted((r for r in rows if r[5]), key=lambda r: r[5]))
    foreign = {row[3].lower() for row in ask("foreign_key_list", table)}
    indexes = [
        tuple(row[2] for row in ask("index_info", index[1]))
        for index in ask("index_list", table)
        if index[2] and index[3] != "pk"
    ]
    columns = []
    for _, column, kind, required, default, place in rows:
        alone = primary == (column,)
        key = "PRI" if place else "UNI" if (column,) in indexes else "MUL" if column.lower() in foreign else ""
        extra = "auto_increment" if alone and kind.lower() in ("int", "integer") else ""
        word = "int" if kind.lower() == "integer" else kind.lower() or "text"
        columns.append(Column(column, word, "NO" if required or place else "YES", key, default, extra))
    needed = {c.name for c in columns if c.null == "NO"}
    keys = [primary] if primary else []
    keys += [index for index in indexes if needed.issuperset(index)]
    leading = {key[0].lower() for key in (primary, *indexes) if key} | foreign
    return Table(table, tuple(columns), tuple(keys), frozenset(leading))


@dataclass
class Source:
    """A table, derived table or CTE in a FROM: its columns' names and kinds."""

    alias: str
    columns: list[tuple[str, str]]
    table: Table | None = None

    def find(self, name: str) -> tuple[str, str] | None:
        return next((c for c in self.columns if c[0].lower() == name.lower()), None)


@dataclass
class Block:
    """One SELECT while it is resolved: its sources, its select list's names, the block around it."""

    outer: Block | None = None
    sources: list[Source] = field(default_factory=list)
    merged: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)

    def source(self, alias: str) -> Source | None:
        return next((s for s in self.sources if s.alias.lower() == alias.lower()), None)

    def __deepcopy__(self, memo: dict) -> Block:
        return self  # else each copy of an expression, whose columns know their block, copies all of the query
