"""A database that answers as MySQL does, on SQLite: MySQL's dialect, emulated.

The syntax tree is sqlglot's, names and rules are checked by `names.py`, the query is
translated by `sql_translate.py` and run behind `sql_guard.py`'s walls. What this is not is said in `data/sql/CARD.md`.
"""

from __future__ import annotations

import logging
import re
from itertools import pairwise
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.dialects.mysql import MySQL
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokens import TokenType

from ipr_lite.envs.sql.mysql.guard import FUNCTIONS, GuardedDatabase, QueryError
from ipr_lite.envs.sql.mysql.kinds import as_connector
from ipr_lite.envs.sql.mysql.names import Resolver
from ipr_lite.envs.sql.mysql.schema import NOT_YET, TOO_LONG, Schema, SQLError
from ipr_lite.envs.sql.mysql.translate import to_sqlite
from ipr_lite.records import DataError

READ_ONLY = "The MySQL server is running with the --read-only option so it cannot execute this statement"
NO_MEMORY = "memory exhausted near '' at line 1"
SYNTAX = (
    "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version "
    "for the right syntax to use near '{}' at line {}"
)
LONGEST = 4_000
DEEPEST = 60
TYPES_DEEPEST = 6
REMEMBERED = 1_000_000
# sqlglot's warnings quote what it parses: a model's text, control characters and all.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
# Words that MySQL 8 reserves for functions and sqlglot takes as names.
_WINDOW_WORDS = frozenset(
    "rank dense_rank row_number percent_rank cume_dist ntile lag lead first_value last_value".split()
)
# What MySQL 8 reserves, of the words that sqlglot takes as names; after a point they are names.
RESERVED = frozenset(
    """ACCESSIBLE ADD ALL ALTER ANALYZE AND AS ASC ASENSITIVE BEFORE BETWEEN BIGINT BINARY BLOB BOTH BY CALL CASCADE CASE
    CHANGE CHAR CHARACTER CHECK COLLATE COLUMN CONDITION CONSTRAINT CONTINUE CONVERT CREATE CROSS CUBE CURRENT_DATE
    CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER CURSOR DATABASE DATABASES DAY_HOUR DAY_MICROSECOND DAY_MINUTE DAY_SECOND
    DEC DECIMAL DECLARE DEFAULT DELAYED DELETE DESC DESCRIBE DETERMINISTIC DISTINCT DISTINCTROW DIV DOUBLE DROP DUAL EACH
    ELSE ELSEIF EMPTY ENCLOSED ESCAPED EXCEPT EXISTS EXIT EXPLAIN FALSE FETCH FLOAT FOR FORCE FOREIGN FROM FULLTEXT
    FUNCTION GENERATED GET GRANT GROUP GROUPING GROUPS HAVING HIGH_PRIORITY HOUR_MINUTE HOUR_SECOND IF IGNORE IN INDEX
    INFILE INNER INOUT INSENSITIVE INSERT INT INTEGER INTERSECT INTERVAL INTO IS ITERATE JOIN JSON_TABLE KEY KEYS KILL
    LATERAL LEADING LEAVE LEFT LIKE LIMIT LINEAR LINES LOAD LOCALTIME LOCALTIMESTAMP LOCK LONG LONGBLOB LONGTEXT LOOP
    LOW_PRIORITY MATCH MAXVALUE MEDIUMBLOB MEDIUMINT MEDIUMTEXT MOD MODIFIES NATURAL NOT NULL NUMERIC OF ON OPTIMIZE
    OPTION OPTIONALLY OR ORDER OUT OUTER OUTFILE OVER PARTITION PRECISION PRIMARY PROCEDURE PURGE RANGE READ READS REAL
    RECURSIVE REFERENCES REGEXP RELEASE RENAME REPEAT REPLACE REQUIRE RESIGNAL RESTRICT RETURN REVOKE RIGHT RLIKE ROW ROWS
    SCHEMA SCHEMAS SELECT SENSITIVE SEPARATOR SET SHOW SIGNAL SMALLINT SPATIAL SPECIFIC SQL SQLEXCEPTION SQLSTATE
    SQLWARNING SSL STARTING STORED STRAIGHT_JOIN SYSTEM TABLE TERMINATED THEN TINYBLOB TINYINT TINYTEXT TO TRAILING TRIGGER
    TRUE UNDO UNION UNIQUE UNLOCK UNSIGNED UPDATE USAGE USE USING VALUES VARBINARY VARCHAR VARYING VIRTUAL WHEN WHERE WHILE
    WINDOW WITH WRITE XOR ZEROFILL""".split()
)
_SETS = (TokenType.UNION, TokenType.INTERSECT, TokenType.EXCEPT)
_NOT_MYSQLS = frozenset("strftime julianday unixepoch typeof total glob iif unicode printf likely unlikely".split())
_STATEMENTS = frozenset(
    """select with show desc describe explain insert update delete replace create alter drop truncate set use
    begin start commit rollback grant revoke call load lock unlock table values rename analyze optimize check
    flush kill reset prepare execute do handler savepoint xa help signal declare""".split()
)
# Parts of what SQLite says, and what MySQL says then.
_WORDS = {
    "Expression tree": NO_MEMORY,
    "query string": NO_MEMORY,
    "takes too long": TOO_LONG,
    "too large": TOO_LONG,
    "too big": TOO_LONG,
    "misuse": "Invalid use of group function",
    "tables in a join": "Too many tables; MySQL can only use 61 tables in a join",
    "too many columns": "Too many columns",
    "integer overflow": "BIGINT value is out of range",
    "sub-select returns": "Operand should contain 1 column(s)",
    "stack overflow": NO_MEMORY,
    "too many terms": NO_MEMORY,
    "MemoryError": NO_MEMORY,
}


