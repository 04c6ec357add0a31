"""The neighbours' methods in the shop, beside IPR: what each needs, spends and gains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ipr_lite.study.power import Moments, answers, by_seed
from ipr_lite.study.results import TASKS, difference, markdown_table, read_table
from ipr_lite.study.tables.real_llm import gain_cell
from ipr_lite.study.tables.results import RESULTS_FOLDER, Results, difference_cell, mean_cell

ROWS = (
    # name, paper, method, setting, demonstrator, rewards, rollouts from a step, extra model
    ("sft", "", "sft", "default", "yes", "", "", ""),
    ("atlas", "ATLaS", "atlas", "default", "yes", "yes", "yes", ""),
    ("atlas-random", "its control", "atlas-random", "default", "yes", "", "", ""),
    ("atlas-least", "its control", "atlas-least", "default", "yes", "yes", "yes", ""),
    ("grpo", "GRPO", "grpo", "budget=paper", "SFT only", "yes", "", ""),
    ("gigpo", "GiGPO", "gigpo", "budget=paper", "SFT only", "yes", "", ""),
    ("hgpo", "HGPO", "hgpo", "budget=paper", "SFT only", "yes", "", ""),
    ("eto", "ETO", "eto", "budget=paper", "yes", "yes", "", ""),
    ("istar", "iStar", "ipr", "step_reward=implicit", "yes", "yes", "", "a trained policy"),
    ("optima", "Optima", "optima", "budget=paper", "SFT only", "yes", "yes", ""),
    ("hpl", "HPL", "hpl", "default", "yes", "yes", "yes", ""),
    ("ipr", "IPR", "ipr", "default", "yes", "yes", "yes", ""),
)
"""A row a method: its name, whose it is, where it lies in the results, and what it asks for."""
CLAIMS = (
    ("atlas", "sft"), ("atlas", "atlas-random"), ("grpo", "sft"), ("gigpo", "grpo"), ("hgpo", "gigpo"), ("hpl", "ipr"),
    ("istar", "ipr"), ("optima", "sft"),
)  # fmt: skip
"""Predictions 13 to 19 and 25: the first above the second, but iStar: equal."""


def measured(folder: Path = RESULTS_FOLDER) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """By name: mean reward by seed, on the seeds that all neighbours have; and the actions in the world of all rounds."""
    parts = [Results(word, folder) for word in ("papers", "table2")]
    rows = {}
    for name, _, method, setting, *_ in ROWS:
        mine = pd.concat([part.of("shop", "test", method) for part in parts])
        rows[name] = mine[mine["setting"] == setting]
    seeds = set.intersection(*(set(mine["seed"]) for mine in rows.values()))
    rows = {name: mine[mine["seed"].isin(seeds)] for name, mine in rows.items()}
    chosen = {name: mine[mine["selected"] == 1] for name, mine in rows.items()}
    found = {name: dict(zip(mine["seed"], mine["reward"], strict=True)) for name, mine in chosen.items()}
    return found, {
        name: mine[mine["iteration"] == mine["iteration"].max()]["env_steps"].mean() for name, mine in rows.items()
    }


def all_papers(folder: Path = RESULTS_FOLDER) -> str:
    """Every method: what it asks for, what it spends, its reward."""
    found, spent = measured(folder)
    lines = [
        (name, paper, *needs, f"{spent[name]:,.0f}" if found[name] else "-", mean_cell(found[name], method))
        for name, paper, method, _, *needs in ROWS
    ]
    header = ("method", "paper", "demonstrator", "rewards", "rollouts from a step", "extra model", "actions", "reward")
    return markdown_table(header, lines)


def papers_gains(folder: Path = RESULTS_FOLDER) -> str:
    """Every method beside the clone that it began with, and beside IPR."""
    found, _ = measured(folder)
    lines = [
        (name, *("" if name == other else difference_cell(difference(found[name], found[other])) for other in ("sft", "ipr")))
        for name, *_ in ROWS
    ]  # fmt: skip
    return markdown_table(("method", "minus SFT, detectable [seeds]", "minus IPR, detectable [seeds]"), lines)


def papers_claims(folder: Path = RESULTS_FOLDER) -> str:
    """The claims, all asked at once."""
    found, _ = measured(folder)
    differences = [difference(found[first], found[second]) for first, second in CLAIMS]
    said = answers([Moments.behind(d[0], d[1], d[3]) for d in differences])
    lines = [
        (f"{first} minus {second}", difference_cell(d), verdict)
        for (first, second), d, verdict in zip(CLAIMS, differences, said, strict=True)
    ]
    return markdown_table(("difference", "over seeds, detectable [seeds]", "verdict"), lines)


SEARCHES = {
    "shop": ("sft", "armap", "best-of-n", "agentrm", "best-of-n-oracle"),
    "sql": ("sft", "best-of-n", "agentrm", "orps", "best-of-n-oracle"),
}
"""Who searches in which world."""
SEARCH_CLAIMS = (
    ("shop", "agentrm", "sft"), ("shop", "agentrm", "best-of-n"), ("shop", "armap", "sft"), ("sql", "orps", "agentrm"),
)  # fmt: skip
"""Predictions 20 to 23."""


def searches(folder: Path = RESULTS_FOLDER) -> str:
    """Who searches, on test: reward beside the clone's and the best of ten's on the same tasks, actions for labels and search."""
    results, lines = Results("judges", folder), []
    for world, methods in SEARCHES.items():
        found = {method: by_task(f"{world}_judges", method, folder) for method in methods}
        for method in methods:
            actions = results.of(world, "test", method)["env_steps"].mean()
            beside = [
                gain_cell(found[method], found[other])
                if method != other and found[method].keys() & found[other]
                else ""
                for other in ("sft", "best-of-n")
            ]
            reward = mean_cell({seed: rewards.mean() for seed, rewards in found[method].items()}, method)
            lines.append((world, method, f"{actions:,.0f}" if found[method] else "-", reward, *beside))
    over = "95 % interval over tasks, detectable [seeds]"
    header = ("world", "method", "actions", "reward", f"minus SFT, {over}", f"minus best-of-n, {over}")
    return markdown_table(header, lines)


def by_task(file: str, method: str, folder: Path, setting: str = "default") -> dict[int, np.ndarray]:
    """By seed, each test task's reward, in the round that dev chose."""
    path = folder / f"{file}_tasks.csv"
    if not path.exists():
        return {}
    tasks = read_table(path, TASKS)
    mine = (tasks["method"] == method) & (tasks["setting"] == setting) & (tasks["selected"] == 1)
    return by_seed(tasks[mine & (tasks["split"] == "test")])


