"""What a database holds, as MySQL would describe it: tables, columns, types and keys."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
        """information_schema's view of that name (tables and columns only) and its rows."""
        if name.lower() == "tables":
            titles = "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME TABLE_TYPE"
            rows = [("def", self.name, table.name, "BASE TABLE") for table in self.tables]
        elif name.lower() == "columns":
            titles = "TABLE_SCHEMA TABLE_NAME COLUMN_NAME COLUMN_DEFAULT IS_NULLABLE DATA_TYPE COLUMN_TYPE COLUMN_KEY"
            rows = [
                (self.name, t.name, c.name, c.default, c.null, c.type.partition("(")[0], c.type, c.key)
                for t in self.tables
                for c in t.columns
            ]
        else:
            return None
        return Table(name.upper(), tuple(Column(title, "text") for title in titles.split())), rows

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
