"""All methods in all worlds, ours beside the paper's (its Tables 2, 3 and 5): the page *Results*."""

from __future__ import annotations

from pathlib import Path

from ipr_lite.methods import METHODS
from ipr_lite.methods.learned_rewards import FIT_COLUMNS
from ipr_lite.study.results import difference, markdown_table, read_table, show, show_signed, worlds_markdown
from ipr_lite.study.speed import stage_table
from ipr_lite.study.tables.results import RESULTS_FOLDER, WORLDS, Results, difference_cell, mean_cell, verdicts

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

# Tables 3 and 5 on WebShop: SFT, ETO, IPR by base; ETO, reward model, Monte Carlo by policy.
PAPER_3 = {
    "Llama-2-7B": (0.602, 0.674, 0.713), "Mistral-7B": (0.585, 0.662, 0.696), "Llama-2-13B": (0.622, 0.689, 0.722),
    "Llama-3-8B": (0.612, 0.662, 0.720),
}  # fmt: skip
PAPER_5 = {
    "Llama-2-7B": (0.674, 0.689, 0.713),
    "Llama-2-13B": (0.689, 0.707, 0.722),
    "Llama-3-8B": (0.662, 0.706, 0.720),
}
OTHER_MODEL = "step_reward=runs/two-layer/default/seed-{seed}"
BASES = {
    "tiny": "first base (4 layers, 1 M, three worlds)",
    "tiny:two-layer-base": "two-layer base (0.7 M, shop alone)",
}


def worlds(folder: Path = RESULTS_FOLDER) -> str:
    """The effect in a line a world, without what Table 2 has besides."""
    rows = Results("table2", folder).rows
    shown = ("base", "sft", "sft-long", "rft", "eto", "random-pairs", "ipr", "sft-careful", "careful")
    return worlds_markdown(rows[(rows["setting"] == "default") & rows["method"].isin(shown)])


def table2(folder: Path = RESULTS_FOLDER) -> str:
    """Every method that was run, or that the paper has: mean reward in every world, ours and the paper's."""
    results = Results("table2", folder)
    header = ["method"]
    for ours, (_, _, theirs) in WORLDS.items():
        header += [f"{ours}: ours", f"{theirs}: paper"]
    rows = []
    for method in METHODS:
        line = [method]
        for place, (env, split, _) in enumerate(WORLDS.values()):
            line.append(mean_cell(results.rewards(env, split, method), method))
            line.append(show(PAPER_2[method][place]) if method in PAPER_2 else "")
        if set(line[1:]) - {"-", ""}:
            rows.append(line)
    return markdown_table(header, rows)


def table2_claims(folder: Path = RESULTS_FOLDER) -> str:
    """Differences paired by seed, the paper's differences, and what ours say about them."""
    results = Results("table2", folder)
    claims, found, paper = [], [], []
    for first, second in CLAIMS_2:
        for place, (ours, (env, split, _)) in enumerate(WORLDS.items()):
            claims.append((f"{first} minus {second}", ours))
            found.append(difference(results.rewards(env, split, first), results.rewards(env, split, second)))
            paper.append(PAPER_2[first][place] - PAPER_2[second][place])
    cells = zip(map(show_signed, paper), map(difference_cell, found), verdicts(found, paper), strict=True)
    rows = [(*claim, *line) for claim, line in zip(claims, cells, strict=True)]
    return markdown_table(("difference", "world", "paper", "ours, 95 % interval, detectable [seeds]", "verdict"), rows)


def table2_controls(folder: Path = RESULTS_FOLDER) -> str:
    """Differences that the paper does not report."""
    results = Results("table2", folder)
    rows = []
    for first, second in CONTROLS_2:
        line = [f"{first} minus {second}"]
        for env, split, _ in WORLDS.values():
            line.append(
                difference_cell(difference(results.rewards(env, split, first), results.rewards(env, split, second)))
            )
        rows.append(line)
    return markdown_table(("difference", *WORLDS), rows)


def optimism(folder: Path = RESULTS_FOLDER) -> str:
    """What choosing the round on the test set, as the paper does, adds to what dev chose."""
    results = Results("table2", folder)
    rows = []
    for ours, (env, split, _) in WORLDS.items():
        for method in ("ipr", "eto", "random-pairs"):
            mine = results.of(env, split, method)
            mine = mine[mine["setting"] == "default"]
            if not len(mine):
                continue
            best = mine.groupby("seed")["reward"].max().to_dict()
            fixed = mine[mine["iteration"] == mine["iteration"].max()]
            chosen = results.rewards(env, split, method)
            rows.append((
                method, ours, mean_cell(dict(zip(fixed["seed"], fixed["reward"], strict=True))), mean_cell(chosen), mean_cell(best),
                difference_cell(difference(best, chosen)),
            ))  # fmt: skip
    return markdown_table(
        ("method", "world", "last round", "chosen on dev", "best on test", "best on test minus chosen on dev"), rows
    )


def table3(folder: Path = RESULTS_FOLDER) -> str:
    """Two bases in the shop, pretrained apart: SFT, ETO, IPR."""
    two, three = Results("table2", folder), Results("table3", folder)
    rows = [
        (f"paper: {base}", "", *map(show, values), show_signed(values[2] - values[1]))
        for base, values in PAPER_3.items()
    ]
    for scale, name in BASES.items():
        source = two if scale == "tiny" else three
        base, sft, eto, ipr = (source.rewards("shop", "test", m, scale=scale) for m in ("base", "sft", "eto", "ipr"))
        cells = (
            mean_cell(base, "base"),
            mean_cell(sft),
            mean_cell(eto),
            mean_cell(ipr),
            difference_cell(difference(ipr, eto)),
        )
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
    header = (
        "world",
        "base",
        "seed",
        "held-out steps",
        "squared error",
        "of their mean",
        "share explained",
        "correlation",
    )
    return markdown_table(header, rows)


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


def cost(folder: Path = RESULTS_FOLDER) -> str:
    """Seconds, actions and tokens of each stage (appendix C): one round in the shop, two cores."""
    return stage_table(read_table(folder / "rollouts_bench.csv", ("part", "way", "seconds")))
