"""Are step rewards right, and what do they show (the paper's Figures 3 and 4): the page *Step rewards*."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ipr_lite.study.cases import cases_markdown
from ipr_lite.study.quality import COLUMNS, STEP_COLUMNS, pair_quality
from ipr_lite.study.results import markdown_table, read_table, show
from ipr_lite.study.tables.results import RESULTS_FOLDER, mean_cell


def fig3(folder: Path = RESULTS_FOLDER) -> str:
    """How often a built pair is the right way round, by scorer and N."""
    rows = []
    for path in sorted(folder.glob("*_fig3.csv")):
        table = read_table(path, COLUMNS)
        table["scorer"] = table["scorer"].str.replace(r"ipr-\d+", "ipr", regex=True)
        env = table["env"].iloc[0]
        for scorer in dict.fromkeys(table["scorer"]):
            for n in (1, 3, 5, 20):
                own, page = (pair_quality(table, scorer, n, 0.01, truth) for truth in (None, "page"))
                best = pair_quality(table, scorer, n, 0.01, "ipr")
                rows.append((
                    env, scorer, n, own["pairs"], show(own["built"], 2), show(own["agrees"]), show(best["agrees"]),
                    show(page["agrees"]) if env == "shop" else "",
                ))  # fmt: skip
    header = (
        "world", "scorer", "N", "contrasts", "built", "agrees with the scorer's own 1,000 samples",
        "with IPR's 1,000 samples", "with the page score",
    )  # fmt: skip
    return markdown_table(header, rows)


def estimator(folder: Path = RESULTS_FOLDER) -> str:
    """Cost against quality: pairs built and pairs that are wrong, by N and the step threshold (scorer: SFT)."""
    rows = []
    for path in sorted(folder.glob("*_fig3.csv")):
        table = read_table(path, COLUMNS)
        for n in (1, 3, 5, 10, 20, 50):
            line = [table["env"].iloc[0], str(n)]
            for tau in (0.01, 0.1, 0.35):
                found = pair_quality(table, "sft", n, tau)
                line.append(f"{found['built']:.2f} / {found['wrong']:.3f}")
            rows.append(line)
    return markdown_table(("world", "N", *(f"tau {tau}: built / wrong" for tau in (0.01, 0.1, 0.35))), rows)


def fig4(folder: Path = RESULTS_FOLDER) -> str:
    """The average reward per step, in both senses: mean step reward of the actions taken, and outcome over actions."""
    rows = []
    for table in _stepwise(folder):
        table["per_step"] = table["reward"] / table["steps"]
        for agent in dict.fromkeys(table["agent"]):
            mine = table[table["agent"] == agent]
            by_seed = mine.groupby("seed")[["mean_step", "per_step", "reward"]].mean()
            cells = [mean_cell(by_seed[name].to_dict()) for name in ("mean_step", "per_step", "reward")]
            rows.append((table["env"].iloc[0], agent, *cells, len(mine) // len(by_seed)))
    return markdown_table(("world", "agent", "mean step reward", "outcome / actions", "outcome", "tasks a seed"), rows)


def same_outcome(folder: Path = RESULTS_FOLDER) -> str:
    """Test tasks on which two agents end alike: how far their step rewards are apart."""
    rows = []
    for table in _stepwise(folder):
        merged = table[table["agent"] == "sft"].merge(table[table["agent"] == "ipr"], on=["seed", "id"])
        alike = merged[(merged["reward_x"] - merged["reward_y"]).abs() < 1e-6]
        acted = alike[alike["step_rewards_x"] != alike["step_rewards_y"]]
        apart = (acted["mean_step_x"] - acted["mean_step_y"]).abs()
        rows.append((
            table["env"].iloc[0], len(merged), len(alike), len(acted), f"{(apart > 0.05).mean():.2f}", f"{apart.mean():.3f}",
            f"{(acted['mean_step_y'] - acted['mean_step_x']).mean():+.3f}",
        ))  # fmt: skip
    header = (
        "world", "tasks x seeds", "equal outcome", "of these other step rewards", "share apart by > 0.05",
        "mean distance", "IPR minus SFT",
    )  # fmt: skip
    return markdown_table(header, rows)


def case_studies(folder: Path = RESULTS_FOLDER) -> str:
    """The cases that `cases.py` chose."""
    return "\n".join(cases_markdown(path) for path in sorted(folder.glob("*_cases.jsonl"))) or "not run\n"


def _stepwise(folder: Path) -> Iterator[pd.DataFrame]:
    """Each world's episodes with the mean of their step rewards."""
    for path in sorted(folder.glob("*_fig4.csv")):
        table = read_table(path, STEP_COLUMNS)
        yield table.assign(mean_step=[_mean(text) for text in table["step_rewards"]])


def _mean(text: str | float) -> float:
    values = [float(value) for value in str(text).split(";")]
    return sum(values) / len(values)
