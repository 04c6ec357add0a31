"""Questions about a generated database, with gold queries of Spider's four levels of hardness.

A sketch is a query whose names are still open: `<visit>` is the table that holds visits, `<visit.price>`
the column with their price, `<visit.#>` its key, `<visit.@museum>` the key of the museum in it.

A form is a kind of question, a row of `FORMS`. Its tables and columns are open as well: `<child>` is
any table that points to another, `<parent>` that other, `<child.number>` any of its columns with numbers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ipr_lite.envs.sql.generated import CONCEPTS, TableSketch, World, plural
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.records import Task

LEVELS = ("easy", "medium", "hard", "extra")
"""Spider's levels of hardness."""


class Form(NamedTuple):
    """A kind of question. All is drawn in the order in which it stands here.

    columns: `table.number`, any column of that role. needs: what else is open (`value:table.group`, a value
    of that column; `_Draft.options` has all), or a check that there is one answer (`_CHECKS`). wordings:
    `<child.s>` is the plural, `<an child.number>` has its article. sketch: `_UP` joins a child to its parent.
    """

    level: str
    columns: tuple[str, ...]
    needs: tuple[str, ...]
    wordings: tuple[str, ...]
    sketch: str


_UP = "<child> AS T1 JOIN <parent> AS T2 ON T1.<child.@parent> = T2.<parent.#>"
_DOWN = "<parent> AS T1 JOIN <child> AS T2 ON T1.<parent.#> = T2.<child.@parent>"
_THREE = (
    "<event> AS T1 JOIN <middle> AS T2 ON T1.<event.@middle> = T2.<middle.#> "
    "JOIN <place> AS T3 ON T2.<middle.@place> = T3.<place.#>"
)

# A paragraph each: level | columns | needs, then the wordings, and last the sketch.
_FORMS = f"""
easy | |
How many <table.s> are there?
Count the <table.s>.
SELECT COUNT(*) FROM <table>

easy | table.number | aggregate:table.number:average,highest,lowest,total
What is the <aggregate> <table.number> of all <table.s>?
Give the <aggregate> <table.number> of the <table.s>.
SELECT <aggregate>(<table.number>) FROM <table>

easy | table.name table.group | value:table.group
List the <table.name> of the <table.s> whose <table.group> is <value>.
Which <table.s> have the <table.group> <value>? Give their <table.name>.
SELECT <table.name> FROM <table> WHERE <table.group> = <value>

easy | table.number | bound:table.number
How many <table.s> have <an table.number> above <bound>?
Count the <table.s> with <an table.number> over <bound>.
SELECT COUNT(*) FROM <table> WHERE <table.number> > <bound>

easy | table.group |
What are the different values of <table.group> of the <table.s>?
List every different <table.group> of the <table.s>.
SELECT DISTINCT <table.group> FROM <table>

easy | table.name table.number | all_differ:table.number order
List the <table.name> of all <table.s>, ordered by <table.number> <order>.
SELECT <table.name> FROM <table> ORDER BY <table.number> <order>

medium | table.name table.number | extreme one_extreme:table.number
What is the <table.name> of the <table> with the <extreme> <table.number>?
Which <table> has the <extreme> <table.number>? Give the <table.name>.
SELECT <table.name> FROM <table> ORDER BY <table.number> <extreme> LIMIT 1

medium | table.group |
For each <table.group>, how many <table.s> are there?
Show every <table.group> and the number of its <table.s>.
SELECT <table.group>, COUNT(*) FROM <table> GROUP BY <table.group>

medium | table.group table.number | aggregate:table.number:average,highest,total
Show the <aggregate> <table.number> of the <table.s> for each <table.group>.
SELECT <table.group>, <aggregate>(<table.number>) FROM <table> GROUP BY <table.group>

medium | child.name parent.name | value:parent.name
List the <child.name> of the <child.s> of the <parent> <value>.
What are the <child.name>s of all <child.s> that belong to the <parent> <value>?
SELECT T1.<child.name> FROM {_UP} WHERE T2.<parent.name> = <value>

medium | child.number parent.name | value:parent.name aggregate:child.number:average,highest,total
What is the <aggregate> <child.number> of the <child.s> of the <parent> <value>?
SELECT <aggregate>(T1.<child.number>) FROM {_UP} WHERE T2.<parent.name> = <value>

medium | table.group table.number | value:table.group
What are the average and the highest <table.number> of the <table.s> whose <table.group> is <value>?
SELECT AVG(<table.number>), MAX(<table.number>) FROM <table> WHERE <table.group> = <value>

medium | parent.name | few
Give the <parent.name> of every <parent> with more than <few> <child.s>.
SELECT T1.<parent.name> FROM {_DOWN} GROUP BY T1.<parent.#> HAVING COUNT(*) > <few>

hard | table.name table.number | side
List the <table.name> of the <table.s> whose <table.number> is <side> the average.
SELECT <table.name> FROM <table> WHERE <table.number> <side> (SELECT AVG(<table.number>) FROM <table>)

hard | parent.name |
Which <parent.s> have no <child.s>? Give their <parent.name>.
List the <parent.name> of the <parent.s> without any <child>.
SELECT <parent.name> FROM <parent> WHERE <parent.#> NOT IN (SELECT <child.@parent> FROM <child>)

hard | table.group | one_commonest:table.group
Which <table.group> is the most common among the <table.s>?
SELECT <table.group> FROM <table> GROUP BY <table.group> ORDER BY COUNT(*) DESC LIMIT 1

hard | place.name | value:place.name
How many <event.s> belong to <middle.s> of the <place> <value>?
SELECT COUNT(*) FROM {_THREE} WHERE T3.<place.name> = <value>

hard | place.name event.number | aggregate:event.number:average,total
For each <place>, show its <place.name> and the <aggregate> <event.number> of the <event.s> of its <middle.s>.
SELECT T3.<place.name>, <aggregate>(T1.<event.number>) FROM {_THREE} GROUP BY T3.<place.#>

extra | parent.name | one_commonest:child.@parent
Which <parent> has the most <child.s>? Give its <parent.name>.
SELECT T1.<parent.name> FROM {_DOWN} GROUP BY T1.<parent.#> ORDER BY COUNT(*) DESC LIMIT 1

extra | table.name table.number table.group | value:table.group
Show the <table.name> and the <table.number> of the <table.s> whose <table.number> is above the average <table.number> of those whose <table.group> is <value>.
SELECT <table.name>, <table.number> FROM <table> WHERE <table.number> > (SELECT AVG(<table.number>) FROM <table> WHERE <table.group> = <value>)

extra | child.name parent.name child.number | value:parent.name one_best:child.number
Of the <child.s> of the <parent> <value>, which has the highest <child.number>? Give its <child.name>.
SELECT T1.<child.name> FROM {_UP} WHERE T2.<parent.name> = <value> ORDER BY T1.<child.number> DESC LIMIT 1

extra | table.name table.group table.number | bound:table.number value:table.group
Show the <table.name> and the <table.group> of the <table.s> whose <table.group> is <value> or whose <table.number> is above <bound>.
SELECT <table.name>, <table.group> FROM <table> WHERE <table.group> = <value> OR <table.number> > <bound>
"""


