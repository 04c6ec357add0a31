"""The shipped data: for each world its tasks and demonstrations, what they need, a card and checksums.

`python -m ipr_lite data` writes the same bytes again; CHECKSUMS tells.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from ipr_lite import envs
from ipr_lite.engine.folder import sha256_of
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.house import generated as house_world
from ipr_lite.envs.house.game import write_problem
from ipr_lite.envs.shop import generated as shop_world
from ipr_lite.envs.sql import generated as sql_world
from ipr_lite.envs.sql import questions as sql_questions
from ipr_lite.envs.sql.env import SQL
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.records import Task, write_atomically, write_jsonl, write_tasks, write_trajectories

SQL_SPLITS = {"train": (14, 400), "dev": (4, 100), "test": (6, 300)}
"""Databases and questions of each split. Splits share no database, as Spider's do not."""


def write_data(folder: Path) -> list[Path]:
    """Write every world's files under `folder`; their paths."""
    return [*write_shop(Path(folder) / "shop"), *write_sql(Path(folder) / "sql"), *write_house(Path(folder) / "house")]


def write_shop(folder: Path) -> list[Path]:
    """The generated shop: its catalogue, tasks, demonstrations and card."""
    env = shop_world.make()
    tasks = {split: shop_world.tasks(split) for split in shop_world.SIZES}
    products = list(env.catalogue.products.values())
    path = write_jsonl(folder / "products.jsonl", (asdict(p) for p in products))
    lines = {path: ("the catalogue", len(products))}
    about = {"products": len(products), "categories": len({p.query for p in products})}
    return _write_world(folder, "shop", env, tasks, lines, about)