def search_claims(folder: Path = RESULTS_FOLDER) -> str:
    """The four claims, on the same tasks."""
    lines = []
    for world, first, second in SEARCH_CLAIMS:
        mine, theirs = (by_task(f"{world}_judges", method, folder) for method in (first, second))
        lines.append((f"{world}: {first} minus {second}", gain_cell(mine, theirs) if mine.keys() & theirs else "-"))
    return markdown_table(("difference", "95 % interval over tasks, detectable [seeds]"), lines)


ADVISERS = (
    ("mpo-sft", "budget=paper", "sft", "default"), ("mpo", "budget=paper", "sft", "default"),
    ("mpo", "budget=paper", "mpo-sft", "budget=paper"), ("mpo-thought", "budget=paper", "sft", "default"),
    ("acc-collab-sft", "budget=paper", "sft", "default"), ("acc-collab", "budget=paper", "sft", "default"),
    ("acc-collab", "budget=paper", "acc-collab-sft", "budget=paper"),
    ("acc-collab", "budget=paper", "acc-collab-first", "budget=paper"), ("student-teacher", "default", "sft", "default"),
)  # fmt: skip
"""Predictions 30 and 35 to 38: a method at a setting, and what it stands beside."""
FIRST_LOOK = (
    *((name, "default", "sft", "default") for name in ("agentrefine", "agentrefine-unmasked")),
    *(
        (name, setting, "sft", setting)
        for setting in ("default", "demonstrations=20") for name in ("agentbank", "agentbank-2", "agentbank-out")
    ),
)  # fmt: skip
"""The same of predictions 31 to 34."""


def advisers(folder: Path = RESULTS_FOLDER) -> str:
    """Chapter 15's methods: reward, and the difference on the same tasks."""
    return first_look(folder, ADVISERS)


def first_look(folder: Path = RESULTS_FOLDER, rows: Sequence[tuple[str, str, str, str]] = FIRST_LOOK) -> str:
    """Methods of one seed or few: reward, and the difference on the same tasks."""
    lines = []
    for method, setting, other, others in rows:
        mine, theirs = by_task("shop_papers", method, folder, setting), by_task("shop_papers", other, folder, others)
        reward = mean_cell({seed: rewards.mean() for seed, rewards in mine.items()}, method)
        lines.append((method, setting, reward, other, gain_cell(mine, theirs) if mine.keys() & theirs else "-"))
    header = ("method", "setting", "reward", "minus", "95 % interval over tasks, detectable [seeds]")
    return markdown_table(header, lines)
