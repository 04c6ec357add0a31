"""Who may say what a step was worth? Estimators of step rewards beside each other, in the exact lab.

All but Monte Carlo read the episodes that exploration has played anyway, and cost no action more. The truth is known: a right
decision is worth 1/K more than a wrong one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ipr_lite.evaluation import student_interval, write_csv
from ipr_lite.records import SCHEMA_VERSION
from ipr_lite.study.lab import (
    SEEDS,
    Judge,
    Lab,
    actions_of,
    begin,
    explore,
    greedy,
    monte_carlo,
    open_at,
    outcome_pairs,
    step_pairs,
    train,
)

COLUMNS = (
    "decisions",
    "estimator",
    "seeds",
    "right",
    "right_low",
    "right_high",
    "greedy",
    "greedy_low",
    "greedy_high",
    "actions",
)
"""right: the share of open contrasts whose better side it names; greedy: IPR's greedy reward with its labels."""
DECISIONS = (4, 12, 24)


def by_anchors(lab: Lab, kinds: np.ndarray, outcomes: list[np.ndarray], decided: list[np.ndarray]) -> np.ndarray:
    """Same-observation anchors (GiGPO): per kind and decision, the mean outcome of those who decided right less of those
    who decided wrong (S, C, K); 0 where one side is missing."""
    known = np.zeros((lab.seeds, lab.kinds, lab.decisions))
    right, outcome = np.concatenate(decided, 1), np.concatenate(outcomes, 1)[..., None]
    for c in range(lab.kinds):
        mine = np.concatenate([kinds == c] * len(decided), 1)[..., None]
        sums = [(outcome * (mine & side)).sum(1) for side in (right, ~right)]
        numbers = [(mine & side).sum(1) for side in (right, ~right)]
        means = [total / np.maximum(number, 1) for total, number in zip(sums, numbers, strict=True)]
        known[:, c] = np.where((numbers[0] > 0) & (numbers[1] > 0), means[0] - means[1], 0.0)
    return known


def by_regression(lab: Lab, kinds: np.ndarray, outcomes: list[np.ndarray], decided: list[np.ndarray]) -> np.ndarray:
    """A learned model: per kind, ridge regression of the outcome on all decisions at once (S, C, K)."""
    known = np.zeros((lab.seeds, lab.kinds, lab.decisions))
    right, outcome = np.concatenate(decided, 1).astype(float), np.concatenate(outcomes, 1)
    for c in range(lab.kinds):
        mine = np.concatenate([kinds == c] * len(decided), 1).astype(float)
        number = np.maximum(mine.sum(1), 1.0)
        x = (right - np.einsum("sn,snk->sk", mine, right)[:, None] / number[:, None, None]) * mine[..., None]
        y = (outcome - ((mine * outcome).sum(1) / number)[:, None]) * mine
        gram = np.einsum("snk,snj->skj", x, x) + 0.1 * np.eye(lab.decisions)
        known[:, c] = np.linalg.solve(gram, np.einsum("snk,sn->sk", x, y)[..., None])[..., 0]
    return known


def estimators(lab: Lab, seed: int = 0) -> list[dict]:
    """A row an estimator, as `COLUMNS` name them; all judge the same explorations."""
    rng = np.random.default_rng([seed, lab.decisions, 1])
    kinds, demonstrated, start = begin(lab, rng)
    explored = explore(lab, demonstrated, rng)
    decided = [demonstrated, *explored]
    outcomes = [d.mean(-1) for d in decided]
    once = outcome_pairs(lab, kinds, demonstrated, rng, np.full(lab.seeds, lab.tasks))
    tables = {
        "anchors (GiGPO)": by_anchors(lab, kinds, outcomes, decided),
        "learned model": by_regression(lab, kinds, outcomes, decided),
        "implicit (iStar)": train(lab, start, once, rng) - start,
        "the truth": np.ones_like(start),
    }
    rows = np.arange(lab.seeds)[:, None]

    def by(table: np.ndarray) -> Judge:
        return lambda t, acted: table[rows, kinds, t] * (acted[:, :, t].astype(int) - demonstrated[:, :, t])

    def sampled(n: int) -> Judge:
        return lambda t, acted: monte_carlo(replace(lab, samples=n), t, acted, demonstrated, rng)

    judges: dict[str, tuple[int, Judge]] = {
        "outcome alone": (0, lambda t, acted: acted.mean(-1) - demonstrated.mean(-1))
    }
    judges |= {f"Monte Carlo N = {n}": (n, sampled(n)) for n in (1, 3, 5, 20)}
    judges |= {name: (0, by(table)) for name, table in tables.items()}
    found = []
    for name, (n, judge) in judges.items():
        right = agreement(demonstrated, explored, judge)
        actions = actions_of(replace(lab, samples=n), demonstrated, explored)
        table = train(lab, start, step_pairs(lab, kinds, demonstrated, explored, judge), rng)
        rewards = student_interval(greedy(table).tolist())
        values = (lab.decisions, name, lab.seeds, *student_interval(right.tolist()), *rewards, float(actions.mean()))
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def agreement(demonstrated: np.ndarray, explored: list[np.ndarray], judge: Judge) -> np.ndarray:
    """The share of open contrasts whose better side a judge names (S,); guesses count half."""
    right = contrasts = 0
    for t, acted in enumerate(explored[1:], start=1):
        is_open = open_at(t, acted, demonstrated)
        truth, said = acted[:, :, t].astype(int) - demonstrated[:, :, t], np.sign(judge(t, acted))
        right = right + (is_open * ((said == truth) + 0.5 * (said == 0))).sum(1)
        contrasts = contrasts + is_open.sum(1)
    return right / contrasts


def write_estimators(path: Path, command: str, seeds: int = SEEDS) -> Path:
    """The estimators with K = 4, 12, 24 decisions as a CSV file."""
    cells = [row for K in DECISIONS for row in estimators(Lab(K, seeds=seeds))]
    return write_csv(path, cells, COLUMNS, command, f"schema {SCHEMA_VERSION}")