def _form(paragraph: str) -> Form:
    head, *wordings, sketch = paragraph.splitlines()
    level, columns, needs = (cell.split() for cell in head.split("|"))
    return Form(*level, tuple(columns), tuple(needs), tuple(wordings), sketch)


FORMS = tuple(map(_form, _FORMS.strip().split("\n\n")))

_CHOICES = {
    "few": (("1", "1"), ("2", "2"), ("3", "3")),
    "order": (("from low to high", "ASC"), ("from high to low", "DESC")),
    "extreme": (("highest", "DESC"), ("lowest", "ASC")),
    "side": (("above", ">"), ("below", "<")),
}
"""What fills an open name: a word of the question, and the same in SQL."""
_AGGREGATES = {"average": "AVG", "highest": "MAX", "lowest": "MIN", "total": "SUM"}
_NOT_ADDED = ("age", "rating", "weight", "opening year", "year of joining", "year of making")


def resolve(sketch: str, name_of: Callable[[str], str]) -> str:
    """The sketch with every open name filled in by `name_of("visit.price")`."""
    return re.sub(r"<([^<>]+)>", lambda found: name_of(found.group(1)), sketch)


def gold(world: World, sketch: str) -> str:
    """The query that the sketch means in this world."""

    def name_of(reference: str) -> str:
        noun, _, part = reference.partition(".")
        table = world.table(noun)
        if not part:
            return table.name
        if part == "#":
            return table.key
        return f"{part[1:]}_id" if part.startswith("@") else table.columns[part]

    return resolve(sketch, name_of)


