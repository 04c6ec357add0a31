"""Ten thousand hostile queries: nothing is written, nothing runs long, no exception escapes."""

import contextlib
import random
import sqlite3
import time
from hashlib import sha256

import psutil
import pytest

from ipr_lite.envs.sql.env import SQL
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.envs.sql.mysql.guard import GuardedDatabase, QueryError
from ipr_lite.envs.sql.mysql.schema import SQLError
from ipr_lite.records import Task

ROWS = 200


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sql") / "shop.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
        database.execute("CREATE TABLE sale (id INTEGER PRIMARY KEY, item_id INTEGER REFERENCES item, day TEXT)")
        database.executemany("INSERT INTO item VALUES (?, ?, ?)", [(i, f"name {i}", i / 4) for i in range(ROWS)])
        database.executemany("INSERT INTO sale VALUES (?, ?, '2024-01-01')", [(i, i % 7) for i in range(ROWS)])
    database.close()
    return path


@pytest.fixture(scope="module")
def guarded(path):
    database = GuardedDatabase(path)
    yield database
    database.close()


def test_honest_queries_are_answered(guarded):
    assert guarded.execute("SELECT count(*), max(price) FROM item") == [(ROWS, (ROWS - 1) / 4)]
    joined = (
        "SELECT name, count(*) FROM item JOIN sale ON item.id = sale.item_id GROUP BY name ORDER BY 2 DESC, 1 LIMIT 2"
    )
    assert guarded.execute(joined) == [("name 0", 29), ("name 1", 29)]
    assert guarded.execute("WITH t AS (SELECT 1 AS x UNION SELECT 2) SELECT sum(x) FROM t") == [(3,)]
    assert guarded.execute("SELECT a.id FROM item a, item b WHERE a.id = b.id AND upper(a.name) LIKE 'NAME 1_'")[0] == (
        10,
    )
    assert guarded.execute("") == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nme FROM item", "no such column"),
        ("DELETE FROM item", "not authorized|readonly"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t", "too long"),
        ("SELECT * FROM item a, item b, item c", "too large"),
        ("SELECT hex(name) || '\x00' FROM item", "null"),
        ("SELECT '\ud800'", "surrogate"),
    ],
)
def test_a_refusal_says_why(guarded, query, message):
    with pytest.raises(QueryError, match=message):
        guarded.execute(query)


def test_a_missing_file_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.sqlite"):
        GuardedDatabase(tmp_path / "none.sqlite")
    assert list(tmp_path.iterdir()) == []


