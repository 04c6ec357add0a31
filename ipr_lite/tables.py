"""The tables of the book, ours beside the paper's, from `data/results` alone.

A page of the book holds each table between two comments, `<!-- table NAME -->` and `<!-- end -->`;
`python -m ipr_lite tables` writes them anew, the same bytes from the same results. Verdicts are not written by hand:
a difference is *reproduced* where its 95 % interval lies on the paper's side of 0, *reversed* where it lies on the
other, else *inside the noise*.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ipr_lite import plots
from ipr_lite.cases import cases_markdown
from ipr_lite.evaluation import (
    METHODS,
    effect_markdown,
    effect_table,
    markdown_table,
    paired_difference,
    read_results,
    read_table,
    show,
    show_interval,
    show_signed,
    student_interval,
    worlds_markdown,
)
from ipr_lite.jsonl import DataError, write_whole
from ipr_lite.quality import COLUMNS, STEP_COLUMNS, pair_quality
from ipr_lite.report import figure_html
from ipr_lite.reward_model import FIT_COLUMNS
from ipr_lite.viewer import page, table_html

RESULTS_FOLDER = Path(__file__).resolve().parent.parent / "data" / "results"
BOOK = Path(__file__).resolve().parent.parent / "book"

# Where a column's numbers are: results file's world, split, and the paper's name for it.
WORLDS = {
    "shop": ("shop", "test", "WebShop"),
    "sql": ("sql", "test", "InterCodeSQL"),
    "house, seen rooms": ("house", "test_seen", "ALFWorld seen"),
    "house, unseen rooms": ("house", "test_unseen", "ALFWorld unseen"),
}

# The paper's Table 2 (average reward), in the order of WORLDS; Llama-2-7B.
PAPER_2 = {
    "base": (0.179, 0.040, 0.000, 0.000),
    "sft": (0.602, 0.549, 0.600, 0.672),
    "ppo": (0.642, 0.524, 0.221, 0.291),
    "rft": (0.636, 0.563, 0.629, 0.664),
    "eto": (0.674, 0.572, 0.686, 0.724),
    "step-ppo": (0.640, 0.602, 0.657, 0.694),
    "ipr": (0.713, 0.613, 0.703, 0.747),
}
# What the paper's Table 2 is read to say, first above second.
CLAIMS_2 = (
    ("ipr", "sft"), ("ipr", "eto"), ("ipr", "step-ppo"), ("eto", "rft"), ("eto", "sft"), ("rft", "sft"),
    ("step-ppo", "ppo"), ("ppo", "sft"),
)  # fmt: skip
# What it does not ask, and a sceptic does.
CONTROLS_2 = (
    ("ipr", "random-pairs"), ("ipr", "sft-long"), ("ipr", "base"), ("ipr", "sft-careful"), ("sft-careful", "sft"),
    ("eto", "naive-step-dpo"), ("best-of-n", "sft"), ("best-of-n-oracle", "best-of-n"),
)  # fmt: skip


class Results:
    """The rows of the files in `data/results` whose name holds a word, such as `table2`."""

    def __init__(self, word: str, folder: Path = RESULTS_FOLDER):
        frames = [read_results(path) for path in sorted(folder.glob(f"*_{word}.csv"))]
        self.rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["env", "split"])

    def rewards(
        self, env: str, split: str, method: str, setting: str = "default", iteration: int | None = None,
        column: str = "reward", scale: str = "tiny",
    ) -> dict[int, float]:  # fmt: skip
        """Mean reward (or another column) by seed: of the iterate that dev chose, or of a given one."""
        if not len(self.rows):
            return {}
        r = self.rows
        found = r[(r["env"] == env) & (r["split"] == split) & (r["method"] == method) & (r["setting"] == setting)]
        found = found[found["scale"] == scale]
        found = found[found["selected"] == 1] if iteration is None else found[found["iteration"] == iteration]
        if found["seed"].duplicated().any():
            raise DataError(f"results: two rows for {env} {method} {setting} {split}; run one precision and scale a file")
        return dict(zip(found["seed"], found[column]))


def mean_cell(by_seed: dict[int, float]) -> str:
    """`0.658 ± 0.031 [9]`: mean over seeds, half of its 95 % interval, seeds; a dash where nothing was run."""
    if not by_seed:
        return "-"
    mean, low, _ = student_interval([by_seed[seed] for seed in sorted(by_seed)])
    half = "" if math.isnan(low) else f" ± {mean - low:.3f}"
    return f"{mean:.3f}{half} [{len(by_seed)}]"


def difference(first: dict[int, float], second: dict[int, float]) -> tuple[float, float, float, int]:
    """Mean and 95 % interval of first - second over the seeds that both have, and their number."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return math.nan, math.nan, math.nan, 0
    return *paired_difference([first[s] for s in shared], [second[s] for s in shared]), len(shared)


