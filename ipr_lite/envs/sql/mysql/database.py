"""A database that answers as MySQL does, on SQLite: MySQL's dialect, emulated.

The syntax tree is sqlglot's, names and rules are checked by `sql_names.py`, the query is
translated by `sql_translate.py` and run behind `sql_guard.py`'s walls. What this is not is said in `data/sql/CARD.md`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokens import TokenType

from ipr_lite.envs.sql.mysql.guard import GuardedDatabase, QueryError
from ipr_lite.envs.sql.mysql.kinds import as_connector
from ipr_lite.envs.sql.mysql.names import Resolver
from ipr_lite.envs.sql.mysql.schema import Schema, SQLError
from ipr_lite.envs.sql.mysql.translate import to_sqlite

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
            query = to_sqlite(tree, self.schema, self._padded)
        except SQLError:
            raise
        except Exception as error:  # a model can write what no parser's author has thought of
            raise SQLError(f"this world does not understand the query ({type(error).__name__})") from None
        try:
            rows = self.guard.execute(query)
        except QueryError as error:
            raise SQLError(self._words(str(error))) from None
        return [tuple(as_connector(v, kind) for v, (_, kind) in zip(row, outputs)) for row in rows]

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