def hostile(kind: str, rng: random.Random, folder) -> str:
    """A query of a class of attacks, varied."""
    table, column = rng.choice([("item", "name"), ("sale", "day"), ("item", "price"), ("sale", "item_id")])
    n, word = rng.randint(1, 10**9), "".join(rng.choices("abcxyz'\";-/*%_\\", k=rng.randint(1, 12)))
    case = rng.choice((str.upper, str.lower, str.title))
    pick = {
        "writes": [
            f"INSERT INTO {table} VALUES ({n}, {n}, 1)", f"UPDATE {table} SET {column} = {n}", f"DELETE FROM {table}",
            f"REPLACE INTO {table} VALUES ({n}, 1, 1)", f"WITH t AS (SELECT {n}) DELETE FROM {table} WHERE id IN t",
            f"INSERT INTO {table} SELECT * FROM {table} RETURNING *",
        ],
        "schema": [
            f"DROP TABLE {table}", f"CREATE TABLE t{n} (x)", f"ALTER TABLE {table} RENAME TO t{n}", "DROP INDEX IF EXISTS i",
            f"CREATE VIEW v{n} AS SELECT 1", f"ALTER TABLE {table} ADD COLUMN c{n}", "REINDEX", "ANALYZE",
            f"CREATE TRIGGER t{n} AFTER INSERT ON {table} BEGIN SELECT 1; END", "CREATE VIRTUAL TABLE f USING fts5(x)",
        ],
        "files": [
            f"ATTACH DATABASE '{folder}/a{n}.db' AS a", f"VACUUM INTO '{folder}/v{n}.db'", "VACUUM", "DETACH DATABASE main",
            f"ATTACH 'file:{folder}/b{n}.db?mode=rwc' AS b", "ATTACH ':memory:' AS m",
        ],
        "pragma": [
            "PRAGMA writable_schema = 1", "PRAGMA journal_mode = DELETE", f"PRAGMA user_version = {n % 1000}",
            f"PRAGMA temp_store_directory = '{folder}'", "PRAGMA query_only = 0", f"SELECT * FROM pragma_table_info('{table}')",
            "PRAGMA trusted_schema = 1", f"PRAGMA hard_heap_limit = {n}",
        ],
        "functions": [
            f"SELECT load_extension('{folder}/e{n}')", f"SELECT writefile('{folder}/w{n}', 'x')", "SELECT readfile('/etc/hosts')",
            f"SELECT edit('{word.replace(chr(39), '')}', 'sh')", "SELECT fts3_tokenizer('simple')", f"SELECT randomblob({n})",
        ],
        "bombs": [
            f"WITH RECURSIVE t(x) AS (SELECT {n} UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
            f"SELECT count(*) FROM {', '.join(f'item i{k}' for k in range(rng.randint(4, 9)))}",
            f"SELECT sum(a.id * b.id % {n}) FROM item a, item b, sale c, sale d ORDER BY 1",
            f"WITH RECURSIVE t(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM t LIMIT {n}) SELECT max(length(x)) FROM t",
            "SELECT DISTINCT a.name, b.name, c.name FROM item a, item b, item c ORDER BY random()",
        ],
        "blobs": [
            f"SELECT zeroblob({n})", f"SELECT hex(zeroblob({n}))", f"SELECT printf('%.*c', {n}, 'x')",
            f"SELECT replace(replace(hex(name || name), '0', printf('%{n % 150_000}s', 'y')), 'y', name) FROM item",
            f"SELECT group_concat(a.name || b.name || c.name) FROM item a, item b, item c WHERE a.id < {n}",
            f"SELECT '{'x' * rng.randint(5_000, 60_000)}'",
        ],
        "nesting": [
            "SELECT " + "(" * (k := rng.randint(50, 3_000)) + "1" + ")" * k,
            "SELECT 1" + " UNION SELECT 2" * rng.randint(29, 900), "SELECT " + "NOT " * rng.randint(100, 4_000) + "1",
            "SELECT " + "abs(" * (k := rng.randint(50, 1_500)) + "1" + ")" * k,
            "SELECT * FROM " + "(SELECT * FROM " * (k := rng.randint(20, 400)) + "item" + ")" * k,
            "SELECT " + ", ".join(["1"] * rng.randint(150, 4_000)), "SELECT 1 WHERE " + " OR ".join(["1 = 0"] * rng.randint(90, 2_000)),
        ],
        "stacked": [
            f"SELECT 1; DROP TABLE {table}", f"SELECT {n};;DELETE FROM {table};--", f"SELECT '{n}'; ATTACH '{folder}/s{n}' AS s",
            f"SELECT 1 /* ; */ ; UPDATE {table} SET id = {n}", f"; DROP TABLE {table}", f"EXPLAIN DELETE FROM {table}; SELECT 1",
        ],
        "transactions": [
            "BEGIN", "BEGIN EXCLUSIVE", "COMMIT", "ROLLBACK", f"SAVEPOINT s{n}", f"RELEASE s{n}", f"CREATE TEMP TABLE t{n} (x)",
            f"CREATE TEMP VIEW v{n} AS SELECT 1", f"CREATE TEMP TRIGGER g{n} AFTER UPDATE ON {table} BEGIN SELECT 1; END",
        ],
        "quoting": [
            f"SELECT '{word}", f'SELECT "{word}', f"SELECT `{word}", f"SELECT [{word}", f"SELECT {column} FROM {table} WHERE {column} = '{word}'",
            f"SELECT /* {word}", f"SELECT x'{word}'", f"SELECT {word} FROM {table} -- {word}", f"SELECT ?{n}", f"SELECT :a{n}, @b, $c",
        ],
        "unicode": [
            f"SELECT '\x00{word}'", f"SELECT {column}\x00 FROM {table}; DROP TABLE {table}", "SELECT '\ud83d'", "SELECT \u202e1",
            f"SEL\u0435CT {n}", "SELECT '\U0001f600' || char(0, 65533, 1114111)", f"\ufeffSELECT {n}", "SELECT\u00a01",
            "".join(chr(rng.randrange(1, 0x2FFF)) for _ in range(rng.randint(1, 200))),
        ],
    }[kind]  # fmt: skip
    query = rng.choice(pick)
    return case(query) if kind in ("writes", "schema", "transactions") else query


