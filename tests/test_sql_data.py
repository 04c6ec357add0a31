"""InterCode's and Spider's files: read from folders as they are published, refused where broken."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from ipr_lite.envs.sql.env import SQL
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.envs.sql.mysql.schema import Schema
from ipr_lite.envs.sql.original import load, read_dump
from ipr_lite.envs.sql.people import CAREFUL, demonstrations
from ipr_lite.records import DataError

DUMP = r"""-- MySQL dump 10.13  Distrib 8.0.33
/*!40101 SET NAMES utf8mb4 */;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `Zoo`;

USE `Zoo`;
DROP TABLE IF EXISTS `keeper`;
CREATE TABLE `keeper` (
  `Keeper_ID` int NOT NULL AUTO_INCREMENT,
  `Name` varchar(40) COLLATE utf8mb4_general_ci DEFAULT NULL,
  `Pay` decimal(8,2) DEFAULT NULL,
  PRIMARY KEY (`Keeper_ID`),
  UNIQUE KEY `n` (`Name`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4;
INSERT INTO `keeper` VALUES (1,'O\'Neill; \"Jo\"',12.50),(2,NULL,-3);
CREATE TABLE `feeding` (
  `Keeper_ID` int DEFAULT NULL,
  KEY `k` (`Keeper_ID`),
  CONSTRAINT `f` FOREIGN KEY (`Keeper_ID`) REFERENCES `keeper` (`Keeper_ID`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
INSERT INTO `feeding` VALUES (1),(1);
"""


def intercode(folder: Path, records: list) -> Path:
    (folder / "ic_spider_dbs.sql").write_text(DUMP, encoding="utf-8")
    (folder / "ic_spider_dev.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def record(number=0, **changes):
    return {"db": "zoo", "query": f"How many keepers? {number}", "gold": "SELECT count(*) FROM keeper", **changes}


def test_a_dump_and_questions_as_intercode_ships_them(tmp_path):
    databases, tasks = load(intercode(tmp_path, [record(n) for n in range(60)]))
    zoo = databases["zoo"]
    assert zoo.query("SHOW TABLES") == [("feeding",), ("keeper",)]
    assert (
        str(zoo.query("SELECT * FROM keeper"))
        == "[(1, 'O\\'Neill; \"Jo\"', Decimal('12.50')), (2, None, Decimal('-3.00'))]"
    )
    assert zoo.query("DESC keeper")[:2] == [
        ("Keeper_ID", "int", "NO", "PRI", None, "auto_increment"),
        ("Name", "varchar(40)", "YES", "UNI", None, ""),
    ]
    assert zoo.query("DESC feeding") == [("Keeper_ID", "int", "YES", "MUL", None, "")]
    assert sum(map(len, tasks.values())) == 60 and len(tasks["train"]) > len(tasks["test"]) > 0 and tasks["dev"]
    played = demonstrations(tasks["test"], SQL(databases, tasks["train"]), CAREFUL, 0)
    assert len(played) == len(tasks["test"]) and all(
        t.success and "SHOW TABLES" in t.messages[2]["content"] for t in played
    )


def test_iprs_own_files_name_the_database_under_extra(tmp_path):
    intercode(tmp_path, [])
    (tmp_path / "ic_spider_dev.json").unlink()
    with_extra = [{"query": f"How many {n}?", "gold": "SELECT 1", "extra": {"db": "zoo"}} for n in range(40)]
    (tmp_path / "ic_spider_train.json").write_text(json.dumps(with_extra), encoding="utf-8")
    (tmp_path / "ic_spider_test.json").write_text(json.dumps(with_extra[:5]), encoding="utf-8")
    _, tasks = load(tmp_path)
    assert len(tasks["test"]) == 5 and len(tasks["train"]) + len(tasks["dev"]) == 40 and len(tasks["dev"]) < 12


def test_spiders_folders(tmp_path):
    (tmp_path / "database" / "zoo").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "database" / "zoo" / "zoo.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE Keeper (ID integer PRIMARY KEY, Name text); INSERT INTO Keeper VALUES (1, 'Bo')"
        )
    connection.close()
    (tmp_path / "train_spider.json").write_text(
        json.dumps([{"db_id": "zoo", "question": "Who?", "query": "SELECT name FROM keeper"}])
    )
    databases, tasks = load(tmp_path)
    assert databases["zoo"].query("SELECT id FROM keeper WHERE name = 'BO'") == [(1,)], "texts compare without case"
    assert [t.setup["gold"] for found in tasks.values() for t in found] == ["SELECT name FROM keeper"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(db="moon")], "ic_spider_dev.json, record 0, field db: no database 'moon'"),
        ([record(), record(gold=3)], "record 1, field gold: wanted a text"),
        (["?"], "record 0: wanted an object"),
        ({"a": 1}, "a JSON list is needed"),
    ],
)
def test_a_broken_record_is_named(tmp_path, records, message):
    with pytest.raises(ValueError, match=message):
        load(intercode(tmp_path, records))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no databases"):
        load(tmp_path)
    intercode(tmp_path, []).joinpath("ic_spider_dev.json").unlink()
    with pytest.raises(FileNotFoundError, match="no questions"):
        load(tmp_path)


def test_a_dump_that_is_cut_off_is_refused():
    with pytest.raises(ValueError, match="cannot read the values"):
        read_dump("USE `zoo`;\nCREATE TABLE `k` (\n  `a` int\n);\nINSERT INTO `k` VALUES (1,@x);\n")
    with pytest.raises(ValueError, match="before any USE"):
        read_dump("CREATE TABLE `k` (\n  `a` int\n);\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[: d.index("',12.50")].encode(), "line 14: the file ends inside .INSERT INTO `keeper` VALUES .1"),
        (lambda d: d[: d.index(",(2,NULL")].encode(), "line 14: the file ends inside .INSERT INTO `keeper`"),
        (
            lambda d: d.replace("(2,NULL,-3)", "(2,NULL)").encode(),
            "line 14, .INSERT INTO `keeper`.*: Incorrect number of",
        ),
        (lambda d: d.replace("VALUES (1),(1)", "VALUES ").encode(), "line 20, .* is not as mysqldump writes it"),
        (
            lambda d: d.replace("`keeper` VALUES", "`keeper` (`Name`) VALUES").encode(),
            "line 14, .* is not as mysqldump",
        ),
        (
            lambda d: d.replace("CREATE TABLE `feeding`", "CREATE TABLE feeding").encode(),
            "is not as mysqldump writes it",
        ),
        (
            lambda d: d.replace("Neill", "N\xe9ill").encode("latin-1"),
            "ic_spider_dbs.sql: not UTF-8 .*; take the original",
        ),
    ],
)
def test_a_dump_that_is_not_whole_is_refused(tmp_path, change, message):
    intercode(tmp_path, [record()]).joinpath("ic_spider_dbs.sql").write_bytes(change(DUMP))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_dump(tmp_path):
    intercode(tmp_path, [record()]).joinpath("ic_spider_dbs.sql").write_bytes(b"\xef\xbb\xbf" + DUMP.encode())
    assert load(tmp_path)[0]["zoo"].query("SELECT count(*) FROM keeper") == [(2,)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "not a whole SQLite database"),
        (lambda data: b"<!DOCTYPE html>" * 99, "not a whole SQLite database"),
        (lambda data: b"", "without tables"),
    ],
)
def test_a_database_that_is_not_whole_is_refused(tmp_path, change, message):
    path = tmp_path / "database" / "zoo" / "zoo.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(change(read_dump(DUMP)["zoo"]))
    (tmp_path / "train_spider.json").write_text("[]")
    with pytest.raises(DataError, match=f"zoo.sqlite: .*{message}"):
        Database(path)
    with pytest.raises(DataError, match=f"zoo.sqlite: .*{message}"):
        load(tmp_path)


def test_a_catalogue_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "dbs").mkdir()
    (tmp_path / "dbs" / "zoo.sqlite").write_bytes(read_dump(DUMP)["zoo"])
    facts = {"cols": [["a", "int", "YES", "", None, ""]], "pk": [], "unique": [], "keys": []}
    (tmp_path / "catalogue.json").write_text(json.dumps({"zoo": {"Moon": facts}}))
    with pytest.raises(DataError, match="zoo.sqlite: has no table 'Moon'"):
        load(tmp_path)
    (tmp_path / "catalogue.json").write_text(json.dumps({"zoo": {"keeper": {"pk": []}}}))
    with pytest.raises(DataError, match="catalogue.json: not as it was made .*cols.*; copy it anew"):
        load(tmp_path)


def test_parity_the_real_tables_through_a_dump():
    """The real databases written as mysqldump writes them, with MySQL's own CREATE TABLE, and read back."""
    root = os.environ.get("IPR_LITE_REAL_DATA")
    if not root:
        pytest.skip("IPR_LITE_REAL_DATA is unset: no real databases to write and read")
    folder = Path(root) / "intercode"
    catalogue = json.loads((folder / "catalogue.json").read_text(encoding="utf-8"))

    def literal(value):
        if isinstance(value, str):
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
        return "NULL" if value is None else repr(value)

    lines = []
    for name, tables in catalogue.items():
        lines.append(f"USE `{name}`;")
        with sqlite3.connect(
            f"{(folder / 'dbs' / f'{name}.sqlite').as_uri()}?mode=ro&immutable=1", uri=True
        ) as connection:
            for table, facts in tables.items():
                lines.append(facts["create"] + ";")
                rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()
                values = ",".join(f"({','.join(map(literal, row))})" for row in rows)
                lines.append(f"INSERT INTO `{table}` VALUES {values};" if rows else "")
        connection.close()
    read, compared = read_dump("\n".join(lines)), 0
    for name, tables in catalogue.items():
        ours = Database(read[name], name=name)
        theirs = Database(folder / "dbs" / f"{name}.sqlite", Schema.of_catalogue(name, tables))
        for table in tables:
            assert ours.query(f"SELECT * FROM `{table}`") == theirs.query(f"SELECT * FROM `{table}`")
            # Defaults of a dump and of a live server are written differently; name, type and NULL are not.
            assert [row[:3] for row in ours.query(f"DESC {table}")] == [
                row[:3] for row in theirs.query(f"DESC {table}")
            ]
            compared += 1
    print(f"{compared} tables of {len(catalogue)} databases equal")


def test_a_broken_catalogue_is_named(tmp_path):
    (tmp_path / "catalogue.json").write_text("{")
    with pytest.raises(ValueError, match="catalogue.json: not valid JSON .*; copy it anew"):
        load(tmp_path)