def difference_cell(found: tuple[float, float, float, int]) -> str:
    """`+0.101 (0.048 to 0.153) [9]`; a dash where no seed has both."""
    mean, low, high, seeds = found
    return f"{show_signed(mean)} ({show_interval(low, high)}) [{seeds}]" if seeds else "-"


def verdict(found: tuple[float, float, float, int], paper: float) -> str:
    """What a difference says about the paper's: reproduced, reversed, or inside the noise."""
    _, low, high, seeds = found
    if not seeds or math.isnan(low):
        return "not run"
    if low <= 0 <= high:
        return "inside the noise"
    return "reproduced" if (low > 0) == (paper > 0) else "reversed"


def table2(folder: Path = RESULTS_FOLDER) -> str:
    """Every method in every world: mean reward, ours and the paper's."""
    results = Results("table2", folder)
    header = ["method"]
    for ours, (_, _, theirs) in WORLDS.items():
        header += [f"{ours}: ours", f"{theirs}: paper"]
    rows = []
    for method in METHODS:
        line = [method]
        for place, (env, split, _) in enumerate(WORLDS.values()):
            line.append(mean_cell(results.rewards(env, split, method)))
            line.append(show(PAPER_2[method][place]) if method in PAPER_2 else "")
        rows.append(line)
    return markdown_table(header, rows)


def table2_claims(folder: Path = RESULTS_FOLDER) -> str:
    """Differences paired by seed, the paper's differences, and what ours say about them."""
    results = Results("table2", folder)
    rows = []
    for first, second in CLAIMS_2:
        for place, (ours, (env, split, _)) in enumerate(WORLDS.items()):
            found = difference(results.rewards(env, split, first), results.rewards(env, split, second))
            theirs = PAPER_2[first][place] - PAPER_2[second][place]
            rows.append((f"{first} minus {second}", ours, show_signed(theirs), difference_cell(found), verdict(found, theirs)))
    return markdown_table(("difference", "world", "paper", "ours, 95 % interval [seeds]", "verdict"), rows)


def table2_controls(folder: Path = RESULTS_FOLDER) -> str:
    """Differences that the paper does not report."""
    results = Results("table2", folder)
    rows = []
    for first, second in CONTROLS_2:
        line = [f"{first} minus {second}"]
        for env, split, _ in WORLDS.values():
            line.append(difference_cell(difference(results.rewards(env, split, first), results.rewards(env, split, second))))
        rows.append(line)
    return markdown_table(("difference", *WORLDS), rows)


def table2_budget(folder: Path = RESULTS_FOLDER) -> str:
    """What a method spends on training in the shop: mean over seeds after its last round."""
    results = Results("table2", folder)
    rows = []
    for method in METHODS:
        r = results.rows
        mine = r[(r["env"] == "shop") & (r["split"] == "test") & (r["method"] == method)] if len(r) else r
        if not len(mine):
            continue
        last = mine[mine["iteration"] == mine["iteration"].max()]
        rows.append((method, *(f"{last[name].mean():.0f}" for name in ("env_steps", "tokens", "updates")), len(last)))
    return markdown_table(("method", "actions in the world", "tokens written", "updates", "seeds"), rows)


