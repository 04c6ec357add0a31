"""A database that answers as MySQL does, on SQLite: MySQL's dialect, emulated.

The syntax tree is sqlglot's, names and rules are checked by `sql_names.py`, the rest is translated to
SQLite and run behind `sql_guard.py`'s walls. What this is not is said in `data/sql/CARD.md`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokens import TokenType

from ipr_lite.envs.sql_guard import GuardedDatabase, QueryError
from ipr_lite.envs.sql_kinds import as_connector, kind_of
from ipr_lite.envs.sql_names import Resolver
from ipr_lite.envs.sql_schema import Schema, SQLError, Table

READ_ONLY = "this world reads only: SELECT, SHOW TABLES, SHOW COLUMNS and DESC are answered"
SYNTAX = (
    "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version "
    "for the right syntax to use near '{}' at line {}"
)
LONGEST = 4_000
DEEPEST = 60
# Words that MySQL 8 reserves for functions and sqlglot takes as names.
_WINDOW_WORDS = frozenset(
    "rank dense_rank row_number percent_rank cume_dist ntile lag lead first_value last_value".split()
)
_NOT_MYSQLS = frozenset("strftime julianday unixepoch typeof total glob iif unicode printf likely unlikely".split())
_STATEMENTS = frozenset(
    """select with show desc describe explain insert update delete replace create alter drop truncate set use
    begin start commit rollback grant revoke call load lock unlock table values rename analyze optimize check
    flush kill reset prepare execute do handler savepoint xa help signal declare""".split()
)


class Database:
    """One database behind a MySQL-like door. `schema` is read off the file where none is given.

    Raises FileNotFoundError.
    """

    def __init__(self, path: str | Path | bytes, schema: Schema | None = None, name: str | None = None):
        self.guard = GuardedDatabase(path)
        self.schema = schema or self.guard.schema(name or Path(path).stem)
        self._resolver = Resolver(self.schema)
        self._remembered = lru_cache(maxsize=256)(self._outcome)
        texts = ((t.name, c.name) for t in self.schema.tables for c in t.columns if c.kind == "text")
        # Texts that end with blanks: MySQL compares them as if they did not.
        self._padded = {(t.lower(), c.lower()) for t, c in texts if self.guard.holds(t, c, "% ")}

    def query(self, text: str) -> list[tuple]:
        """The rows of one statement, with Decimals and dates as MySQL's connector gives them.

        Raises SQLError with what MySQL would say, and nothing else, whatever the text. Answers are
        remembered: nothing changes a database, and rollouts ask the same things again and again.
        """
        rows, error = self._remembered(text)
        if error:
            raise SQLError(error)
        return list(rows)

    def _outcome(self, text: str) -> tuple[list[tuple], str]:
        """The rows, or what went wrong."""
        try:
            return self._answer(text), ""
        except SQLError as error:
            return [], str(error)

    def _answer(self, text: str) -> list[tuple]:
        text = text.strip().rstrip(";").rstrip()
        plain = text.encode("utf-8", "replace").decode().replace("\x00", "?")
        if len(text) > LONGEST or plain != text:
            raise SQLError(SYNTAX.format(plain[:80], 1))
        if (rows := self._about(text)) is not None:
            return rows
        try:
            tree = _parse(text)
            if not isinstance(tree, exp.Query):
                raise SQLError(READ_ONLY)
            for function in tree.find_all(exp.Anonymous):
                if function.name.lower() in _NOT_MYSQLS:
                    raise SQLError(f"FUNCTION {self.schema.name}.{function.name} does not exist")
            outputs = self._resolver.resolve(tree)
            query = self._to_sqlite(tree)
        except SQLError:
            raise
        except Exception as error:  # a model can write what no parser's author has thought of
            raise SQLError(f"this world does not understand the query ({type(error).__name__})") from None
        try:
            rows = self.guard.execute(query)
        except QueryError as error:
            raise SQLError(self._words(str(error))) from None
        return [tuple(as_connector(v, kind) for v, (_, kind) in zip(row, outputs)) for row in rows]

    def _to_sqlite(self, tree: exp.Expression) -> str:
        for select in list(tree.find_all(exp.Select)):
            _first_seen(select)
        for table in list(tree.find_all(exp.Table)):
            if table.text("db").lower() == "information_schema":
                table.replace(_as_values(*self.schema.information(table.name), table.alias_or_name))
        for column in list(tree.find_all(exp.Column)):
            if (column.meta.get("table"), column.name.lower()) in self._padded and isinstance(column.parent, _SAME):
                trimmed = exp.Anonymous(this="rtrim", expressions=[column.copy()])
                column.replace(exp.Collate(this=trimmed, expression=exp.Var(this="NOCASE")))
        tree = tree.transform(_rewritten, copy=False)
        return tree.sql("sqlite", unsupported_level=sqlglot.ErrorLevel.IGNORE)

    # --- SHOW and DESC ----------------------------------------------------------------------------

    def _about(self, text: str) -> list[tuple] | None:
        """The answer to SHOW and DESC; None for any other statement."""
        words = text.replace("`", "").split()
        start = [w.lower() for w in words[:4]]
        if start[:2] == ["show", "databases"] and len(words) == 2:
            return [("information_schema",), (self.schema.name,)]
        if start[:2] == ["show", "tables"] and (len(words) == 2 or (len(words) == 4 and start[2] in ("from", "in"))):
            if len(words) == 4 and start[3] != self.schema.name.lower():
                raise SQLError(f"Unknown database '{words[3]}'")
            return sorted((table.name,) for table in self.schema.tables)
        if start[:1] in (["desc"], ["describe"]) and len(words) == 2 and re.fullmatch(r"[\w.$]+", words[1]):
            return self._columns(words[1])
        if (
            start[:1] == ["show"]
            and start[1:2] in (["columns"], ["fields"])
            and len(words) == 4
            and start[2] in ("from", "in")
        ):
            return self._columns(words[3])
        return None

    def _columns(self, name: str) -> list[tuple]:
        database, _, bare = name.rpartition(".")
        if database and database.lower() != self.schema.name.lower():
            raise SQLError(f"Unknown database '{database}'")
        table = self.schema.table(bare)
        if table is None:
            raise SQLError(f"Table '{self.schema.name}.{bare.lower()}' doesn't exist")
        return [(c.name, c.type, c.null, c.key, c.default, c.extra) for c in table.columns]

    def _words(self, error: str) -> str:
        """MySQL's words for what SQLite said."""
        if found := re.match(r"no such function: (\w+)|not authorized to use function: (\w+)", error):
            return f"FUNCTION {self.schema.name}.{found.group(1) or found.group(2)} does not exist"
        if "wrong number of arguments" in error:
            return "Incorrect parameter count in the call to native function"
        if "misuse of aggregate" in error:
            return "Invalid use of group function"
        if "too long" in error:
            return "Query execution was interrupted, maximum statement execution time exceeded"
        return error


