"""The shipped data: made again byte for byte, with what the issues ask of it."""

import random
from collections import Counter
from pathlib import Path

import pytest

from ipr_lite.data import SQL_SPLITS, write_data
from ipr_lite.envs import sql_experts, sql_world
from ipr_lite.envs.sql_hardness import LEVELS, hardness
from ipr_lite.trajectory import read_tasks, read_trajectories

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


def test_the_corpus_has_other_databases():
    shipped = {table.noun for world in sql_world.shipped_worlds().values() for table in world.tables}
    rng = random.Random(0)
    others = {table.noun for _ in range(300) for table in sql_world.other_world(rng).tables}
    assert len(others) > 60 and not shipped & others
    asked = {task.instruction for split in SQL_SPLITS for task in read_tasks(DATA / "sql" / f"tasks_{split}.jsonl")}
    assert not asked & {t.task.instruction for t in sql_experts.transcripts(120, seed=0)}
