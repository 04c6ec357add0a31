"""How good an agent is, and how sure one can be: means, intervals, differences, tables.

Intervals are Student's t at 95 %: a percentile bootstrap over five seeds covers only 84 %.
Two agents are compared by the differences between their results on the same tasks or seeds,
which is sharper than comparing two intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from scipy.special import stdtrit

from ipr_lite.records import SCHEMA_VERSION, DataError, Trajectory, write_atomically

METRICS = ("agent", "split", "n", "reward", "low", "high", "success", "reward_per_step", "steps", "invalid")


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with `degrees` >= 1 degrees of freedom."""
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}")
    return float(stdtrit(degrees, 0.975))


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (mean, low, high); low and high are NaN for a single value.

    Raises ValueError without values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return mean, mean - half, mean + half


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of a - b, element by element (the same task or the same seed).

    Raises ValueError when the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must come in equal numbers, not {len(a)} and {len(b)}")
    return student_interval([x - y for x, y in zip(a, b, strict=True)])


def compare_agents(a: Iterable[Trajectory], b: Iterable[Trajectory]) -> tuple[float, float, float, int]:
    """How much more reward `a` got than `b` on the tasks that both did: mean, low, high, n tasks.

    Raises ValueError when they share no task.
    """
    first = {trajectory.id: trajectory.reward for trajectory in a}
    second = {trajectory.id: trajectory.reward for trajectory in b}
    shared = sorted(first.keys() & second.keys())
    return *paired_difference([first[i] for i in shared], [second[i] for i in shared]), len(shared)


def summarize(trajectories: Sequence[Trajectory], agent: str, split: str) -> dict:
    """The metrics of one agent on one split: a row with the columns `METRICS`.

    `reward` is the mean outcome with its 95 % interval (`low`, `high`) over tasks, `success` the
    share of tasks solved, `reward_per_step` the mean of reward / steps, `steps` the mean number of
    actions, `invalid` the share of actions that the world refused (each trajectory's
    `extra["invalid"]` counts them; NaN where one does not say).

    Raises ValueError without trajectories.
    """
    reward, low, high = student_interval([t.reward for t in trajectories])
    n, actions = len(trajectories), sum(t.steps for t in trajectories)
    refused = sum(t.extra.get("invalid", math.nan) for t in trajectories)
    return {
        "agent": agent,
        "split": split,
        "n": n,
        "reward": reward,
        "low": low,
        "high": high,
        "success": sum(t.success for t in trajectories) / n,
        "reward_per_step": math.fsum(t.reward / max(t.steps, 1) for t in trajectories) / n,
        "steps": actions / n,
        "invalid": refused / max(actions, 1),
    }


def by_part(trajectories: Sequence[Trajectory], split: str) -> dict[str, list[Trajectory]]:
    """The trajectories of a split by name: all of them under `split`, then its parts, where it has any.

    A household test is `test_seen` and `test_unseen`; of all worlds together, `test_shop` and so on.
    """
    found = {split: list(trajectories)}
    several = len({t.task.env for t in trajectories}) > 1
    for trajectory in trajectories:
        part = f"{split}_{trajectory.task.env}" if several else trajectory.task.split
        if part != split:
            found.setdefault(part, []).append(trajectory)
    return found


def write_metrics(path: str | Path, rows: Sequence[dict]) -> Path:
    """Write metrics.csv: splits in alphabetical order, in each the agents in the order they come.

    Six decimals, so that equal runs have equal bytes. `pandas.read_csv(path, comment="#")` reads it.
    """
    rows = sorted(rows, key=lambda row: row["split"])
    return write_csv(path, rows, METRICS, f"schema {SCHEMA_VERSION}")


def read_metrics(path: str | Path) -> list[dict]:
    """The rows of metrics.csv. Raises DataError with file and column."""
    return read_table(path, METRICS).to_dict("records")


def write_csv(path: str | Path, rows: Sequence[dict], columns: Sequence[str], *comments: str) -> Path:
    cells = [cells_of(path, number, row, columns) for number, row in enumerate(rows, start=1)]
    lines = [f"# {comment}" for comment in comments] + [",".join(columns), *(",".join(row.values()) for row in cells)]
    return write_atomically(path, "\n".join(lines) + "\n")


def cells_of(path: str | Path, number: int, row: dict, columns: Sequence[str]) -> dict[str, str]:
    """A row as texts, real numbers with six decimals."""
    missing = [column for column in columns if column not in row]
    if missing:
        raise DataError(f"{path}, row {number}: no {', '.join(missing)}; every row needs all columns")
    cells = {c: f"{row[c]:.6f}" if isinstance(row[c], float) else str(row[c]) for c in columns}
    wrong = [cell for cell in cells.values() if re.search(r'[,#"\n]', cell)]
    if wrong:
        raise DataError(f'{path}, row {number}: {wrong[0]!r} holds , # " or a line break; leave them out')
    return cells


def read_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of a CSV file behind its comments. Raises DataError with file and column."""
    try:
        table = pd.read_csv(path, comment="#", encoding="utf-8", keep_default_na=False, na_values=["nan"])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table ({error}); write the file anew") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; its columns must be {', '.join(columns)}")
    return table