def optimism(folder: Path = RESULTS_FOLDER) -> str:
    """What choosing the round on the test set, as the paper does, adds to what dev chose."""
    results = Results("table2", folder)
    r = results.rows
    rows = []
    for ours, (env, split, _) in WORLDS.items():
        for method in ("ipr", "eto", "random-pairs"):
            mine = r[(r["env"] == env) & (r["split"] == split) & (r["method"] == method) & (r["setting"] == "default")] if len(r) else r  # fmt: skip
            if not len(mine):
                continue
            best = mine.groupby("seed")["reward"].max().to_dict()
            fixed = mine[mine["iteration"] == mine["iteration"].max()]
            chosen = results.rewards(env, split, method)
            rows.append((
                method, ours, mean_cell(dict(zip(fixed["seed"], fixed["reward"]))), mean_cell(chosen), mean_cell(best),
                difference_cell(difference(best, chosen)),
            ))  # fmt: skip
    return markdown_table(
        ("method", "world", "last round", "chosen on dev", "best on test", "best on test minus chosen on dev"), rows
    )


# Table 4 of the paper: WebShop, InterCodeSQL, ALFWorld unseen.
PAPER_4 = {
    "default": ("full", (0.713, 0.613, 0.747)),
    "w_outcome=0.0": ("without outcome-DPO", (0.702, 0.593, 0.724)),
    "w_step=0.0": ("without step-DPO", (0.664, 0.580, 0.702)),
    "w_sft=0.0": ("without the SFT loss", (0.618, 0.317, 0.649)),
}
PAPER_4_ROUNDS = {1: 0.636, 2: 0.637, 3: 0.682, 4: 0.713, 5: 0.681}

# Tables 3 and 5 on WebShop: SFT, ETO, IPR by base; ETO, reward model, Monte Carlo by policy.
PAPER_3 = {
    "Llama-2-7B": (0.602, 0.674, 0.713), "Mistral-7B": (0.585, 0.662, 0.696), "Llama-2-13B": (0.622, 0.689, 0.722),
    "Llama-3-8B": (0.612, 0.662, 0.720),
}  # fmt: skip
PAPER_5 = {"Llama-2-7B": (0.674, 0.689, 0.713), "Llama-2-13B": (0.689, 0.707, 0.722), "Llama-3-8B": (0.662, 0.706, 0.720)}
OTHER_MODEL = "step_reward=runs/two-layer/default/seed-{seed}"
BASES = {"tiny": "tiny base (4 layers, 1 M, three worlds)", "tiny:two-layer-base": "two-layer base (0.7 M, shop alone)"}


def table3(folder: Path = RESULTS_FOLDER) -> str:
    """Two bases in the shop, pretrained apart: SFT, ETO, IPR."""
    two, three = Results("table2", folder), Results("table3", folder)
    rows = [(f"paper: {base}", "", *map(show, values), show_signed(values[2] - values[1])) for base, values in PAPER_3.items()]
    for scale, name in BASES.items():
        source = two if scale == "tiny" else three
        base, sft, eto, ipr = (source.rewards("shop", "test", m, scale=scale) for m in ("base", "sft", "eto", "ipr"))
        cells = (mean_cell(base), mean_cell(sft), mean_cell(eto), mean_cell(ipr), difference_cell(difference(ipr, eto)))
        rows.append((name, *cells))
    return markdown_table(("base model", "base", "SFT", "ETO", "IPR", "IPR minus ETO"), rows)


def table5(folder: Path = RESULTS_FOLDER) -> str:
    """The learned step reward in place of Monte Carlo, and no step reward."""
    two, five, four = Results("table2", folder), Results("table5", folder), Results("table4", folder)
    rows = [(f"paper: {base}", show(a), "", show(b), "", show(c), "") for base, (a, b, c) in PAPER_5.items()]
    for scale, name in BASES.items():
        source = two if scale == "tiny" else Results("table3", folder)
        eto, full = (source.rewards("shop", "test", method, scale=scale) for method in ("eto", "ipr"))
        none = four.rewards("shop", "test", "ipr", "w_step=0.0", scale=scale)
        model = five.rewards("shop", "test", "ipr", "step_reward=model", scale=scale)
        other = five.rewards("shop", "test", "ipr", OTHER_MODEL, scale=scale)
        rows.append((
            name, mean_cell(eto), mean_cell(none), mean_cell(model), mean_cell(other), mean_cell(full),
            difference_cell(difference(model, full)),
        ))  # fmt: skip
    header = (
        "policy", "ETO", "IPR without step-DPO", "reward model", "the two-layer base's reward model", "Monte Carlo",
        "reward model minus Monte Carlo",
    )  # fmt: skip
    return markdown_table(header, rows)