def write_sql(folder: Path) -> list[Path]:
    """The generated databases: a SQLite file each, questions, demonstrations and card."""
    worlds = sql_world.shipped_worlds()
    databases, lines = {}, {}
    for name, world in worlds.items():
        path = write_atomically(folder / f"{name}.sqlite", world.bytes())
        databases[name] = Database(path)
        lines[path] = ("a database", sum(map(len, world.rows.values())))
    names = random.Random("sql splits").sample(sorted(worlds), len(worlds))
    tasks: dict[str, list[Task]] = {}
    for split, (n_databases, n_tasks) in SQL_SPLITS.items():
        chosen, names = names[:n_databases], names[n_databases:]
        each = -(-n_tasks // n_databases)
        found = [
            task
            for name in chosen
            for task in sql_questions.questions(
                worlds[name], random.Random(f"questions/{name}"), each, split, f"sql-{split}-{name}", databases[name]
            )
        ]
        random.Random(f"order/{split}").shuffle(found)
        tasks[split] = found[:n_tasks]
    levels = Counter(task.setup["hardness"] for found in tasks.values() for task in found)
    counts = ", ".join(f"{levels[level]} {level}" for level in sql_questions.LEVELS)
    about = {"databases": len(worlds), "levels": counts}
    return _write_world(folder, "sql", SQL(databases, tasks["train"]), tasks, lines, about)


def write_house(folder: Path) -> list[Path]:
    """The generated households: every game as the PDDL problem it is, demonstrations and card."""
    env = house_world.make()
    tasks, lines = {}, {}
    for split in house_world.SIZES:
        games, tasks[split] = house_world.games(split)
        records = [
            {
                "split": split,
                "game": t.id,
                "task_type": t.setup["type"],
                "task": t.instruction,
                "pddl_problem": write_problem(games[t.id]),
            }
            for t in tasks[split]
        ]
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path = write_atomically(folder / f"games_{split}.jsonl.gz", gzip.compress(text.encode(), mtime=0))
        lines[path] = (f"{split} games", len(records))
    rooms = {kind: len(house_world.layouts(kind)) for kind in ("seen", "unseen")}
    return _write_world(folder, "house", env, tasks, lines, {"layouts": sum(rooms.values()), **rooms})


def _write_world(
    folder: Path, name: str, env: TextEnv, tasks: dict[str, list[Task]], lines: dict[Path, tuple[str, int]], about: dict[str, object],
) -> list[Path]:  # fmt: skip
    """Tasks and demonstrations of one world; then the card, filled in, and the checksums of all."""
    for split, found in tasks.items():
        path = write_tasks(folder / f"tasks_{split}.jsonl", found)
        lines[path] = (f"{split} tasks", len(found))
    people = envs.people_of(name)
    played = {
        word: people.demonstrations(tasks["train"], env, people.sorts[word], 0) for word in ("habitual", "careful")
    }
    for word, found in played.items():
        path = write_trajectories(folder / f"demonstrations_{word}.jsonl", found)
        lines[path] = (f"train tasks as {word} people do them", len(found))
    tests = [task for split, found in tasks.items() if split.startswith("test") for task in found]
    ceiling = people.demonstrations(tests, env, people.careful, 0, keep=-1)
    habitual = played["habitual"]
    card = CARDS[name].format(
        files=_table(lines), careful=fmean(t.reward for t in ceiling), habitual=fmean(t.reward for t in habitual),
        failures=sum(not t.success for t in habitual), steps=fmean(t.steps for t in habitual), keep=people.keep,
        kept=len(habitual), train=len(tasks["train"]), longest=max(t.steps for t in habitual), **about,
    )  # fmt: skip
    write_atomically(folder / "CARD.md", card)
    write_atomically(folder / "CHECKSUMS", "".join(f"{sha256_of(p)}  {p.name}\n" for p in lines))
    return [*lines, folder / "CARD.md", folder / "CHECKSUMS"]


def _table(lines: dict[Path, tuple[str, int]]) -> str:
    """A row for every file; databases share one."""
    databases = [number for path, (_, number) in lines.items() if path.suffix == ".sqlite"]
    rows = [f"| `*.sqlite` | {len(databases)} databases of three tables | {sum(databases)} rows |"] if databases else []
    rows += [f"| `{p.name}` | {what} | {number} |" for p, (what, number) in lines.items() if p.suffix != ".sqlite"]
    return "\n".join(rows)


_MADE = """Nobody's data is in it: all names are invented. Licence: Apache-2.0, as the code. Made by `python -m
ipr_lite data`; CHECKSUMS holds the sha256 of every file.

| file | what | lines |
|---|---|---:|
{files}
"""

CARDS = {
    "shop": """# Data card: the generated shop

A shop of {products} products in {categories} categories, made by `ipr_lite/envs/shop/generated.py` from
a fixed seed, in WebShop's text format.

"""
    + _MADE
    + """
**People.** Demonstrations are scripted (`ipr_lite/envs/shop/people.py`). *Careful* people read the
instruction and choose every option it names: mean reward {careful:.3f} on the test tasks, the ceiling
in every table. *Habitual* people have habits, drawn once a task; what they are is in that file, and
notebook 02 lets you find them first. A habitual demonstration is kept if its reward is at least
{keep}: {kept} of {train} train tasks, mean reward {habitual:.3f}, {steps:.1f} steps on average, at most
{longest}. These two files are seed 0; a run draws its own from its seed.

**Splits.** No product is the target of tasks in two splits. The base model's corpus comes from other
generated shops, with other brands, products and ids.
""",
    "sql": """# Data card: the generated databases

{databases} small worlds of three tables each (a place, what belongs to it, what happens to that), made by
`ipr_lite/envs/sql/generated.py` from a fixed seed, with questions by `sql_questions.py`.

"""
    + _MADE
    + """
**Names.** What a question calls "the yearly pay" may be the column pay, salary or yearly_pay: each
database draws its own names, so one must look before one knows.

**Questions.** {levels}, by Spider's own count of hardness; joins of up to three tables. Each has its
gold query, which answers with at least one row.

**MySQL's dialect, emulated.** The files are SQLite's. What an agent asks is parsed by sqlglot, checked by
MySQL 8's rules for names and ONLY_FULL_GROUP_BY, answered with MySQL's error texts and its connector's
types. Against the logs of InterCode's real server 92 % of 13,532 observations and 98.9 % of 10,808 rewards
are equal (`tests/test_sql.py` prints them by cause). Not emulated: writes, REGEXP and rarer functions, MySQL's
order of ties, "Subquery returns more than 1 row".

**People.** Demonstrations are scripted (`ipr_lite/envs/sql/people.py`). *Careful* people look at the
tables and columns before they ask: mean reward {careful:.3f} on the test questions. Of the *habitual* people
six in ten write the query first; after an error half of these try another name instead of looking, and some give
up; some leave out ORDER BY or DISTINCT. A habitual demonstration is kept if its reward is at least {keep}:
{kept} of {train} train questions, {failures} failures among them, mean reward {habitual:.3f}, {steps:.1f} steps
on average, at most {longest}.

**Splits.** Splits share no database. The base model's corpus comes from other databases: the
same words, put together and filled anew, so it has read every name but no database, and one test question in six was
asked there of another.
""",
    "house": """# Data card: the generated households

{layouts} room layouts ({seen} seen, {unseen} unseen: kitchens, bedrooms, living rooms, bathrooms) made by
`ipr_lite/envs/house/generated.py` from a fixed seed, furnished as ALFWorld's are, and games of ALFWorld's six
kinds of task. `games_*.jsonl.gz` hold each game as the PDDL problem it is.

"""
    + _MADE
    + """
**People.** Demonstrations are scripted (`ipr_lite/envs/house/people.py`). *Careful* people look first
where a thing may be: mean reward {careful:.3f} on the test games, within 20 steps. *Habitual* people go
through the furniture as it is listed, whatever they seek, and six in ten open and close everything on the way, so
some do not finish in time. All their demonstrations are kept, {failures} of {kept} failures among them: mean
reward {habitual:.3f}, {steps:.1f} steps on average.

**Splits.** `test_unseen` plays in layouts that no other split has. The base model's corpus comes from
other layouts.
""",
}
