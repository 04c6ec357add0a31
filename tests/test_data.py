"""The shipped data: made again byte for byte, with what the issues ask of it."""

import random
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from spider_hardness import hardness

from ipr_lite.envs.sql import generated as sql_world
from ipr_lite.envs.sql.questions import FORMS, LEVELS, ask, gold
from ipr_lite.make.data import SQL_SPLITS, write_data
from ipr_lite.records import read_tasks, read_trajectories

DATA = Path(__file__).parents[1] / "data"
WORLDS = ("shop", "sql", "house")


def test_the_command_writes_the_shipped_bytes(tmp_path):
    for path in write_data(tmp_path):
        shipped = DATA / path.relative_to(tmp_path)
        assert path.read_bytes() == shipped.read_bytes(), f"run `python -m ipr_lite data`: {shipped.name} is stale"
    for world in WORLDS:
        assert {p.name for p in (tmp_path / world).iterdir()} == {p.name for p in (DATA / world).iterdir()}


@pytest.mark.parametrize("world", WORLDS)
def test_demonstrations_are_of_train_tasks(world):
    train = {task.id for task in read_tasks(DATA / world / "tasks_train.jsonl")}
    for people in ("habitual", "careful"):
        ids = [t.task.id for t in read_trajectories(DATA / world / f"demonstrations_{people}.jsonl")]
        assert len(ids) == len(set(ids)) >= 300 and train.issuperset(ids)


def test_questions_of_four_levels_about_databases_of_their_own():
    splits = {split: read_tasks(DATA / "sql" / f"tasks_{split}.jsonl") for split in SQL_SPLITS}
    databases = {split: {task.setup["db"] for task in tasks} for split, tasks in splits.items()}
    assert sum(map(len, databases.values())) == len(set.union(*databases.values())) >= 20
    for split, tasks in splits.items():
        assert len(tasks) == SQL_SPLITS[split][1]
        levels = Counter(hardness(task.setup["gold"]) for task in tasks)
        print(split, dict(levels))
        assert all(levels[level] / len(tasks) >= 0.15 for level in LEVELS)
    joins = Counter(task.setup["gold"].count(" JOIN ") for tasks in splits.values() for task in tasks)
    assert joins[1] > 50 and joins[2] > 50


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.wordings[0])
def test_a_form_is_as_hard_as_it_says(form):
    rng = random.Random(0)
    worlds = [sql_world.other_world(rng) for _ in range(30)]
    sketches = [(world, asked[1]) for world in worlds if (asked := ask(form, world, rng))]
    assert len(sketches) > 5 and {hardness(gold(world, sketch)) for world, sketch in sketches} == {form.level}


def test_questions_draw_in_the_order_that_the_shipped_data_rests_on():
    """Red where a form draws more, less or in another order, even one that `data/sql` happens not to hold."""
    rng = random.Random(0)
    worlds = [sql_world.other_world(rng) for _ in range(10)]
    asked = [ask(form, world, rng) for form in FORMS for world in worlds]
    found = sha256(repr([*asked, rng.random()]).encode()).hexdigest()
    assert found[:16] == "c9e94b069ef0cfe0", "make data/sql anew, and the base, which read such questions"


def test_the_corpus_has_other_databases():
    """The same words in other tables: no database of the corpus is a shipped one, nor is any of its tables."""

    def tables(world):
        return {(table.name, *table.columns.values()) for table in world.tables}

    rng = random.Random(0)
    others = [sql_world.other_world(rng) for _ in range(300)]
    shipped = list(sql_world.shipped_worlds().values())
    assert not set().union(*map(tables, shipped)) & set().union(*map(tables, others))
    trios = [{table.noun for table in world.tables} for world in shipped]
    assert all({table.noun for table in other.tables} not in trios for other in others)
    assert len({table.noun for other in others for table in other.tables}) > 100
