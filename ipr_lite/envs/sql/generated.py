"""Generated databases: two dozen small worlds of three tables each, with values like people's.

What a question calls "the yearly pay" may be the column pay, salary or yearly_pay: every database
draws its own names, so that one must look before one knows. The base model's corpus has other databases,
made of other nouns.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import get_ident

from ipr_lite import DATA
from ipr_lite.envs.sql.env import SQL
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.envs.sql.original import load
from ipr_lite.records import Task, read_tasks

FOLDER = DATA / "sql"
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Concept:
    """Something that a row has: how a question names it, which columns may hold it, in which type.

    role: what questions do with it: `name` (shown), `group` (few values), `number`, `day`.
    """

    phrase: str
    names: tuple[str, ...]
    type: str
    role: str


def _concepts() -> dict[str, Concept]:
    text = """
    person | name | name full_name person_name | VARCHAR(40) | name
    title | title | title label heading | VARCHAR(60) | name
    place | name | name place_name official_name | VARCHAR(60) | name
    town | town | town city home_town | VARCHAR(30) | group
    country | country | country nation home_country | VARCHAR(30) | group
    level | level | level rank_name grade | VARCHAR(20) | group
    kind | kind | kind category class_name | VARCHAR(20) | group
    status | status | status state_now current_state | VARCHAR(20) | group
    age | age | age age_years years_old | INT | number
    pay | yearly pay | pay salary yearly_pay | INT | number
    joined | year of joining | joined start_year year_joined | INT | number
    opened | opening year | opened opening_year founded | INT | number
    made | year of making | made year_made built | INT | number
    capacity | capacity | capacity seats max_people | INT | number
    staff | number of staff | staff staff_count employees | INT | number
    price | price | price cost unit_price | DECIMAL(8,2) | number
    weight | weight | weight mass weight_kg | DOUBLE | number
    rating | rating | rating stars review_score | DOUBLE | number
    quantity | quantity | quantity amount how_many | INT | number
    duration | duration | duration minutes length_min | INT | number
    score | score | score points result_points | INT | number
    fee | fee | fee charge fee_paid | DECIMAL(8,2) | number
    day | date | day date_of on_date | DATE | day
    """
    rows = (line.split("|") for line in text.strip().splitlines())
    cells = ([cell.strip() for cell in row] for row in rows)
    return {key: Concept(phrase, tuple(names.split()), kind, role) for key, phrase, names, kind, role in cells}


CONCEPTS = _concepts()
_ROLES = {
    "place": ("place", ("town", "country", "opened", "capacity", "staff", "rating")),
    "person": ("person", ("age", "town", "country", "pay", "level", "joined", "rating")),
    "thing": ("title", ("price", "weight", "made", "kind", "rating", "status")),
    "event": (None, ("quantity", "duration", "score", "fee", "status", "kind")),
}
# The shipped worlds: a place, what belongs to it, and what happens to that.
_SHIPPED = """museum exhibit:thing visit|airline pilot:person flight|library reader:person loan
school teacher:person lesson|hospital doctor:person treatment|farm tractor:thing harvest|theatre play:thing performance
gym trainer:person session|bank customer:person transfer|restaurant dish:thing booking|studio film:thing screening
team player:person game|garage car:thing repair|hotel suite:thing stay|zoo keeper:person feeding
orchestra musician:person concert|vineyard wine:thing tasting|port ship:thing delivery|university student:person exam
publisher novel:thing sale|court judge:person trial|laboratory device:thing experiment|station train:thing trip
bakery baker:person shift"""
_OTHERS = {
    "place": "gallery club factory clinic choir market stadium agency company village castle cinema mill temple".split(),
    "person": "member worker nurse singer athlete driver engineer farmer ranger guard dancer artist sailor writer".split(),
    "thing": "painting machine beer statue truck product tool tree lamp chair bottle boat drum poster robot bike".split(),
    "event": "auction payment inspection rehearsal festival race tour purchase interview meeting rental test".split(),
}
_FIRST = "Ada Ben Cara Dan Eva Finn Gina Hugo Iris Jack Kim Leo Mia Nils Olga Paul Rosa Sam Tina Uwe Vera Will Yara Zoe".split()
_LAST = "Adler Brook Costa Dahl Evans Frank Green Hill Ivanov Jones King Lopez Moss Novak Ortiz Price Quinn Reed Stone Voss".split()
_TOWNS = (
    "Aston Berlin Cadiz Dover Essen Fargo Ghent Hull Izmir Jena Kiel Leeds Milan Nice Oslo Porto Riga Turin".split()
)
_COUNTRIES = "Spain Italy Norway Poland Chile Japan Kenya Canada Brazil India Egypt Greece".split()
_WORDS = "Silver Blue Old Quiet Golden Lost Green Little Red Wild Last Bright Iron Early Grand Deep".split()
_NOUNS = "River Garden Tower Night Road Harbor Star Wolf Song Bridge Field Crown Storm Lake Door Light".split()
_VALUES = {
    "level": ["junior", "senior", "chief", "trainee"],
    "kind": ["classic", "modern", "family", "special", "small"],
    "status": ["open", "closed", "planned", "cancelled"],
    "town": _TOWNS,
    "country": _COUNTRIES,
}


@dataclass(frozen=True)
class TableSketch:
    """A table as a question sees it: its noun, the concepts it holds with their columns, its parents."""

    noun: str
    name: str
    columns: dict[str, str]
    parents: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.noun}_id"


@dataclass(frozen=True)
class World:
    """A database before it is a file: tables, parents first, and their rows."""

    name: str
    tables: tuple[TableSketch, ...]
    rows: dict[str, list[tuple]]

    def statements(self) -> list[str]:
        """CREATE TABLE, in MySQL's types, for SQLite."""
        found = []
        for table in self.tables:
            columns = [f"{table.key} INT PRIMARY KEY"]
            for concept, column in table.columns.items():
                kind = CONCEPTS[concept].type
                columns.append(f"{column} {kind}{' COLLATE NOCASE' if kind.startswith('VARCHAR') else ''}")
            columns += [
                f"{parent}_id INT REFERENCES {self.table(parent).name}({parent}_id)" for parent in table.parents
            ]
            found.append(f"CREATE TABLE {table.name} ({', '.join(columns)})")
        return found

    def table(self, noun: str) -> TableSketch:
        return next(table for table in self.tables if table.noun == noun)

    def bytes(self) -> bytes:
        """The database as the bytes of a SQLite file; equal worlds give equal bytes."""
        connection = sqlite3.connect(":memory:")
        for statement in self.statements():
            connection.execute(statement)
        for table in self.tables:
            marks = ", ".join("?" * len(self.rows[table.noun][0]))
            connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", self.rows[table.noun])
        connection.commit()
        data = bytearray(connection.serialize())
        connection.close()
        data[96:100] = bytes(4)  # which version of SQLite wrote it: the only thing that differs
        return bytes(data)


