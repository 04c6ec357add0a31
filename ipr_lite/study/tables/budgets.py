"""Every method at both budgets: what one demonstration gives, and what one action in the world gives.

Per demonstration each method explores as its own paper says (ETO once a task and round); per action in the world all take
as many as IPR.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ipr_lite.methods import METHODS
from ipr_lite.study import curves
from ipr_lite.study.power import Moments, answers, over_seeds_and_tasks
from ipr_lite.study.results import TASKS, difference, markdown_table, read_table, show_signed
from ipr_lite.study.tables.comparison import CLAIMS_2, PAPER_2
from ipr_lite.study.tables.results import RESULTS_FOLDER, SEEDLESS, Results, difference_cell, mean_cell

EQUAL = "default"
BUDGETS = {"per demonstration": "budget=paper", "per action": EQUAL}
"""Their settings."""
ONE = ("base", "sft", "sft-long", "sft-careful", "random-pairs", "ipr", "careful")
"""Methods that are the same at both: they explore nothing, or as much as IPR, whose budget is the measure."""
WORLDS = {"shop": 0, "sql": 1, "house": None}
"""Worlds, and the place of the paper's column; the household is two columns there."""
SILENT = ("base", "sft")
"""Methods that explore nothing."""
CLAIMS = (
    ("sft", "base"), ("ipr", "base"), ("ipr", "random-pairs"), ("ipr", "eto"), ("ipr", "eto-sft"), ("eto-sft", "eto"),
)  # fmt: skip
"""First above second is what a reader of the paper expects. Those of `CLAIMS_2` are asked there per action, here per demonstration."""


def setting_of(method: str, budget: str) -> str:
    """The setting of a method at a budget."""
    return EQUAL if method in ONE else BUDGETS[budget]


def rewards(results: Results, env: str, method: str, budget: str, seeds: Iterable[int] = ()) -> dict[int, float]:
    """Mean reward by seed, as `Results.rewards` has it."""
    return results.rewards(env, "test", method, setting_of(method, budget), seeds=seeds)


def task_rows(tasks: pd.DataFrame, env: str, method: str, budget: str, seeds: Iterable[int]) -> pd.DataFrame:
    """The same of single tasks: the rows of the round that dev chose, a row a seed."""
    mine = tasks[(tasks["env"] == env) & (tasks["method"] == method) & (tasks["setting"] == setting_of(method, budget))]
    mine = mine[(mine["split"] == "test") & (mine["selected"] == 1) & (mine["scale"] == "tiny")]
    seeds = sorted(seeds)
    return mine.iloc[[0] * len(seeds)].assign(seed=seeds) if method in SEEDLESS and len(mine) else mine


def budgets_of(results: Results, env: str, method: str) -> list[str]:
    """The budgets at which a method was run; `""` for one that has only one."""
    settings = set(results.of(env, "test", method)["setting"])
    if method in ONE:
        return [""] if EQUAL in settings else []
    return [budget for budget, setting in BUDGETS.items() if setting in settings]


def both_budgets(folder: Path = RESULTS_FOLDER) -> str:
    """Every method in every world at both budgets: reward, what it gains over SFT, its actions in the world."""
    results, lines = Results("table2", folder), []
    for env in WORLDS:
        sft = rewards(results, env, "sft", "")
        for method in METHODS:
            for budget in budgets_of(results, env, method):
                mine, spent = rewards(results, env, method, budget), results.of(env, "test", method)
                spent = spent[spent["setting"] == setting_of(method, budget)]
                actions = spent[spent["iteration"] == spent["iteration"].max()]["env_steps"].mean()
                gain = difference(rewards(results, env, method, budget, sft), sft)
                lines.append((
                    env, method, budget, mean_cell(mine, method), "" if method == "sft" else difference_cell(gain),
                    "" if method in SEEDLESS else f"{actions:,.0f}",
                ))  # fmt: skip
    header = (
        "world",
        "method",
        "budget",
        "reward",
        "minus SFT, 95 % interval, detectable [seeds]",
        "actions in the world",
    )
    return markdown_table(header, lines)


