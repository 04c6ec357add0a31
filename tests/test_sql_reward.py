"""InterCodeSQL's reward against SciPy, worked examples, and the logs of the real environment."""

import ast
import datetime
import gzip
import json
import math
import os
import random
import sqlite3
from decimal import Decimal
from pathlib import Path
from statistics import fmean

import pytest
from scipy import stats

from ipr_lite.envs.sql.reward import answer_reward, tau_b

A, B, C = ("a", 1), ("b", 2), ("c", 3)


@pytest.mark.parametrize(
    ("rows", "gold", "reward"),
    [
        ([A, B], [A, B], 1.0),
        ([B, A], [A, B], -1.0),  # all rows, in the opposite order
        ([A], [A, B], 0.5),  # one shared row has no order
        ([A, B, C], [A, C], 0.67),
        ([A, A], [A, A], 1.0),  # equal rows have no order either
        ([A, A, B], [A, B], 0.67),
        ([C], [A], 0.0),
        ([], [A], 0.0),
        ([A], [], 0.0),
        ([], [], 1.0),
        ([], "Error executing query: ...", 1.0),  # a gold query that fails counts as empty
        ("Error executing query: ...", [A], 0.0),
        (None, [], 0.0),
    ],
)
def test_worked_examples(rows, gold, reward):
    assert answer_reward(rows, gold) == reward


def test_a_share_is_rounded_only_where_an_order_scales_it():
    assert answer_reward([A], [A, B, C]) == 1 / 3
    assert answer_reward([A, B], [A, B, C]) == 0.67


def test_tau_b_is_scipys():
    rng = random.Random(0)
    for _ in range(500):
        a, b = ([rng.choice("abcdef") for _ in range(n)] for n in [rng.randint(2, 12)] * 2)
        # SciPy ranks numbers; texts are given as their places in the alphabet.
        with_scipy = stats.kendalltau([ord(x) for x in a], [ord(x) for x in b]).statistic
        assert tau_b(a, b) == pytest.approx(with_scipy, nan_ok=True)
        assert math.isnan(tau_b(a, b)) == (len(set(a)) == 1 or len(set(b)) == 1)


def value(node):
    """A logged Python literal, with the types that MySQL's connector gives."""
    if isinstance(node, ast.Call):
        kind = {"Decimal": Decimal, "date": datetime.date, "datetime": datetime.datetime}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        return kind[name](*map(value, node.args))
    if isinstance(node, ast.List):
        return [value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(value(item) for item in node.elts)
    return ast.literal_eval(node)


def test_parity_logged_rewards():
    """Logged results scored against the gold query, run in plain SQLite, whose numbers are no Decimals."""
    root = os.environ.get("IPR_LITE_REAL_DATA")
    if not root:
        pytest.skip("IPR_LITE_REAL_DATA is unset: no logged episodes to compare with")
    equal: list[bool] = []
    paid: list[bool] = []
    folder = Path(root) / "intercode"
    with gzip.open(folder / "replay_cases.jsonl.gz", "rt", encoding="utf-8") as file:
        for case in map(json.loads, file):
            with sqlite3.connect(f"file:{folder}/dbs/{case['db']}.sqlite?mode=ro", uri=True) as database:
                try:
                    gold = database.execute(case["gold"]).fetchall()
                except sqlite3.Error:
                    continue
            for _, observation, reward in case["turns"]:
                if reward is None or not observation.startswith("["):
                    continue
                try:
                    rows = value(ast.parse(observation, mode="eval").body)
                except (SyntaxError, ValueError, KeyError):
                    continue
                equal.append(abs(answer_reward(rows, gold) - reward) < 0.006)
                paid += equal[-1:] if reward > 0 else []
    print(f"{sum(equal)} of {len(equal)} logged rewards equal ({fmean(equal):.1%}), {sum(paid)} of {len(paid)} above 0")
    assert fmean(equal) > 0.9 and fmean(paid) > 0.8