class Database:
    """One database behind a MySQL-like door. `schema` is read off the file where none is given.

    Raises FileNotFoundError, DataError for a file that is no whole database or lacks a table of `schema`.
    """

    def __init__(self, path: str | Path | bytes, schema: Schema | None = None, name: str | None = None):
        self.guard = GuardedDatabase(path)
        found = self.guard.schema(schema.name if schema else name or Path(path).stem)
        self.schema = schema or found
        if missing := [table.name for table in self.schema.tables if not found.table(table.name)]:
            raise DataError(f"{path}: has no table {missing[0]!r}; copy it anew from where it came")
        self._resolver = Resolver(self.schema)
        self.guard.attach("information_schema", map(self.schema.information, ("schemata", "tables", "columns")))
        self._remembered: dict[str, tuple[list[tuple], str, int]] = {}
        self._room = REMEMBERED
        texts = ((t.name, c.name) for t in self.schema.tables for c in t.columns if c.kind == "text")
        # Texts that end with blanks: MySQL compares them as if they did not.
        self._padded = {(t.lower(), c.lower()) for t, c in texts if self.guard.holds(t, c, "% ")}

    def query(self, text: str) -> list[tuple]:
        """The rows of one statement, with Decimals and dates as MySQL's connector gives them.

        Raises SQLError with what MySQL would say, and nothing else, whatever the text. Answers are
        remembered, the last asked ones: nothing changes a database, and rollouts ask the same things
        again and again.
        """
        found = self._remembered.pop(text, None) or self._outcome(text)
        rows, error, size = self._remembered[text] = found
        while self._room < 0:
            self._room += self._remembered.pop(next(iter(self._remembered)))[2]
        if error:
            raise SQLError(error)
        return list(rows)

    def _outcome(self, text: str) -> tuple[list[tuple], str, int]:
        """The rows, or what went wrong, and how much room that takes, in characters."""
        rows, error = [], ""
        try:
            rows = self._answer(text)
        except SQLError as failure:
            error = str(failure)
        cells = sum(len(v) if isinstance(v, str) else 20 for row in rows for v in row)
        size = 100 + len(text) + len(error) + 20 * len(rows) + cells
        self._room -= size
        return rows, error, size

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
                reads = re.match(r"(?i)\s*(show|desc|describe|explain|help|check|values|use|do)\b", text)
                raise SQLError(NOT_YET.format(text[:80]) if reads else READ_ONLY)
            for function in tree.find_all(exp.Anonymous):
                if function.name.lower() in _NOT_MYSQLS:
                    raise SQLError(f"FUNCTION {self.schema.name}.{function.name} does not exist")
            outputs = self._resolver.resolve(tree)
            query = to_sqlite(tree, self.schema, self._padded)
        except SQLError:
            raise
        except RecursionError:
            raise SQLError(NO_MEMORY) from None
        except Exception:  # a model can write what no parser's author has thought of
            raise SQLError(NOT_YET.format(text[:80])) from None
        try:
            rows = self.guard.execute(query)
        except QueryError as error:
            raise SQLError(self._words(str(error), text)) from None
        return [tuple(as_connector(v, kind) for v, (_, kind) in zip(row, outputs, strict=True)) for row in rows]

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

    def _words(self, error: str, text: str) -> str:
        """MySQL's words for what SQLite said; no name that the query does not hold."""
        if found := re.match(
            r"(no such|not authorized to use) function: (\w+)|wrong number of arguments to.* (\w+)\(", error
        ):
            name = self._called(found.group(2) or found.group(3), text)
            if found.group(3):
                return f"Incorrect parameter count in the call to native function '{name}'"
            return f"FUNCTION {self.schema.name}.{name} does not exist"
        if (found := re.match(r"no such column: (.+)", error)) and found.group(1).lower() in text.lower():
            return f"Unknown column '{found.group(1)}' in 'field list'"
        if (found := re.match(r"ambiguous column name: (.+)", error)) and found.group(1).lower() in text.lower():
            return f"Column '{found.group(1)}' in field list is ambiguous"
        return next((words for part, words in _WORDS.items() if part in error), NOT_YET.format(text[:80]))

    @staticmethod
    def _called(name: str, text: str) -> str:
        """The function that SQLite calls `name`, as the query has it: sqlglot translates some names."""
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", text)
        if found := re.search(rf"\b{name}\b", bare, re.IGNORECASE):
            return found.group()
        written = re.findall(r"\b(\w+)\s*\(", bare)
        return next((w for w in written if w.lower() not in FUNCTIONS and w.upper() not in RESERVED), text[:80])


