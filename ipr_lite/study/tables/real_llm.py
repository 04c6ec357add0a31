"""What a real LLM of 135 M parameters gains in the shop: few seeds, so that intervals are over tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ipr_lite.config import SCALES
from ipr_lite.methods import METHODS
from ipr_lite.study.power import Moments, by_seed, detectable
from ipr_lite.study.results import (
    TASKS,
    difference,
    markdown_table,
    read_results,
    read_table,
    show,
    show_interval,
    show_signed,
)
from ipr_lite.study.tables.budgets import ONE
from ipr_lite.study.tables.results import RESULTS_FOLDER, SEEDLESS, mean_cell

FILE = "shop_smol.csv"


def settings_of(tasks: pd.DataFrame, method: str) -> dict[tuple[str, str, str], dict[int, np.ndarray]]:
    """By setting, its budget and its learning rate of preference training: by seed, each test task's reward, of the round
    that dev chose."""
    rows = tasks[(tasks["method"] == method) & (tasks["selected"] == 1) & (tasks["split"] == "test")]
    found = {}
    for setting, mine in rows.groupby("setting", sort=True):
        said = dict(part.split("=") for part in setting.split() if "=" in part)
        budget = "" if method in ONE else "per demonstration" if said.get("budget") == "paper" else "per action"
        rate = "" if method in ("base", "sft") else said.get("learning_rate", f"{SCALES['smol'].learning_rate:g}")
        found[setting, budget, rate] = by_seed(mine)
    return found


def real_llm(folder: Path = RESULTS_FOLDER) -> str:
    """Every method at its budgets and rates: reward, what it gains over SFT and IPR over it on the same tasks, actions.

    IPR is compared with what was trained at its own rate, and with what was not trained on preferences.
    """
    path, lines = folder / FILE, []
    if not path.exists():
        return "Not run yet."
    results, tasks = read_results(path), read_table(path.with_name(f"{path.stem}_tasks.csv"), TASKS)
    results = results[(results["selected"] == 1) & (results["split"] == "test")]
    (sft,), ((own, ipr), *_) = settings_of(tasks, "sft").values(), settings_of(tasks, "ipr").items()
    for method in METHODS:
        for (setting, budget, rate), mine in settings_of(tasks, method).items():
            if method in SEEDLESS:
                mine = dict.fromkeys(sft, next(iter(mine.values())))
            actions = results[(results["method"] == method) & (results["setting"] == setting)]["env_steps"].mean()
            lines.append((
                method, budget, rate, mean_cell({seed: rewards.mean() for seed, rewards in mine.items()}, method),
                str(len(next(iter(mine.values())))), "" if method == "sft" else gain_cell(mine, sft),
                "" if method == "ipr" or rate not in ("", own[-1]) else gain_cell(ipr, mine),
                "" if method in SEEDLESS else f"{actions:,.0f}",
            ))  # fmt: skip
    header = (
        "method", "budget", "rate", "reward [seeds]", "tasks", "minus SFT, 95 % interval over tasks, detectable [seeds]",
        "IPR minus it", "actions in the world",
    )  # fmt: skip
    return markdown_table(header, lines)


def gain_cell(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> str:
    """First minus second: the mean over the seeds that both have, of each task; interval and smallest detectable over tasks."""
    shared = sorted(first.keys() & second.keys())
    mean, low, high, n = difference(
        *(dict(enumerate(np.mean([one[s] for s in shared], axis=0))) for one in (first, second))
    )
    sees = show(detectable(Moments.behind(mean, low, n).sd, n))
    return f"{show_signed(mean)} ({show_interval(low, high)}), sees {sees} [{len(shared)}]"
