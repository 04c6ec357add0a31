"""The exact lab: when step rewards beat outcomes, cell by cell, beside the closed form that was predicted."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import norm

from ipr_lite.evaluation import read_table
from ipr_lite.study import curves, plots
from ipr_lite.study.lab import COLUMNS
from ipr_lite.study.lab_estimators import COLUMNS as ESTIMATOR_COLUMNS
from ipr_lite.study.results import markdown_table, show, show_signed
from ipr_lite.study.tables.results import RESULTS_FOLDER

METHODS = {
    "eto-paper": ("ETO, each task once", "#b07aa1", "v", ":"),
    "eto-equal": ("ETO, with IPR's actions", "#5e1848", "s", "--"),
    "ipr": ("IPR", plots.PALETTE["ipr"], "D", "-"),
}
"""What they are called in the figure, and their colour, marker and line."""
CELL = ["decisions", "kinds", "tasks", "samples", "skill"]


def cells(folder: Path = RESULTS_FOLDER) -> pd.DataFrame:
    """The lab's rows, one cell after the other; empty where the grid was not run."""
    path = folder / "lab.csv"
    return read_table(path, COLUMNS) if path.exists() else pd.DataFrame(columns=COLUMNS)


def predicted(decisions: int, demonstrations: float) -> float:
    """ETO's greedy reward after each task once, with so many demonstrations of each kind and a policy that decides at random."""
    return float(norm.cdf(math.sqrt(2 * demonstrations / (math.pi * decisions))))


def lab(folder: Path = RESULTS_FOLDER) -> str:
    """Greedy reward of the three, and what IPR is ahead by, in both budgets."""
    header = (
        "K", "m", "N", "q", "ETO once", "predicted", "IPR", "ETO equal", "IPR minus once", "IPR minus equal",
        "IPR minus equal, sampled", "IPR's actions",
    )  # fmt: skip
    lines = []
    for (decisions, kinds, tasks, samples, skill), cell in cells(folder).groupby(CELL, sort=False):
        by = cell.set_index("method")
        ahead = [
            f"{show_signed(by.loc[m, mean])} ± {show(by.loc[m, mean] - by.loc[m, low])}"
            for m, mean, low in (
                ("eto-paper", "ipr_minus", "low"),
                ("eto-equal", "ipr_minus", "low"),
                ("eto-equal", "ipr_minus_sampled", "low_sampled"),
            )
        ]
        lines.append((
            decisions, tasks // kinds, samples or "exact", skill, show(by.loc["eto-paper", "greedy"]),
            show(predicted(decisions, tasks / kinds)) if skill == 0.5 else "", show(by.loc["ipr", "greedy"]),
            show(by.loc["eto-equal", "greedy"]), *ahead, f"{by.loc['ipr', 'actions']:,.0f}",
        ))  # fmt: skip
    return markdown_table(header, lines)


def lab_estimators(folder: Path = RESULTS_FOLDER) -> str:
    """Per number of decisions: how often an estimator is right, IPR's greedy reward with its labels, and the actions."""
    path = folder / "lab_estimators.csv"
    if not path.exists():
        return markdown_table(("estimator",), [])
    rows = read_table(path, ESTIMATOR_COLUMNS)
    header, lines = ["estimator"], {name: [name] for name in dict.fromkeys(rows["estimator"])}
    for decisions, cell in rows.groupby("decisions"):
        header += [f"K = {decisions}: right", "greedy reward", "actions"]
        for row in cell.itertuples():
            half = row.greedy - row.greedy_low
            lines[row.estimator] += [show(row.right), f"{show(row.greedy)} ± {show(half)}", f"{row.actions:,.0f}"]
    return markdown_table(header, list(lines.values()))


def lab_figure(folder: Path = RESULTS_FOLDER) -> Figure | None:
    """Greedy reward against the number of decisions under one outcome, and against the actions that it took."""
    rows = cells(folder)
    rows = rows[(rows["tasks"] == 40) & (rows["samples"] == 5) & (rows["skill"] == 0.5)]
    if rows.empty:
        return None
    lines = {looks: rows[rows["method"] == method] for method, looks in METHODS.items()}
    ks = sorted(set(rows["decisions"]))
    curve = ks, [predicted(k, 4) for k in ks], "predicted: Φ(√(2m / πK))"
    told = f"m = 4 demonstrations of each of 10 kinds, N = 5; n = {rows['seeds'].iloc[0]} seeds"
    return curves.lab_curves(lines, curve, f"the exact lab: {told}, intervals smaller than the markers")