def reward_model_fit(folder: Path = RESULTS_FOLDER) -> str:
    """How well the reward models fit steps of tasks that they did not see."""
    rows = []
    for path in sorted(folder.glob("*_reward_model.csv")):
        for row in read_table(path, FIT_COLUMNS).itertuples():
            cells = (show(value) for value in (row.mse, row.mse_of_mean, row.explained, row.correlation))
            rows.append((path.name.split("_")[0], row.scale, row.seed, row.steps, *cells))
    header = ("world", "base", "seed", "held-out steps", "squared error", "of their mean", "share explained", "correlation")
    return markdown_table(header, rows)


DEVIATIONS = {
    "sft_on=all_winners": "SFT term on all winners",
    "sft_per=sequence": "SFT term summed over tokens",
    "sft_on=all_winners sft_per=sequence": "both, as the released code has it",
    "both_directions=False": "only the expert wins, as the paper's text has it",
    "action_only=True": "one action contrasted, not the suffix",
    "step_pairs_from=1": "step pairs from t = 1",
    "shorter_wins=True": "of two successes the shorter wins",
    "tau_step=0.1": "step threshold 0.1 (the paper's for SQL)",
    "tau_step=0.35 tau_outcome=0.2": "thresholds 0.35 and 0.2 (the script's defaults for WebShop)",
    "reference=current": "reference = the iterate, ETO's rule",
    "w_sft=1.0": "the paper's weight 1 of the SFT term (ours 2)",
    "explore_temperature=1.0": "exploring at temperature 1",
    "scorer=current": "scorer = the iterate: not frozen",
}


def table4(folder: Path = RESULTS_FOLDER) -> str:
    """Each loss left out, in the shop: mean reward, and what the loss is worth."""
    two, four = Results("table2", folder), Results("table4", folder)
    full = two.rewards("shop", "test", "ipr")
    rows = []
    for setting, (name, (theirs, _, _)) in PAPER_4.items():
        mine = full if setting == "default" else four.rewards("shop", "test", "ipr", setting)
        gone = difference(mine, full)
        paper = theirs - PAPER_4["default"][1][0]
        same = setting == "default"
        rows.append((
            name, mean_cell(mine), show(theirs), "" if same else difference_cell(gone), "" if same else show_signed(paper),
            "" if same else verdict(gone, paper),
        ))  # fmt: skip
    return markdown_table(("setting", "shop: ours", "WebShop: paper", "minus full: ours", "paper", "verdict"), rows)


def table4_rounds(folder: Path = RESULTS_FOLDER) -> str:
    """Five rounds in the shop, none chosen."""
    four = Results("table4", folder)
    sft = Results("table2", folder).rewards("shop", "test", "sft")
    rows = []
    for number, theirs in PAPER_4_ROUNDS.items():
        mine = four.rewards("shop", "test", "ipr", "iterations=5", number)
        rows.append((str(number), mean_cell(mine), show(theirs), difference_cell(difference(mine, sft)), show_signed(theirs - PAPER_2["sft"][0])))
    chosen = four.rewards("shop", "test", "ipr", "iterations=5")
    rows.append(("chosen on dev", mean_cell(chosen), "", difference_cell(difference(chosen, sft)), ""))
    return markdown_table(("round", "shop: ours", "WebShop: paper", "minus SFT: ours", "paper"), rows)