def budget_claims(folder: Path = RESULTS_FOLDER) -> str:
    """What is expected to be above what: the difference over seeds, over seeds and tasks, and what may be said of all at once."""
    results = Results("table2", folder)
    paths = sorted(folder.glob("*_table2_tasks.csv"))
    tasks = pd.concat([read_table(path, TASKS) for path in paths]) if paths else pd.DataFrame(columns=TASKS)
    lines, moments = [], []
    for first, second in CLAIMS:
        for env, column in WORLDS.items():
            for budget in budgets_of(results, env, second):
                if (first, second) in CLAIMS_2 and budget == "per action":
                    continue
                ours = rewards(results, env, first, budget)
                found = difference(ours, rewards(results, env, second, budget, ours))
                if not found[-1]:
                    continue
                known = column is not None and first in PAPER_2 and second in PAPER_2
                paper = show_signed(PAPER_2[first][column] - PAPER_2[second][column]) if known else ""
                moments.append(Moments.behind(found[0], found[1], found[3]))
                both = over_seeds_and_tasks(*(task_rows(tasks, env, name, budget, ours) for name in (first, second)))
                lines.append((f"{first} minus {second}", env, budget, paper, difference_cell(found), both))
    said = [(*line, answer) for line, answer in zip(lines, answers(moments), strict=True)]
    header = (
        "difference",
        "world",
        "budget",
        "paper",
        "over seeds, detectable [seeds]",
        "over seeds and tasks",
        "verdict",
    )
    return markdown_table(header, said)


HEADLINE = (
    ("ipr", "sft", ""),
    ("ipr", "random-pairs", ""),
    ("ipr", "eto", "per demonstration"),
    ("ipr", "eto", "per action"),
)
"""The questions for which the shop has more seeds than Table 2, in a file of their own."""


def headline(folder: Path = RESULTS_FOLDER) -> str:
    """The headline differences in the shop on all seeds there are, those of Table 2 and more."""
    parts = [Results(word, folder) for word in ("table2", "headline")]
    lines, moments = [], []
    for first, second, budget in HEADLINE:
        mine, theirs = (
            {seed: r for part in parts for seed, r in rewards(part, "shop", name, budget).items()}
            for name in (first, second)
        )
        found = difference(mine, theirs)
        paper = show_signed(PAPER_2[first][0] - PAPER_2[second][0]) if second in PAPER_2 else ""
        lines.append((f"{first} minus {second}", budget, paper, difference_cell(found)))
        moments.append(Moments.behind(found[0], found[1], found[3]))
    said = [(*line, answer) for line, answer in zip(lines, answers(moments), strict=True)]
    return markdown_table(("difference", "budget", "paper", "over seeds, detectable [seeds]", "verdict"), said)


def budgets_figure(folder: Path = RESULTS_FOLDER) -> Figure | None:
    """Reward on test against actions in the world, a panel a world: each method after each of its rounds, at both budgets."""
    results = Results("table2", folder)
    worlds = [env for env in WORLDS if len(results.of(env, "test", "ipr"))]
    if not worlds:
        return None
    panels = {}
    for env in worlds:
        lines = panels[env] = {}
        for method in METHODS:
            played = results.of(env, "test", method)
            for budget, setting in BUDGETS.items():
                mine = played[(played["setting"] == setting) & (played["iteration"] > 0)].groupby("iteration")
                if len(mine):
                    lines[method, budget] = (mine["env_steps"].mean().tolist(), mine["reward"].mean().tolist())
    flat = {env: {m: rewards(results, env, m, "") for m in SILENT} for env in worlds}
    n = sorted({len(rewards(results, env, "ipr", "")) for env in worlds})
    return curves.reward_by_actions(panels, flat, f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}")