MYSQLS = """Unknown|You have an error in your SQL syntax|doesn't exist|does not exist|--read-only option|doesn't yet support
memory exhausted near|maximum statement execution time|Too many|Incorrect parameter count|Invalid use of group function|native function
Every derived table|No tables used|Query was empty|I don't understand your input|should contain|different number of columns""".replace("\n", "|").split("|")  # fmt: skip
CLASSES = "writes schema files pragma functions bombs blobs nesting stacked transactions quoting unicode".split()
EACH = {kind: 500 if kind in ("bombs", "blobs", "nesting") else 945 for kind in CLASSES}


@pytest.mark.parametrize("door", ["guard", "step"])
@pytest.mark.parametrize("kind", CLASSES)
def test_hostile_queries_do_nothing(path, kind, door):
    """Behind the guard alone, and as an agent's messages."""
    rng, before, folder = random.Random(kind), sha256(path.read_bytes()).hexdigest(), path.parent
    guarded = GuardedDatabase(path)
    env = SQL({"shop": Database(path)}, [Task("q", "sql", "test", "?", {"db": "shop", "gold": "SELECT 1"})])
    env.reset(seed=0)
    refused, longest = 0, (0.0, "")
    for _ in range(EACH[kind]):
        query = hostile(kind, rng, folder)
        start = time.process_time()
        if door == "guard":
            try:
                rows = guarded.execute(query)
            except QueryError as error:
                assert str(error)
                rows = None
        else:
            observation, reward, *_, info = env.clone().step(f"Action: \n```sql\n{query}\n```")
            assert observation.startswith("Observation: ") and reward == 0
            assert not info["invalid"] or any(text in observation for text in MYSQLS), observation
            rows = None if info["invalid"] else observation != "Observation: []"
        assert (
            kind not in ("writes", "schema", "files", "pragma", "functions", "transactions", "stacked") or not rows
        ), query
        refused += rows is None
        longest = max(longest, (time.process_time() - start, query[:80]))
    guarded.close()
    print(
        f"{kind}, {door}: {refused} of {EACH[kind]} refused, the longest took {longest[0] * 1000:.0f} ms: {longest[1]}"
    )
    assert longest[0] < 3.0  # of the processor, on a machine that does more than this
    assert [p.name for p in folder.iterdir()] == [path.name], "a file was written"
    assert sha256(path.read_bytes()).hexdigest() == before


def test_ten_thousand_in_all():
    assert sum(EACH.values()) >= 10_000 and min(EACH.values()) >= 500


def test_without_a_wall_the_tests_above_would_see_it(path, tmp_path, monkeypatch):
    """Each wall is taken away once: an open database is written to, a free authorizer attaches."""
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(path.read_bytes())
    monkeypatch.setattr("ipr_lite.envs.sql.mysql.guard._authorize", lambda *unused: sqlite3.SQLITE_OK)
    opened = GuardedDatabase(copy)
    opened._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
    opened.execute(f"ATTACH '{tmp_path}/a.db' AS a")
    opened.execute("CREATE TABLE a.t (x)")
    assert (tmp_path / "a.db").exists()
    with pytest.raises(QueryError, match="readonly"):
        opened.execute("DELETE FROM item")
    opened.close()


def chain(levels: int, first: str, step: str) -> str:
    """CTEs, each made of the one before."""
    steps = "".join(f", t{n} AS ({step.format(f't{n - 1}')})" for n in range(1, levels))
    return f"WITH t0 AS ({first}){steps} SELECT count(*) FROM t{levels - 1}"


def nested(times: int, before: str, core: str, after: str) -> str:
    return before * times + core + after * times