def _parse(text: str) -> exp.Expression:
    """The syntax tree of one statement. Raises SQLError."""
    first = re.match(r"\W*(\w*)", text)
    if not text or first.group(1).lower() not in _STATEMENTS or not re.match(r"[\s(]*\w", text):
        raise SQLError(SYNTAX.format(text[:80], 1) if text else "Query was empty")
    try:
        tokens = sqlglot.tokenize(text, read="mysql")
    except SqlglotError:
        raise SQLError(_near(text, _open_quote(text))) from None
    opened: list[set] = [set()]  # what the brackets that are open have held
    for token, after in pairwise([*tokens, None]):
        if token.token_type in _SETS and opened[-1] & {TokenType.ORDER_BY, TokenType.LIMIT}:
            raise SQLError(_near(text, token.start))
        opened[-1].add("type" if token.token_type in MySQL.Parser.TYPE_TOKENS else token.token_type)
        if token.token_type == TokenType.L_PAREN:
            opened.append(set())
        elif token.token_type == TokenType.R_PAREN and len(opened) > 1:
            opened.pop()
        # sqlglot reads YEAR(x) as a type, then again as a function: twice the time for each that is inside another.
        if len(opened) > DEEPEST or sum("type" in held for held in opened) > TYPES_DEEPEST:
            raise SQLError(NO_MEMORY)
        bare = token.text.lower() in _WINDOW_WORDS and text[token.start] not in "`'\"" and text[token.start - 1] != "."
        if bare and (after is None or after.token_type != TokenType.L_PAREN):
            raise SQLError(_near(text, after.start if after else len(text)))
    if len(tokens) > 1_000:
        raise SQLError(NO_MEMORY)
    try:
        trees = sqlglot.parse(text, read="mysql")
    except ParseError as error:
        spot = error.errors[0] if error.errors else {}
        before, highlight = (spot.get("start_context") or "")[-30:], spot.get("highlight") or ""
        if "number of provided arguments" in (spot.get("description") or ""):
            open_calls = spot["start_context"]
            while (shorter := re.sub(r"\w*\s*\([^()]*\)", "", open_calls)) != open_calls:
                open_calls = shorter
            if calls := re.findall(r"(\w+)\s*\(", open_calls):
                raise SQLError(f"Incorrect parameter count in the call to native function '{calls[-1]}'") from None
        found = text.find(before + highlight) if highlight else -1
        raise SQLError(_near(text, found + len(before) if found >= 0 else len(text))) from None
    trees = [tree for tree in trees if tree is not None]
    if len(trees) != 1:
        raise SQLError(_near(text, text.find(";") + 1) if ";" in text else SYNTAX.format(text[:80], 1))
    for name in trees[0].find_all(exp.Identifier, bfs=False):
        start = name.meta.get("start")
        if (
            start is not None
            and not name.args.get("quoted")
            and name.name.upper() in RESERVED
            and text[start - 1] != "."
        ):
            raise SQLError(_near(text, start))
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