def deviations(folder: Path = RESULTS_FOLDER) -> str:
    """What each deviation of the released code, or from us, changes in the shop."""
    found = Results("deviations", folder)
    full = Results("table2", folder).rewards("shop", "test", "ipr")
    rows = []
    for setting, name in DEVIATIONS.items():
        mine = found.rewards("shop", "test", "ipr", setting)
        shared = {seed: full[seed] for seed in mine if seed in full}
        rows.append((name, f"`--settings \"{setting}\"`", mean_cell(mine), mean_cell(shared), difference_cell(difference(mine, full))))
    return markdown_table(("deviation", "option", "reward", "default, same seeds", "difference"), rows)


MAP_METHODS = ("sft", "eto", "ipr")


def when_steps_help(folder: Path = RESULTS_FOLDER) -> str:
    """IPR against ETO where what should matter is varied: one line a cell, after the round that dev chose."""
    results = Results("map", folder)
    two = Results("table2", folder)
    rows = []
    for env, setting, name in MAP:
        source = two if (env, setting) == ("shop", "default") else results
        sft, eto, ipr = (source.rewards(env, "test", method, setting) for method in MAP_METHODS)
        if not sft:
            sft = two.rewards(env, "test", "sft")  # settings that leave SFT as it is
            sft = {seed: sft[seed] for seed in ipr if seed in sft}
        first = difference(source.rewards(env, "test", "ipr", setting, 1), source.rewards(env, "test", "eto", setting, 1))
        rows.append((
            name, mean_cell(sft), mean_cell(eto), mean_cell(ipr), difference_cell(difference(ipr, eto)), difference_cell(first),
        ))  # fmt: skip
    header = ("cell", "SFT", "ETO", "IPR", "IPR minus ETO, 95 % interval [seeds]", "after round 1, nothing chosen")
    return markdown_table(header, rows)


MAP = (
    ("shop", "default", "one purchase, three habits, 160 demonstrations, N = 5, 2 rounds"),
    ("shop-2", "default", "two purchases, one outcome"),
    ("shop-3", "default", "three purchases, one outcome"),
    ("shop", "habits=skips-size", "one habit: leaves out the size"),
    ("shop", "habits=takes-first", "one habit: takes the first hit"),
    ("shop", "demonstrations=40", "40 demonstrations"),
    ("shop", "demonstrations=80", "80 demonstrations"),
    ("shop", "demonstrations=320", "320 demonstrations"),
    ("shop", "samples=1", "N = 1"),
    ("shop", "samples=20", "N = 20"),
    ("shop", "iterations=4", "4 rounds"),
)


def searched(folder: Path = RESULTS_FOLDER) -> str:
    """The search for a learning rate on dev: every method the same cells."""
    results = Results("search", folder)
    if not len(results.rows):
        return "not run\n"
    settings = list(dict.fromkeys(results.rows["setting"]))
    rows = []
    for method in [m for m in METHODS if m in set(results.rows["method"])]:
        rows.append((method, *(mean_cell(results.rewards("shop", "dev", method, setting)) for setting in settings)))
    return markdown_table(("method", *settings), rows)


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
    for path in sorted(folder.glob("*_fig4.csv")):
        table = read_table(path, STEP_COLUMNS)
        table["mean_step"] = [_mean(text) for text in table["step_rewards"]]
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
    for path in sorted(folder.glob("*_fig4.csv")):
        table = read_table(path, STEP_COLUMNS)
        table["mean_step"] = [_mean(text) for text in table["step_rewards"]]
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


def cost(folder: Path = RESULTS_FOLDER) -> str:
    """Seconds, actions and tokens of each stage (appendix C): one round in the shop, two cores."""
    rows = read_table(folder / "rollouts_bench.csv", ("part", "way", "seconds"))
    spent = rows[rows["part"] == "iteration"].groupby("way", sort=False)["seconds"].median()
    lines = [(stage, f"{seconds:.1f}", f"{seconds / spent.sum():.0%}") for stage, seconds in spent.items()]
    return markdown_table(("stage", "seconds", "share"), [*lines, ("one round", f"{spent.sum():.1f}", "100%")])


def _mean(text: str | float) -> float:
    values = [float(value) for value in str(text).split(";")]
    return sum(values) / len(values)


