"""Questions about a generated database, with gold queries of Spider's four levels of hardness.

A sketch is a query whose names are still open: `<visit>` is the table that holds visits, `<visit.price>`
the column with their price, `<visit.#>` its key, `<visit.@museum>` the key of the museum in it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from ipr_lite.envs.sql.generated import CONCEPTS, TableSketch, World, plural
from ipr_lite.envs.sql.hardness import hardness
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.trajectory import Task

Asked = tuple[str, str]
"""A question and the sketch of its query."""


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


class Asker:
    """Draws questions about one world."""

    def __init__(self, world: World, rng: random.Random):
        self.world, self.rng = world, rng

    def ask(self) -> Asked | None:
        """A question of a random form, or None where this world does not fit the form."""
        return self.rng.choice(_FORMS)(self)

    # --- parts ------------------------------------------------------------------------------------

    def table(self, named: bool = False) -> TableSketch:
        tables = [t for t in self.world.tables if not named or self.title(t)]
        return self.rng.choice(tables)

    def title(self, table: TableSketch) -> str | None:
        return next((c for c in table.columns if CONCEPTS[c].role == "name"), None)

    def concept(self, table: TableSketch, role: str) -> str | None:
        fitting = [c for c in table.columns if CONCEPTS[c].role == role]
        return self.rng.choice(fitting) if fitting else None

    def values(self, table: TableSketch, concept: str) -> list:
        place = 1 + list(table.columns).index(concept)
        return [row[place] for row in self.world.rows[table.noun]]

    def parents_of(self, child: TableSketch, parent: TableSketch) -> list[int]:
        """Each child's parent, by key."""
        place = 1 + len(child.columns) + child.parents.index(parent.noun)
        return [row[place] for row in self.world.rows[child.noun]]

    def bound(self, table: TableSketch, concept: str):
        """A number that some rows are above and some below."""
        values = sorted(set(self.values(table, concept)))
        return self.rng.choice(values[len(values) // 5 : -1]) if len(values) > 4 else None

    def family(self) -> Iterator[tuple[TableSketch, TableSketch]]:
        """Pairs (child, parent) in random order."""
        pairs = [(t, self.world.table(p)) for t in self.world.tables for p in t.parents]
        return iter(self.rng.sample(pairs, len(pairs)))

    def pick(self, *texts: str) -> str:
        return self.rng.choice(texts)


def questions(world: World, rng: random.Random, n: int, split: str, prefix: str, database: Database) -> list[Task]:
    """Up to `n` different questions about one world, its levels of hardness as even as its forms allow."""
    asker, found, seen = Asker(world, rng), {}, set()
    for _ in range(60 * n):
        if sum(map(len, found.values())) >= n:
            break
        asked = asker.ask()
        if asked is None or asked[0] in seen:
            continue
        query = gold(world, asked[1])
        level = hardness(query)
        if len(found.setdefault(level, [])) >= -(-n // 4) or database.query(query) in ([], [(None,)]):
            continue
        seen.add(asked[0])
        setup = {"db": world.name, "gold": query, "sketch": asked[1], "hardness": level}
        found[level].append(Task("", "sql", split, asked[0], setup))
    tasks = [task for level in sorted(found) for task in found[level]]
    rng.shuffle(tasks)
    return [replace(task, id=f"{prefix}-{i}") for i, task in enumerate(tasks[:n])]


def _phrase(concept: str) -> str:
    return CONCEPTS[concept].phrase


def _many(table: TableSketch) -> str:
    return plural(table.noun.replace("_", " "))


def _function(a: Asker, concept: str, *words: str) -> tuple[str, str]:
    """A word and its aggregate, of those asked for that mean something: nobody adds up years."""
    fitting = [
        w for w in words if w != "total" or concept not in ("age", "joined", "opened", "made", "rating", "weight")
    ]
    word = a.rng.choice(fitting)
    return word, {"average": "AVG", "highest": "MAX", "lowest": "MIN", "total": "SUM"}[word]


def _an(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _joined(child: TableSketch, parent: TableSketch, up: bool = True) -> str:
    """A child and its parent as T1 and T2 (`up`), or the parent as T1 and its children as T2."""
    if up:
        return f"<{child.noun}> AS T1 JOIN <{parent.noun}> AS T2 ON T1.<{child.noun}.@{parent.noun}> = T2.<{parent.noun}.#>"
    return f"<{parent.noun}> AS T1 JOIN <{child.noun}> AS T2 ON T1.<{parent.noun}.#> = T2.<{child.noun}.@{parent.noun}>"


def _three_joined(event: TableSketch, middle: TableSketch, place: TableSketch) -> str:
    """An event, what it happened to, and the place of that, as T1, T2 and T3."""
    return (
        f"{_joined(event, middle)} JOIN <{place.noun}> AS T3 ON T2.<{middle.noun}.@{place.noun}> = T3.<{place.noun}.#>"
    )


def _quoted(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


_FORMS: list[Callable[[Asker], Asked | None]] = []


def _form(function):
    _FORMS.append(function)
    return function


# --- easy -----------------------------------------------------------------------------------------


@_form
def _count(a: Asker) -> Asked:
    t = a.table()
    return a.pick(f"How many {_many(t)} are there?", f"Count the {_many(t)}."), f"SELECT COUNT(*) FROM <{t.noun}>"


@_form
def _aggregate(a: Asker) -> Asked | None:
    t = a.table()
    if not (c := a.concept(t, "number")):
        return None
    word, function = _function(a, c, "average", "highest", "lowest", "total")
    question = a.pick(
        f"What is the {word} {_phrase(c)} of all {_many(t)}?", f"Give the {word} {_phrase(c)} of the {_many(t)}."
    )
    return question, f"SELECT {function}(<{t.noun}.{c}>) FROM <{t.noun}>"


@_form
def _filter(a: Asker) -> Asked | None:
    t = a.table(named=True)
    shown, group = a.title(t), a.concept(t, "group")
    if not group:
        return None
    value = a.rng.choice(a.values(t, group))
    question = a.pick(
        f"List the {_phrase(shown)} of the {_many(t)} whose {_phrase(group)} is {value}.",
        f"Which {_many(t)} have the {_phrase(group)} {value}? Give their {_phrase(shown)}.",
    )
    return question, f"SELECT <{t.noun}.{shown}> FROM <{t.noun}> WHERE <{t.noun}.{group}> = {_quoted(value)}"


@_form
def _count_above(a: Asker) -> Asked | None:
    t = a.table()
    c = a.concept(t, "number")
    if not c or (n := a.bound(t, c)) is None:
        return None
    question = a.pick(
        f"How many {_many(t)} have {_an(_phrase(c))} above {n}?",
        f"Count the {_many(t)} with {_an(_phrase(c))} over {n}.",
    )
    return question, f"SELECT COUNT(*) FROM <{t.noun}> WHERE <{t.noun}.{c}> > {n}"


@_form
def _different(a: Asker) -> Asked | None:
    t = a.table()
    if not (c := a.concept(t, "group")):
        return None
    question = a.pick(
        f"What are the different values of {_phrase(c)} of the {_many(t)}?",
        f"List every different {_phrase(c)} of the {_many(t)}.",
    )
    return question, f"SELECT DISTINCT <{t.noun}.{c}> FROM <{t.noun}>"


@_form
def _ordered(a: Asker) -> Asked | None:
    t = a.table(named=True)
    shown, c = a.title(t), a.concept(t, "number")
    if not c or len(set(values := a.values(t, c))) < len(values):
        return None
    word, way = a.rng.choice((("from low to high", "ASC"), ("from high to low", "DESC")))
    question = f"List the {_phrase(shown)} of all {_many(t)}, ordered by {_phrase(c)} {word}."
    return question, f"SELECT <{t.noun}.{shown}> FROM <{t.noun}> ORDER BY <{t.noun}.{c}> {way}"


# --- medium ---------------------------------------------------------------------------------------


@_form
def _top(a: Asker) -> Asked | None:
    t = a.table(named=True)
    shown, c = a.title(t), a.concept(t, "number")
    if not c:
        return None
    word, way, best = a.rng.choice((("highest", "DESC", max), ("lowest", "ASC", min)))
    values = a.values(t, c)
    if values.count(best(values)) > 1:
        return None
    question = a.pick(
        f"What is the {_phrase(shown)} of the {t.noun} with the {word} {_phrase(c)}?",
        f"Which {t.noun} has the {word} {_phrase(c)}? Give the {_phrase(shown)}.",
    )
    return question, f"SELECT <{t.noun}.{shown}> FROM <{t.noun}> ORDER BY <{t.noun}.{c}> {way} LIMIT 1"


@_form
def _per_group(a: Asker) -> Asked | None:
    t = a.table()
    if not (c := a.concept(t, "group")):
        return None
    question = a.pick(
        f"For each {_phrase(c)}, how many {_many(t)} are there?",
        f"Show every {_phrase(c)} and the number of its {_many(t)}.",
    )
    return question, f"SELECT <{t.noun}.{c}>, COUNT(*) FROM <{t.noun}> GROUP BY <{t.noun}.{c}>"


@_form
def _mean_per_group(a: Asker) -> Asked | None:
    t = a.table()
    group, c = a.concept(t, "group"), a.concept(t, "number")
    if not group or not c:
        return None
    word, function = _function(a, c, "average", "highest", "total")
    question = f"Show the {word} {_phrase(c)} of the {_many(t)} for each {_phrase(group)}."
    return (
        question,
        f"SELECT <{t.noun}.{group}>, {function}(<{t.noun}.{c}>) FROM <{t.noun}> GROUP BY <{t.noun}.{group}>",
    )


@_form
def _children_of(a: Asker) -> Asked | None:
    for child, parent in a.family():
        if (shown := a.title(child)) and (top := a.title(parent)):
            value = a.rng.choice(a.values(parent, top))
            question = a.pick(
                f"List the {_phrase(shown)} of the {_many(child)} of the {parent.noun} {value}.",
                f"What are the {_phrase(shown)}s of all {_many(child)} that belong to the {parent.noun} {value}?",
            )
            return question, (
                f"SELECT T1.<{child.noun}.{shown}> FROM {_joined(child, parent)} "
                f"WHERE T2.<{parent.noun}.{top}> = {_quoted(value)}"
            )
    return None


@_form
def _total_of(a: Asker) -> Asked | None:
    for child, parent in a.family():
        c, top = a.concept(child, "number"), a.title(parent)
        if c and top:
            value = a.rng.choice(a.values(parent, top))
            word, function = _function(a, c, "average", "highest", "total")
            question = f"What is the {word} {_phrase(c)} of the {_many(child)} of the {parent.noun} {value}?"
            return question, (
                f"SELECT {function}(T1.<{child.noun}.{c}>) FROM {_joined(child, parent)} "
                f"WHERE T2.<{parent.noun}.{top}> = {_quoted(value)}"
            )
    return None


@_form
def _two_aggregates(a: Asker) -> Asked | None:
    t = a.table()
    group, c = a.concept(t, "group"), a.concept(t, "number")
    if not group or not c:
        return None
    value = a.rng.choice(a.values(t, group))
    question = f"What are the average and the highest {_phrase(c)} of the {_many(t)} whose {_phrase(group)} is {value}?"
    return question, (
        f"SELECT AVG(<{t.noun}.{c}>), MAX(<{t.noun}.{c}>) FROM <{t.noun}> WHERE <{t.noun}.{group}> = {_quoted(value)}"
    )


@_form
def _parents_with_many(a: Asker) -> Asked | None:
    for child, parent in a.family():
        if top := a.title(parent):
            n = a.rng.randint(1, 3)
            question = f"Give the {_phrase(top)} of every {parent.noun} with more than {n} {_many(child)}."
            return question, (
                f"SELECT T1.<{parent.noun}.{top}> FROM {_joined(child, parent, up=False)} "
                f"GROUP BY T1.<{parent.noun}.#> HAVING COUNT(*) > {n}"
            )
    return None


# --- hard -----------------------------------------------------------------------------------------


@_form
def _above_average(a: Asker) -> Asked | None:
    t = a.table(named=True)
    shown, c = a.title(t), a.concept(t, "number")
    if not c:
        return None
    word, sign = a.rng.choice((("above", ">"), ("below", "<")))
    question = f"List the {_phrase(shown)} of the {_many(t)} whose {_phrase(c)} is {word} the average."
    return question, (
        f"SELECT <{t.noun}.{shown}> FROM <{t.noun}> WHERE <{t.noun}.{c}> {sign} (SELECT AVG(<{t.noun}.{c}>) FROM <{t.noun}>)"
    )


@_form
def _without_children(a: Asker) -> Asked | None:
    for child, parent in a.family():
        if top := a.title(parent):
            question = a.pick(
                f"Which {_many(parent)} have no {_many(child)}? Give their {_phrase(top)}.",
                f"List the {_phrase(top)} of the {_many(parent)} without any {child.noun}.",
            )
            return question, (
                f"SELECT <{parent.noun}.{top}> FROM <{parent.noun}> WHERE <{parent.noun}.#> NOT IN "
                f"(SELECT <{child.noun}.@{parent.noun}> FROM <{child.noun}>)"
            )
    return None


@_form
def _commonest(a: Asker) -> Asked | None:
    t = a.table()
    if not (c := a.concept(t, "group")):
        return None
    counts = Counter(a.values(t, c)).most_common(2)
    if len(counts) < 2 or counts[0][1] == counts[1][1]:
        return None
    question = f"Which {_phrase(c)} is the most common among the {_many(t)}?"
    return question, f"SELECT <{t.noun}.{c}> FROM <{t.noun}> GROUP BY <{t.noun}.{c}> ORDER BY COUNT(*) DESC LIMIT 1"


@_form
def _three_tables(a: Asker) -> Asked | None:
    event, middle, place = a.world.tables[2], a.world.tables[1], a.world.tables[0]
    top = a.title(place)
    value = a.rng.choice(a.values(place, top))
    question = f"How many {_many(event)} belong to {_many(middle)} of the {place.noun} {value}?"
    return question, (
        f"SELECT COUNT(*) FROM {_three_joined(event, middle, place)} WHERE T3.<{place.noun}.{top}> = {_quoted(value)}"
    )


@_form
def _three_tables_per_place(a: Asker) -> Asked | None:
    event, middle, place = a.world.tables[2], a.world.tables[1], a.world.tables[0]
    top, c = a.title(place), a.concept(event, "number")
    if not c:
        return None
    word, function = _function(a, c, "average", "total")
    question = f"For each {place.noun}, show its {_phrase(top)} and the {word} {_phrase(c)} of the {_many(event)} of its {_many(middle)}."
    return question, (
        f"SELECT T3.<{place.noun}.{top}>, {function}(T1.<{event.noun}.{c}>) FROM {_three_joined(event, middle, place)} "
        f"GROUP BY T3.<{place.noun}.#>"
    )


# --- extra ----------------------------------------------------------------------------------------


@_form
def _most_children(a: Asker) -> Asked | None:
    for child, parent in a.family():
        top = a.title(parent)
        counts = Counter(a.parents_of(child, parent)).most_common(2)
        if top and len(counts) > 1 and counts[0][1] > counts[1][1]:
            question = f"Which {parent.noun} has the most {_many(child)}? Give its {_phrase(top)}."
            return question, (
                f"SELECT T1.<{parent.noun}.{top}> FROM {_joined(child, parent, up=False)} "
                f"GROUP BY T1.<{parent.noun}.#> ORDER BY COUNT(*) DESC LIMIT 1"
            )
    return None


@_form
def _above_average_of_group(a: Asker) -> Asked | None:
    t = a.table(named=True)
    shown, c, group = a.title(t), a.concept(t, "number"), a.concept(t, "group")
    if not c or not group:
        return None
    value = a.rng.choice(a.values(t, group))
    question = (
        f"Show the {_phrase(shown)} and the {_phrase(c)} of the {_many(t)} whose {_phrase(c)} is above the average "
        f"{_phrase(c)} of those whose {_phrase(group)} is {value}."
    )
    return question, (
        f"SELECT <{t.noun}.{shown}>, <{t.noun}.{c}> FROM <{t.noun}> WHERE <{t.noun}.{c}> > (SELECT AVG(<{t.noun}.{c}>) "
        f"FROM <{t.noun}> WHERE <{t.noun}.{group}> = {_quoted(value)})"
    )


@_form
def _best_of_parent(a: Asker) -> Asked | None:
    for child, parent in a.family():
        shown, top, c = a.title(child), a.title(parent), a.concept(child, "number")
        if shown and top and c:
            value = a.rng.choice(a.values(parent, top))
            key = a.values(parent, top).index(value) + 1
            numbers = [n for n, above in zip(a.values(child, c), a.parents_of(child, parent)) if above == key]
            if not numbers or numbers.count(max(numbers)) > 1:
                continue
            question = f"Of the {_many(child)} of the {parent.noun} {value}, which has the highest {_phrase(c)}? Give its {_phrase(shown)}."
            return question, (
                f"SELECT T1.<{child.noun}.{shown}> FROM {_joined(child, parent)} "
                f"WHERE T2.<{parent.noun}.{top}> = {_quoted(value)} "
                f"ORDER BY T1.<{child.noun}.{c}> DESC LIMIT 1"
            )
    return None


@_form
def _either(a: Asker) -> Asked | None:
    t = a.table(named=True)
    shown, group, c = a.title(t), a.concept(t, "group"), a.concept(t, "number")
    if not group or not c or (n := a.bound(t, c)) is None:
        return None
    value = a.rng.choice(a.values(t, group))
    question = (
        f"Show the {_phrase(shown)} and the {_phrase(group)} of the {_many(t)} whose {_phrase(group)} is {value} or whose "
        f"{_phrase(c)} is above {n}."
    )
    return question, (
        f"SELECT <{t.noun}.{shown}>, <{t.noun}.{group}> FROM <{t.noun}> WHERE <{t.noun}.{group}> = {_quoted(value)} OR "
        f"<{t.noun}.{c}> > {n}"
    )
