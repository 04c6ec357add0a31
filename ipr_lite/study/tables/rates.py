"""IPR and ETO, each at the learning rate that dev likes best."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from ipr_lite.study.power import Moments, answers
from ipr_lite.study.results import difference, markdown_table
from ipr_lite.study.tables.results import RESULTS_FOLDER, Results, difference_cell, mean_cell

RATES = {"1e-4": "0.0001", "2e-4": "0.0002", "5e-4": "0.0005"}
USED = "5e-4"
"""The rate of all other tables."""
WHO = {"ipr": ("ipr", ""), "eto, per demonstration": ("eto", " budget=paper"), "eto, per action": ("eto", "")}
"""Who was searched, at the budgets that they have: method and the rest of the setting."""
SEEDS = range(10)
"""Of Table 2. Another seed in the file, 16, was run because ETO had fallen on it at the usual rate: it would tilt a mean."""
QUESTIONS = (("ipr", "eto, per demonstration"), ("ipr", "eto, per action"))


def by_seed(split: str, who: str, rate: str, folder: Path) -> dict[int, float]:
    """Mean reward by seed of the round that dev chose; at the rate of all other tables, on test, theirs."""
    (method, rest), theirs = WHO[who], split == "test" and rate == USED
    setting = (rest.strip() or "default") if theirs else f"learning_rate={RATES[rate]}{rest}"
    found = Results("table2" if theirs else "rates", folder).rewards("shop", split, method, setting)
    return {seed: reward for seed, reward in found.items() if seed in SEEDS}


def best_rate(who: str, folder: Path = RESULTS_FOLDER) -> str:
    """The rate with the highest mean on dev; "" where none was tried."""
    means = {rate: fmean(found.values()) for rate in RATES if (found := by_seed("dev", who, rate, folder))}
    return max(means, key=means.get) if means else ""


def all_rates(folder: Path = RESULTS_FOLDER) -> str:
    """Every rate on dev, the best of each, and what that one has on test."""
    lines = []
    for who in WHO:
        best = best_rate(who, folder)
        tried = [mean_cell(by_seed("dev", who, rate, folder)) for rate in RATES]
        lines.append((who, *tried, best or "-", mean_cell(by_seed("test", who, best, folder)) if best else "-"))
    return markdown_table(("method", *(f"dev, {rate}" for rate in RATES), "best on dev", "its test"), lines)


def rate_claims(folder: Path = RESULTS_FOLDER) -> str:
    """IPR minus ETO, each at its own best rate, on test; both questions asked at once."""
    differences = []
    for first, second in QUESTIONS:
        mine, theirs = (
            by_seed("test", who, best, folder) if (best := best_rate(who, folder)) else {} for who in (first, second)
        )
        differences.append(difference(mine, theirs))
    said = answers([Moments.behind(d[0], d[1], d[3]) for d in differences])
    lines = [
        (f"{first} minus {second}", difference_cell(d), verdict)
        for (first, second), d, verdict in zip(QUESTIONS, differences, said, strict=True)
    ]
    return markdown_table(("difference, each at its best rate", "over seeds, detectable [seeds]", "verdict"), lines)