def plural(noun: str) -> str:
    """museum -> museums, library -> libraries, dish -> dishes."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


def build_world(rng: random.Random, name: str, nouns: Sequence[str], middle: str) -> World:
    """A world of a place, what belongs to it (`middle`: person or thing), and what happens to that."""
    style = rng.choice((lambda noun: noun, plural, lambda noun: f"{noun}_list"))
    roles = ("place", middle, "event")
    # Half the worlds are a chain; in the others events know the place as well.
    both = rng.random() < 0.5
    parents = ((), (nouns[0],), (nouns[1], nouns[0]) if both else (nouns[1],))
    tables = []
    for noun, role, above in zip(nouns, roles, parents, strict=True):
        title, pool = _ROLES[role]
        chosen = ([title] if title else ["day"]) + sorted(rng.sample(pool, rng.choice((3, 4))))
        taken: set[str] = set()
        columns = {}
        for concept in chosen:
            columns[concept] = next(n for n in rng.sample(CONCEPTS[concept].names, 3) if n not in taken)
            taken.add(columns[concept])
        tables.append(TableSketch(noun, style(noun), columns, above))
    sizes = {nouns[0]: rng.randint(6, 10), nouns[1]: rng.randint(12, 20), nouns[2]: rng.randint(24, 40)}
    rows: dict[str, list[tuple]] = {}
    for table in tables:
        groups = {c: rng.sample(_VALUES[c], min(len(_VALUES[c]), 4)) for c in table.columns if c in _VALUES}
        names = _names(rng, table, sizes[table.noun])
        rows[table.noun] = [
            (
                number,
                *(names[number - 1] if CONCEPTS[c].role == "name" else _value(rng, c, groups) for c in table.columns),
                *(rng.randint(1, sizes[parent]) for parent in table.parents),
            )
            for number in range(1, sizes[table.noun] + 1)
        ]
    return World(name, tuple(tables), rows)


def _names(rng: random.Random, table: TableSketch, n: int) -> list[str]:
    if "person" in table.columns:
        return rng.sample([f"{first} {last}" for first in _FIRST for last in _LAST], n)
    ending = f" {table.noun.replace('_', ' ').title()}" if "place" in table.columns else ""
    return rng.sample([f"{word} {noun}{ending}" for word in _WORDS for noun in _NOUNS], n)


def _value(rng: random.Random, concept: str, groups: dict[str, list[str]]) -> object:
    if concept in groups:
        return rng.choice(groups[concept])
    ranges = {
        "age": (19, 66), "joined": (1998, 2024), "opened": (1880, 2020), "made": (1950, 2024), "capacity": (20, 900),
        "staff": (3, 120), "quantity": (1, 30), "duration": (10, 240), "score": (0, 100),
    }  # fmt: skip
    if concept in ranges:
        return rng.randint(*ranges[concept])
    if concept == "pay":
        return rng.randrange(18_000, 92_000, 500)
    if concept in ("price", "fee"):
        return rng.randrange(200, 9_000, 5) / 100
    if concept == "weight":
        return rng.randrange(5, 900) / 10
    if concept == "rating":
        return rng.randrange(10, 51) / 10
    return f"{rng.randint(2019, 2024)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def shipped_worlds(seed: int = 7) -> dict[str, World]:
    """The worlds that `data/sql` ships, by name."""
    worlds = {}
    for line in _SHIPPED.replace("\n", "|").split("|"):
        place, middle, event = line.split()
        noun, role = middle.split(":")
        rng = random.Random(f"sql/{seed}/{place}")
        worlds[place] = build_world(rng, place, (place, noun, event), role)
    return worlds


@lru_cache(maxsize=1)
def _nouns() -> dict[str, list[str]]:
    """Every noun that a table may be made of, by the role it plays."""
    found = {role: list(nouns) for role, nouns in _OTHERS.items()}
    for line in _SHIPPED.replace("\n", "|").split("|"):
        place, middle, event = line.split()
        noun, role = middle.split(":")
        for key, word in (("place", place), (role, noun), ("event", event)):
            found[key].append(word)
    return found


def words() -> list[str]:
    """The words that names of tables and columns, and values, are made of."""
    nouns = [noun for found in _nouns().values() for noun in found]
    columns = [part for concept in CONCEPTS.values() for name in concept.names for part in name.split("_")]
    values = [*_FIRST, *_LAST, *_WORDS, *_NOUNS, *(word for found in _VALUES.values() for word in found)]
    return list(dict.fromkeys(nouns + [plural(noun) for noun in nouns] + columns + values))


def other_world(rng: random.Random) -> World:
    """A world for the base model's corpus: nouns of any world, put together and filled anew."""
    middle = rng.choice(("person", "thing"))
    nouns = [rng.choice(_nouns()[role]) for role in ("place", middle, "event")]
    return build_world(rng, nouns[0], nouns, middle)


@lru_cache(maxsize=4)
def _opened(folder: str | None, thread: int) -> tuple[dict[str, Database], dict[str, list[Task]]]:
    """Databases and tasks, once for each thread: SQLite answers no thread but the one that opened it."""
    if folder is not None:
        return load(folder)
    databases = {path.stem: Database(path) for path in sorted(FOLDER.glob("*.sqlite"))}
    if not databases:
        raise FileNotFoundError(f"{FOLDER}: no *.sqlite; `python -m ipr_lite data` makes them")
    return databases, {split: read_tasks(FOLDER / f"tasks_{split}.jsonl") for split in SPLITS}


def make(data: str | Path | None = None) -> SQL:
    """The shipped databases, or those of InterCode's or Spider's files in the folder `data`."""
    databases, by_split = _opened(data if data is None else str(data), get_ident())
    return SQL(databases, by_split["train"])


def tasks(split: str, data: str | Path | None = None) -> list[Task]:
    """The questions of a split (`train`, `dev`, `test`). Raises ValueError for another name."""
    _, by_split = _opened(data if data is None else str(data), get_ident())
    if split not in by_split:
        raise ValueError(f"no split {split!r}; the questions have {', '.join(by_split)}")
    return list(by_split[split])