def worlds(folder: Path = RESULTS_FOLDER) -> str:
    """The effect in a line a world, without what Table 2 has besides."""
    rows = Results("table2", folder).rows
    shown = ("base", "sft", "sft-long", "rft", "eto", "random-pairs", "ipr", "sft-careful", "expert")
    return worlds_markdown(rows[(rows["setting"] == "default") & rows["method"].isin(shown)])


TABLES: dict[str, Callable[[Path], str]] = {
    "worlds": worlds,
    "table2": table2,
    "table2-claims": table2_claims,
    "table2-controls": table2_controls,
    "table2-budget": table2_budget,
    "optimism": optimism,
    "table3": table3,
    "table5": table5,
    "reward-model": reward_model_fit,
    "table4": table4,
    "table4-rounds": table4_rounds,
    "deviations": deviations,
    "search": searched,
    "map": when_steps_help,
    "fig3": fig3,
    "estimator": estimator,
    "fig4": fig4,
    "same-outcome": same_outcome,
    "cases": case_studies,
    "cost": cost,
}

_PLACE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, folder: Path = RESULTS_FOLDER) -> str:
    """A page with its tables written anew. Raises ValueError for a table that does not exist."""

    def filled(found: re.Match) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"no table {found[2]!r}; choose of {', '.join(TABLES)}")
        return f"{found[1]}\n{TABLES[found[2]](folder)}\n{found[3]}"

    return _PLACE.sub(filled, text)


def write_tables(folder: Path = RESULTS_FOLDER) -> list[Path]:
    """Write the tables of all pages of the book and the README anew; returns the pages that changed."""
    changed = []
    for page in [BOOK.parent / "README.md", *sorted(BOOK.rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        new = fill(text, folder)
        if new != text:
            write_whole(page, new)
            changed.append(page)
    for name, figure in figures(folder).items():
        path = BOOK / "figures" / f"{name}.png"
        image = plots.png_bytes(figure)
        if not path.exists() or path.read_bytes() != image:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, image)
            changed.append(path)
    return changed


def figures(folder: Path = RESULTS_FOLDER) -> dict[str, Figure]:
    """The book's forest plots by name; those whose results are not there yet are left out."""
    found = {}
    two = Results("table2", folder).rows
    for env in ("shop", "sql", "house"):
        rows = two[two["env"] == env] if len(two) else two
        if len(rows):
            found[f"{env}_table2"] = plots.effect_forest(effect_table(rows[rows["method"] != "expert"]))
    cells = []
    results, default = Results("map", folder), Results("table2", folder)
    for env, setting, name in MAP:
        source = default if (env, setting) == ("shop", "default") else results
        eto, ipr = (source.rewards(env, "test", method, setting) for method in ("eto", "ipr"))
        mean, low, high, seeds = difference(ipr, eto)
        if seeds:
            cells.append((name.split(",")[0] if setting != "default" or env != "shop" else "the default", mean, low, high, seeds))
    if cells:
        sure = [cell[0] for cell in cells if cell[2] > 0]
        takeaway = "interval above 0: " + ", ".join(sure) if sure else "no interval lies above zero"
        found["map"] = plots.forest(cells, "IPR minus ETO, paired by seed (95 % interval)", "When steps help", takeaway)
    return found


def write_comparison(results: Path, stem: Path) -> list[Path]:
    """A results file as a table in Markdown and as an HTML page with a forest plot, `STEM.md` and `STEM.html`."""
    rows = read_results(results)
    splits = [name for name in ("test", "dev") if (rows["split"] == name).any()]
    table = effect_table(rows, split=splits[0])
    told = effect_markdown(table)
    picture = ""
    if table["difference"].notna().sum() > (table["method"] == "sft").sum():
        picture = figure_html(plots.effect_forest(table), "Gain over SFT, paired by seed.")
    header, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in told.strip().splitlines())
    body = table_html(header, lines) + picture
    return [
        write_whole(stem.with_suffix(".md"), told),
        write_whole(stem.with_suffix(".html"), page(f"Comparison: {results.name}", body)),
    ]
