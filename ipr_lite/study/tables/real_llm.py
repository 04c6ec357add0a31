"""What a real LLM of 135 M parameters gains in the shop: few seeds, so that intervals are over tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ipr_lite.evaluation import student_interval
from ipr_lite.methods import METHODS
from ipr_lite.study.power import Moments, by_seed, detectable
from ipr_lite.study.results import TASKS, markdown_table, read_results, read_table, show, show_interval, show_signed
from ipr_lite.study.tables.budgets import BUDGETS, ONE
from ipr_lite.study.tables.results import RESULTS_FOLDER, SEEDLESS, mean_cell

FILE = "shop_smol.csv"


def by_task(tasks: pd.DataFrame, method: str, budget: str) -> dict[int, np.ndarray]:
    """By seed: the reward of every test task, of the round that dev chose."""
    rows = tasks[(tasks["method"] == method) & (tasks["selected"] == 1) & (tasks["split"] == "test")]
    rows = rows[rows["setting"].str.contains("budget=paper") == (budget == "per demonstration")]
    return by_seed(rows)


def real_llm(folder: Path = RESULTS_FOLDER) -> str:
    """Every method at its budgets: reward, what it gains over SFT on the same tasks, actions in the world."""
    path, lines = folder / FILE, []
    if not path.exists():
        return "Not run yet."
    results, tasks = read_results(path), read_table(path.with_name(f"{path.stem}_tasks.csv"), TASKS)
    results = results[(results["selected"] == 1) & (results["split"] == "test")]
    sft = by_task(tasks, "sft", "")
    for method in METHODS:
        for budget in ("",) if method in ONE else BUDGETS:
            mine = by_task(tasks, method, budget)
            if not mine:
                continue
            if method in SEEDLESS:
                mine = dict.fromkeys(sft, next(iter(mine.values())))
            shared = sorted(mine.keys() & sft.keys())
            gain = np.mean([mine[seed] - sft[seed] for seed in shared], axis=0)
            mean, low, high = student_interval(list(gain))
            sees = show(detectable(Moments.behind(mean, low, len(gain)).sd, len(gain)))
            rows = results[(results["method"] == method) & (results["budget"] == _NAMES[budget])]
            lines.append((
                method, budget, mean_cell({seed: rewards.mean() for seed, rewards in mine.items()}, method), str(len(gain)),
                "" if method == "sft" else f"{show_signed(mean)} ({show_interval(low, high)}), sees {sees} [{len(shared)}]",
                "" if method in SEEDLESS else f"{rows['env_steps'].mean():,.0f}",
            ))  # fmt: skip
    header = (
        "method",
        "budget",
        "reward [seeds]",
        "tasks",
        "minus SFT, 95 % interval over tasks, detectable [seeds]",
        "actions in the world",
    )
    return markdown_table(header, lines)


_NAMES = {"": "equal", "per action": "equal", "per demonstration": "paper"}
"""What the results file calls a budget."""