def _parse(text: str) -> exp.Expression:
    """The syntax tree of one statement. Raises SQLError."""
    first = re.match(r"\W*(\w*)", text)
    if not text or first.group(1).lower() not in _STATEMENTS or not re.match(r"[\s(]*\w", text):
        raise SQLError(SYNTAX.format(text[:80], 1) if text else "Query was empty")
    try:
        tokens = sqlglot.tokenize(text, read="mysql")
    except SqlglotError:
        raise SQLError(_near(text, _open_quote(text))) from None
    depth = deepest = 0
    for token, after in zip(tokens, [*tokens[1:], None]):
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        deepest = max(depth, deepest)
        bare = token.text.lower() in _WINDOW_WORDS and text[token.start] not in "`'\"" and text[token.start - 1] != "."
        if bare and (after is None or after.token_type != TokenType.L_PAREN):
            raise SQLError(_near(text, after.start if after else len(text)))
    if deepest > DEEPEST or len(tokens) > 1_000:
        raise SQLError("memory exhausted near '' at line 1")
    try:
        trees = sqlglot.parse(text, read="mysql")
    except ParseError as error:
        spot = error.errors[0] if error.errors else {}
        before, highlight = (spot.get("start_context") or "")[-30:], spot.get("highlight") or ""
        found = text.find(before + highlight) if highlight else -1
        raise SQLError(_near(text, found + len(before) if found >= 0 else len(text))) from None
    trees = [tree for tree in trees if tree is not None]
    if len(trees) != 1:
        raise SQLError(_near(text, text.find(";") + 1) if ";" in text else SYNTAX.format(text[:80], 1))
    return trees[0]


def _near(text: str, start: int) -> str:
    return SYNTAX.format(text[start : start + 80], text.count("\n", 0, start) + 1)