def questions(world: World, rng: random.Random, n: int, split: str, prefix: str, database: Database) -> list[Task]:
    """Up to `n` different questions about one world, its levels of hardness as even as its forms allow."""
    found: dict[str, list[Task]] = {}
    seen = set()
    for _ in range(60 * n):
        if sum(map(len, found.values())) >= n:
            break
        form = rng.choice(FORMS)
        asked = ask(form, world, rng)
        if asked is None or asked[0] in seen:
            continue
        question, sketch = asked
        query = gold(world, sketch)
        if len(found.setdefault(form.level, [])) >= -(-n // 4) or database.query(query) in ([], [(None,)]):
            continue
        seen.add(question)
        setup = {"db": world.name, "gold": query, "sketch": sketch, "hardness": form.level}
        found[form.level].append(Task("", "sql", split, question, setup))
    tasks = [task for level in sorted(found) for task in found[level]]
    rng.shuffle(tasks)
    return [replace(task, id=f"{prefix}-{i}") for i, task in enumerate(tasks[:n])]


def ask(form: Form, world: World, rng: random.Random) -> tuple[str, str] | None:
    """A question of the form and the sketch of its query, or None where this world does not fit the form."""
    for tables in _castings(form, world, rng):
        draft = _Draft(world, rng, tables)
        # Columns are drawn to the last one even where one is missing: the order of draws is the data's.
        columns = [draft.fill(column) for column in form.columns]
        if all(columns) and all(map(draft.fill, form.needs)):
            wording = rng.choice(form.wordings) if len(form.wordings) > 1 else form.wordings[0]
            return resolve(wording, draft.word), resolve(form.sketch, draft.name)
    return None


def _castings(form: Form, world: World, rng: random.Random) -> Iterator[dict[str, TableSketch]]:
    """Which tables may play the parts that the form's sketch names, in random order."""
    if "<event>" in form.sketch:
        yield dict(zip(("place", "middle", "event"), world.tables, strict=True))
    elif "<child>" in form.sketch:
        pairs = [(child, world.table(noun)) for child in world.tables for noun in child.parents]
        for child, parent in rng.sample(pairs, len(pairs)):
            yield {"child": child, "parent": parent}
    else:
        fitting = [t for t in world.tables if "table.name" not in form.columns or _columns(t, "name")]
        yield {"table": rng.choice(fitting)}


def _columns(table: TableSketch, role: str) -> list[tuple[str, str]]:
    """The columns of a role: in words, and in a sketch."""
    return [(CONCEPTS[c].phrase, f"<{table.noun}.{c}>") for c in table.columns if CONCEPTS[c].role == role]


class _Draft:
    """A form about certain tables, while its open names are filled: each in words, and in the sketch."""

    def __init__(self, world: World, rng: random.Random, tables: dict[str, TableSketch]):
        self.world, self.rng, self.tables = world, rng, tables
        self.filled: dict[str, tuple[str, str]] = {}
        for part, table in tables.items():
            self.filled[part] = (table.noun, f"<{table.noun}>")
            self.filled[f"{part}.s"] = (plural(table.noun), "")
            self.filled[f"{part}.#"] = ("", f"<{table.noun}.#>")
            for name in _columns(table, "name"):
                self.filled[f"{part}.name"] = name
            for other, above in tables.items():
                self.filled[f"{part}.@{other}"] = ("", f"<{table.noun}.@{above.noun}>")

    def fill(self, need: str) -> bool:
        """Draw what fills an open name, or check the answer; whether that can be done."""
        kind, *of = need.split(":")
        if kind in self.filled:
            return True
        if kind in _CHECKS:
            return _CHECKS[kind](self, *of)
        options = self.options(kind, *of)
        if options:
            self.filled[kind] = self.rng.choice(options)
        return bool(options)

    def options(self, kind: str, column: str = "", words: str = "") -> Sequence[tuple[str, str]]:
        """What may fill an open name."""
        if kind == "value":
            return [(str(v), f"'{v}'" if isinstance(v, str) else str(v)) for v in self.values(column)]
        if kind == "bound":  # some rows are above it and some below
            numbers = sorted(set(self.values(column)))
            return [(str(n), str(n)) for n in (numbers[len(numbers) // 5 : -1] if len(numbers) > 4 else ())]
        if kind == "aggregate":  # nobody adds up years
            fitting = [w for w in words.split(",") if w != "total" or self.word(column) not in _NOT_ADDED]
            return [(word, _AGGREGATES[word]) for word in fitting]
        if kind in _CHOICES:
            return _CHOICES[kind]
        part, role = kind.split(".")
        return _columns(self.tables[part], role)

    def values(self, column: str) -> list:
        """What the rows have in `table.number` or, the keys of other rows, in `child.@parent`."""
        table = self.tables[column.partition(".")[0]]
        parts = ["#", *table.columns, *(f"@{parent}" for parent in table.parents)]
        place = [f"<{table.noun}.{part}>" for part in parts].index(self.name(column))
        return [row[place] for row in self.world.rows[table.noun]]

    def name(self, reference: str) -> str:
        """An open name of the form's sketch, as the question's sketch has it."""
        return self.filled[reference][1]

    def word(self, reference: str) -> str:
        """An open name of a wording, in words."""
        word = self.filled[reference.removeprefix("an ")][0]
        if reference.startswith("an "):
            return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
        return word


def _all_differ(draft: _Draft, column: str) -> bool:
    values = draft.values(column)
    return len(set(values)) == len(values)


def _one_extreme(draft: _Draft, column: str) -> bool:
    best = {"highest": max, "lowest": min}[draft.word("extreme")]
    values = draft.values(column)
    return values.count(best(values)) == 1


def _one_commonest(draft: _Draft, column: str) -> bool:
    counts = Counter(draft.values(column)).most_common(2)
    return len(counts) > 1 and counts[0][1] > counts[1][1]


def _one_best(draft: _Draft, column: str) -> bool:
    """Of the children of the parent that was drawn, one is above the others."""
    key = draft.values("parent.name").index(draft.word("value")) + 1
    children = zip(draft.values(column), draft.values("child.@parent"), strict=True)
    numbers = [number for number, parent in children if parent == key]
    return numbers.count(max(numbers, default=0)) == 1


_CHECKS = {
    "all_differ": _all_differ, "one_extreme": _one_extreme, "one_commonest": _one_commonest, "one_best": _one_best,
}  # fmt: skip