LARGE = {
    "joins": lambda n: chain(n, "SELECT 1 AS x", "SELECT a.x FROM {0} a JOIN {0} b"),
    "unions": lambda n: chain(n, "SELECT 1 AS x", "SELECT x FROM {0} UNION ALL SELECT x FROM {0}"),
    "sums": lambda n: chain(n, "SELECT id AS x FROM item", "SELECT x + x AS x FROM {0}").replace("count(*)", "sum(x)"),
    "derived sums": lambda n: "SELECT x FROM " + nested(n, "(SELECT x + x AS x FROM ", "(SELECT id AS x FROM item) t", ") t"),
    "stars": lambda n: chain(n, "SELECT 1 AS x", "SELECT t.*, t.* FROM {0} AS t"),
    "tests": lambda n: chain(n, "SELECT id AS x FROM item", "SELECT x FROM {0} WHERE x IN (SELECT x FROM {0})"),
    "values": lambda n: chain(n, "SELECT id AS x FROM item", "SELECT (SELECT max(x) FROM {0}) AS x FROM {0}"),
    "views": lambda n: f"SELECT 1 FROM {', '.join(f'information_schema.columns c{i}' for i in range(4 * n))}",
    "positions": lambda n: nested(n, "SELECT (", "SELECT 1", ") AS x FROM item GROUP BY 1 ORDER BY 1"),
    "all": lambda n: "SELECT 1 FROM item WHERE " + nested(n, "id > ALL (SELECT id FROM item WHERE ", "1", ")"),
    "years": lambda n: "SELECT " + nested(n, "year(", "name", ")") + " FROM item",
    "binary": lambda n: "SELECT " + nested(n, "(BINARY ", "name", ")") + " FROM item",
}  # fmt: skip


@pytest.mark.parametrize("shape", LARGE)
def test_no_query_is_large_once_it_is_written_out(path, shape):
    database, times = Database(path), []
    for levels in (12, 24):
        query = LARGE[shape](levels)
        start = time.process_time()
        with contextlib.suppress(SQLError):
            database.query(query)
        times.append(time.process_time() - start)
    assert max(times) < 2.0, "twice the levels, four thousand times the query"


def test_what_honest_queries_nest_is_not_large(path):
    query = "SELECT max(x) FROM (SELECT x + 1 AS x FROM (SELECT x + y AS x FROM (SELECT id AS x, price AS y FROM item) a) b) c"
    assert Database(path).query(query) == [(ROWS + (ROWS - 1) / 4,)]


def test_a_query_that_takes_much_memory_ends(path):
    process, database = psutil.Process(), GuardedDatabase(path, steps=10**9, seconds=30, heap=50_000_000)
    word = "'" + "x" * 100_000 + "'"
    before = process.memory_info().rss
    with pytest.raises(QueryError, match="too long"):
        database.execute(
            f"SELECT count(*) FROM (SELECT DISTINCT {word[:15_000]}' || a.id || b.id FROM item a, item b, item c)"
        )
    assert process.memory_info().rss - before < 150_000_000
    database.close()


def test_answers_are_remembered_within_a_bound(path, monkeypatch):
    monkeypatch.setattr("ipr_lite.envs.sql.mysql.database.REMEMBERED", 100_000)
    database = Database(path)
    asked = [f"SELECT a.name, b.name, {n} FROM item a, item b LIMIT 500" for n in range(30)]
    for query in asked:
        assert len(database.query(query)) == 500
    with pytest.raises(SQLError):
        database.query("x" * 200_000)
    database.query(asked[0]), database.query("SELECT 1"), database.query("SELECT 1")
    kept = sum(len(text) + len(str(found[0])) for text, found in database._remembered.items())
    assert kept < 200_000 and list(database._remembered)[-1] == "SELECT 1"


def test_nothing_is_printed_of_what_a_model_wrote(path, caplog, capfd):
    for query in ("SHOW \x1b[2J FOO BAR", "SET \x1b[2J = 1", "ALTER TABLE x \x1b[2J", "CALL \x1b[2J(1)"):
        with pytest.raises(SQLError):
            Database(path).query(query)
    assert not caplog.records and capfd.readouterr() == ("", "")