def _open_quote(text: str) -> int:
    """Where the quotation begins that never ends."""
    quote, start = "", len(text)
    for place, letter in enumerate(text):
        if not quote and letter in "'\"`":
            quote, start = letter, place
        elif letter == quote:
            quote = ""
    return start


# --- MySQL -> SQLite --------------------------------------------------------------------------------


_SAME = (exp.EQ, exp.NEQ, exp.In)


def _as_values(table: Table, rows: list[tuple], alias: str) -> exp.Expression:
    """A view as a derived table."""
    names = [f"column{n} AS {c.name}" for n, c in enumerate(table.columns, 1)]
    cells = [", ".join("NULL" if v is None else exp.Literal.string(v).sql("sqlite") for v in row) for row in rows]
    values = ", ".join(f"({row})" for row in cells)
    query = f"SELECT 1 FROM (SELECT {', '.join(names)} FROM (VALUES {values})) AS {exp.to_identifier(alias, quoted=True).sql('sqlite')}"
    return sqlglot.parse_one(query, read="sqlite").args["from_"].this


def _first_seen(select: exp.Select) -> None:
    """MySQL 8 gives groups in the order in which it meets them, SQLite sorted by what they are grouped by."""
    block, group = select.meta.get("block"), select.args.get("group")
    if group is None or block is None or not block.sources:
        return
    if any(e.find(exp.Window) for e in select.expressions):
        return
    source = block.sources[0]
    if source.table is None:
        return
    if not select.args.get("order") and (first := group.expressions[0]) is not None:
        if first.meta.get("place") and first.name.lower() in source.table.indexed:
            return
    rowid = exp.Min(this=exp.column("rowid", table=exp.to_identifier(source.alias, quoted=True)))
    select.order_by(exp.Ordered(this=rowid), append=True, copy=False)


_NUMERIC = ("int", "double", "decimal")
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
_CLOCK = {exp.Year: "%Y", exp.Month: "%m", exp.Day: "%d", exp.DayOfMonth: "%d"}


def _rewritten(node: exp.Expression) -> exp.Expression:
    """One node as SQLite wants it."""
    if isinstance(node, (*_COMPARISONS, exp.Between)):
        sides = [node.this, *(node.args.get(k) for k in ("expression", "low", "high"))]
        kinds = [kind_of(side) for side in sides if isinstance(side, exp.Expression)]
        if (
            isinstance(node.this, exp.Column)
            and kinds[0] == "text"
            and any(k.split(":")[0] in _NUMERIC for k in kinds[1:])
        ):
            node.set("this", exp.cast(node.this.copy(), "double"))
        every = node.args.get("expression")
        if isinstance(every, (exp.All, exp.Any)):
            _one_for_all(node, every)
    if isinstance(node, exp.Table) and node.args.get("db"):
        node.set("db", None)
    if isinstance(node, exp.Column) and node.args.get("db"):
        node.set("db", None)
    if isinstance(node, exp.Left):
        return exp.Substring(this=node.this.copy(), start=exp.Literal.number(1), length=node.expression.copy())
    if isinstance(node, (exp.Sum, exp.Avg)) and kind_of(node.this) == "text":
        node.set("this", exp.cast(node.this.copy(), "double"))
    for kind, form in _CLOCK.items():
        if isinstance(node, kind):
            inner = node.this.this if isinstance(node.this, (exp.TsOrDsToDate, exp.Date)) else node.this
            return exp.cast(exp.Anonymous(this="strftime", expressions=[exp.Literal.string(form), inner.copy()]), "int")
    return node


def _one_for_all(node: exp.Expression, every: exp.Expression) -> None:
    """x > ALL (SELECT y ...) is x > the largest y: SQLite has neither ALL nor ANY."""
    inner = every.this.unnest() if isinstance(every.this, exp.Subquery) else every.this
    larger = isinstance(node, (exp.GT, exp.GTE)) == isinstance(every, exp.All)
    if isinstance(node, (exp.EQ, exp.NEQ)) or not isinstance(inner, exp.Select) or len(inner.expressions) != 1:
        raise SQLError("this world does not understand ALL or ANY here")
    inner = inner.copy()
    wrapped = (exp.Max if larger else exp.Min)(this=inner.expressions[0].unalias())
    inner.set("expressions", [wrapped])
    node.set("expression", exp.Subquery(this=inner))
