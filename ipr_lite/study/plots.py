"""The project's figures. Every function returns a matplotlib Figure and shows nothing itself.

One palette for all: hues that colour-blind readers tell apart, and lightnesses at least 7 apart
(CIE L*), with a marker and a hatch each, so that a grey print still reads. Intervals are 95 %.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ipr_lite.engine.safe_text import one_line
from ipr_lite.evaluation import student_interval
from ipr_lite.methods import METHODS
from ipr_lite.records import StepReward
from ipr_lite.study.results import agent_order, show, show_interval, show_signed

PALETTE = {name: method.colour for name, method in METHODS.items()}
MARKERS = {name: method.marker for name, method in METHODS.items()}
HATCHES = {"base": "..", "random-pairs": "xx", "sft-long": "\\\\", "sft-careful": "//", "eto": "--"}
_OTHER = "#8a8a8a"
_LN2 = math.log(2)


def style_of(method: str) -> tuple[str, str]:
    """The colour and the marker of a method; grey for one that nobody knows."""
    known = METHODS.get(method)
    return (known.colour, known.marker) if known else (_OTHER, "h")


class PngFigure(Figure):
    """A Figure that a notebook shows as a PNG, with or without pyplot, and that opens no window."""

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG at 100 dots per inch; equal figures have equal bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, dpi=100, format="png", metadata={"Software": None})
    return buffer.getvalue()


def method_of(agent: str) -> str:
    """The method whose colour an agent has: `ipr-1`, `ipr-2`, ... are `ipr`."""
    stem, _, number = agent.rpartition("-")
    return stem if stem == "ipr" and number.isdigit() else agent


def learning_curves(log: Sequence[dict] | pd.DataFrame, title: str = "Training") -> Figure:
    """Loss, and where the log has them accuracy, margin and log-probabilities, against updates.

    `log` has a column `step` and any of loss, loss_outcome, loss_step, loss_sft, accuracy, margin,
    chosen_logp, rejected_logp; columns without a number are left out.
    Raises ValueError when there is nothing to draw.
    """
    log = pd.DataFrame(log)
    panels = [
        ("loss (nats)", ("loss", "loss_outcome", "loss_step", "loss_sft")),
        ("accuracy (share of pairs)", ("accuracy",)),
        ("margin (nats x beta)", ("margin",)),
        ("log-probability (nats)", ("chosen_logp", "rejected_logp")),
    ]
    panels = [(label, [n for n in names if n in log and log[n].notna().any()]) for label, names in panels]
    panels = [(label, names) for label, names in panels if names]
    if not panels or "step" not in log:
        raise ValueError("the log has no column to draw against step")
    figure, axes = blank(4.2 * min(len(panels), 2), 2.9 * math.ceil(len(panels) / 2), len(panels))
    lines = [("#0b4f9e", "-"), ("#d55e00", "--"), ("#117733", "-."), ("#7a7a7a", ":")]
    for axis, (label, names) in zip(axes, panels, strict=True):
        for name, (colour, style) in zip(names, lines, strict=False):
            drawn = log[["step", name]].dropna()
            axis.plot(
                drawn["step"], drawn[name], style, color=colour, label=name, marker="." if len(drawn) < 3 else None
            )
        if "loss_outcome" in names or "loss_step" in names:
            axis.axhline(_LN2, color="#999999", linewidth=0.8, label="ln 2: no preference yet")
        if names == ["accuracy"]:
            axis.set_ylim(-0.03, 1.03)
            axis.axhline(0.5, color="#999999", linewidth=0.8)
        axis.set_xlabel("update")
        axis.set_ylabel(label)
        if len(names) > 1:
            low, high = axis.get_ylim()
            axis.set_ylim(low, high + 0.3 * (high - low))  # room for the legend above the lines
            axis.legend(fontsize=7, frameon=False, ncols=2, loc="upper center")
    takeaway = ""
    losses = log["loss"].dropna().tolist() if "loss" in log else []
    if len(losses) > 1:
        takeaway = f"loss {losses[0]:.3f} at the first, {losses[-1]:.3f} at the last record"
    return titled(figure, f"{title} (n = {int(log['step'].max())} updates)", takeaway)


def reward_by_agent(rows: Sequence[dict], split: str = "test") -> Figure:
    """Mean outcome reward of every agent on a split with its 95 % interval; the careful person is a line.

    `rows` are metrics rows. Raises ValueError when none is of that split.
    """
    rows = sorted((row for row in rows if row["split"] == split), key=lambda row: agent_order(row["agent"]))
    if not rows:
        raise ValueError(f"no metrics of the split {split!r}")
    bars = [row for row in rows if row["agent"] != "careful"]
    figure, (axis,) = blank(max(4.2, 1.0 + 0.8 * len(bars)), 3.2)
    for place, row in enumerate(bars):
        method = method_of(row["agent"])
        axis.bar(place, row["reward"], 0.7, color=PALETTE.get(method, _OTHER), hatch=HATCHES.get(method, ""), edgecolor="white", alpha=0.55 if method != row["agent"] else 1)  # fmt: skip
        if not math.isnan(row["low"]):
            reach = [[row["reward"] - row["low"]], [row["high"] - row["reward"]]]
            axis.errorbar(place, row["reward"], yerr=reach, color="#333333", capsize=3, linewidth=1.2)
        axis.annotate(show(row["reward"], 2), (place, row["reward"] / 2), ha="center", va="center", fontsize=8, bbox={"boxstyle": "round", "fc": "white", "ec": "none"})  # fmt: skip
    for row in rows:
        if row["agent"] == "careful":
            axis.axhline(row["reward"], color=PALETTE["careful"], linestyle="--", linewidth=1)
            axis.annotate(f"careful {show(row['reward'], 2)}", (0.01, row["reward"]), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8, va="bottom")  # fmt: skip
    axis.axhline(0, color="#333333", linewidth=0.8)
    names = [one_line(row["agent"], 40) for row in bars]
    axis.set_xticks(range(len(bars)), names, rotation=20 if len(bars) > 5 else 0, parse_math=False)
    axis.margins(y=0.14)
    axis.set_ylabel("mean outcome reward")
    axis.set_xlabel("agent (bars: 95 % interval over tasks)")
    sizes = sorted({int(row["n"]) for row in rows})
    tasks = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    reward = {row["agent"]: row["reward"] for row in rows}
    takeaway = f"ipr minus sft: {show_signed(reward['ipr'] - reward['sft'])}" if {"ipr", "sft"} <= reward.keys() else ""
    return titled(figure, f"Reward on {split} (n = {tasks} tasks)", takeaway)


def step_reward_strip(step_rewards: Sequence[StepReward]) -> Figure:
    """The step rewards along one trajectory: the mean of the rollouts, each rollout, 95 % bars.

    Expert and agent rows may be mixed. Terminal steps have no rollouts: the outcome itself.
    Raises ValueError without step rewards.
    """
    if not step_rewards:
        raise ValueError("no step rewards to draw")
    figure, (axis,) = blank(max(4.2, 1.6 + 0.7 * max(item.step for item in step_rewards)), 3.0)
    looks = {"demonstrator": ("#000000", "o", -0.06), "agent": ("#0b4f9e", "D", 0.06)}
    for who, (colour, marker, shift) in looks.items():
        items = sorted((item for item in step_rewards if item.who == who), key=lambda item: item.step)
        for item in items:
            x = item.step + shift
            if item.samples:
                spread = np.linspace(-0.03, 0.03, len(item.samples)) if len(item.samples) > 1 else [0.0]
                axis.scatter(x + np.asarray(spread), item.samples, s=10, color=colour, alpha=0.35, linewidths=0)
                _, low, high = student_interval(item.samples)
                axis.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.6)
        if items:
            style = "-" if who == "demonstrator" else ":"
            axis.plot([i.step + shift for i in items], [i.reward_mc for i in items], style, color=colour, marker=marker, markersize=6, label=f"{who}: mean (line), rollouts (dots)")  # fmt: skip
    outcomes = sorted({item.outcome for item in step_rewards if item.who == "demonstrator"})
    for outcome in outcomes[:1]:
        axis.axhline(outcome, color="#999999", linewidth=0.8, label="outcome of the demonstration")
    axis.xaxis.get_major_locator().set_params(integer=True)
    every = [value for item in step_rewards for value in (item.reward_mc, item.outcome, *item.samples)]
    axis.set_ylim(min(0.0, *every) - 0.08, max(1.0, *every) + 0.08)
    axis.set_xlabel("step t")
    axis.set_ylabel("step reward $r_s$")
    axis.legend(fontsize=7, frameon=False)
    counts = sorted({item.n for item in step_rewards if not item.terminal}) or [0]
    worst = min(step_rewards, key=lambda item: (item.reward_mc, item.step))
    takeaway = f"lowest at step {worst.step} ({worst.who}): {show(worst.reward_mc, 2)}"
    rollouts = "/".join(map(str, counts))
    return titled(figure, f"Step rewards of task {step_rewards[0].id} (N = {rollouts} rollouts a step)", takeaway)


def effect_forest(table: pd.DataFrame) -> Figure:
    """The gain of every method over the baseline with its 95 % interval over seeds.

    `table` comes from `evaluation.effect_table`. Raises ValueError when no method can be compared.
    """
    baseline = table.attrs.get("baseline", "baseline")
    rows = [row for row in table.itertuples() if row.method != baseline and not math.isnan(row.difference)]
    if not rows:
        raise ValueError(f"no method shares a seed with the baseline {baseline!r}")
    several = {name: table[name].nunique() > 1 for name in ("env", "setting", "precision", "scale")}
    names = [" ".join([r.method, *(str(getattr(r, k)) for k, more in several.items() if more)]) for r in rows]
    both = zip(names, rows, strict=True)
    lines = [(name, r.difference, r.difference_low, r.difference_high, r.pairs) for name, r in both]
    sure = [name for name, _, low, *_ in lines if low > 0]
    takeaway = "interval above 0: " + ", ".join(sure) if sure else "no interval lies above zero"
    styles = [style_of(row.method) for row in rows]
    return forest(
        lines, f"reward minus {baseline}, paired by seed (95 % interval)", f"Gain over {baseline}", takeaway, styles
    )


def forest(
    rows: Sequence[tuple[str, float, float, float, int]], xlabel: str, title: str, takeaway: str,
    styles: Sequence[tuple[str, str]] | None = None, of: str = "seeds",
) -> Figure:  # fmt: skip
    """Differences with their 95 % intervals, one below the other: (name, mean, low, high, n of them).

    `styles`: a colour and a marker for each. `of`: what the intervals are over. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("there is no difference to draw")
    figure, (axis,) = blank(6.4, 1.5 + 0.36 * len(rows))
    styles = styles or [(PALETTE["ipr"], MARKERS["ipr"])] * len(rows)
    both = zip(reversed(rows), reversed(styles), strict=True)
    for place, ((_, mean, low, high, n), (colour, marker)) in enumerate(both):
        if not math.isnan(low):
            axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot(mean, place, marker=marker, color=colour, markersize=7)
        axis.annotate(f"{show_signed(mean)}  (n = {n})", (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")  # fmt: skip
    axis.set_yticks(range(len(rows)), [one_line(row[0], 60) for row in reversed(rows)], parse_math=False)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.axvline(0, color="#333333", linewidth=1)
    axis.set_xlabel(one_line(xlabel, 80), parse_math=False)
    sizes = sorted({row[4] for row in rows})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return titled(figure, f"{title} (n = {n} {of})", takeaway)


def method_panels(
    panels: Mapping[str, Mapping[str, Sequence[float]]], names: Mapping[str, str], seeds: int, title: str
) -> Figure:
    """Mean reward on test: a panel a world, a row a method of `names` (method -> what it is called here).

    `panels`: world -> method -> its reward by seed; one number alone where seeds change nothing, none where it lacks seeds.
    The dashed line is the base's.
    """
    figure = PngFigure(figsize=(9.6, 1.9 + 0.34 * len(names)), layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (world, found) in zip(axes, panels.items(), strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        for base in found["base"]:
            axis.axvline(base, color="#777777", linestyle="--", linewidth=1)
        for place, method in enumerate(reversed(names)):
            values, colour = found[method], PALETTE[method]
            if not values:
                axis.annotate("too few seeds", (0.02, place), fontsize=7, color="#777777", va="center")
                continue
            mean, low, high = student_interval(values)
            if not math.isnan(low):
                axis.plot([low, high], [place, place], color=colour, linewidth=2)
                axis.plot(values, [place] * len(values), "|", color="#333333", markersize=6, alpha=0.5)
            axis.plot(
                mean, place, MARKERS[method], color=colour, markersize=8, markeredgecolor="#333333", markeredgewidth=0.5
            )
        axis.set(xlim=(-0.02, 1.04), ylim=(-0.6, len(names) - 0.4), xlabel="mean reward on test")
        axis.set_title(world, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
    axes[0].set_yticks(range(len(names)), list(reversed(names.values())), fontsize=9)
    keys = [
        Line2D([], [], color="#333333", marker="o", linewidth=2, label="mean, 95 % interval over seeds"),
        Line2D([], [], color="#333333", marker="|", linewidth=0, alpha=0.5, label="a seed"),
        Line2D([], [], color="#777777", linestyle="--", linewidth=1, label="the untrained base"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    told = f"n = {seeds} seeds, the same in every panel; surely: the 95 % interval of the difference, paired by seed, is above 0"
    return titled(figure, title, told)


def mc_convergence(samples: Sequence[Sequence[float]], truth: float) -> Figure:
    """How the Monte Carlo step reward nears the truth as the number N of rollouts grows.

    `samples` holds one row of rollout outcomes per repetition, all of one length; `truth` is the
    exact value. The band holds the middle 95 % of the repetitions' means.
    Raises ValueError unless there are two rows or more of equal length.
    """
    outcomes = np.asarray(samples, dtype=float)
    if outcomes.ndim != 2 or len(outcomes) < 2:
        raise ValueError("samples must be two or more rows of equal length")
    n = np.arange(1, outcomes.shape[1] + 1)
    means = np.cumsum(outcomes, axis=1) / n
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    figure, (axis,) = blank(5.0, 3.2)
    axis.fill_between(n, low, high, color="#0b4f9e", alpha=0.2, linewidth=0, label="middle 95 % of estimates")
    axis.plot(n, means[0], color="#d55e00", linewidth=1, linestyle="--", label="one estimate")
    axis.plot(n, means.mean(axis=0), color="#0b4f9e", label="mean of estimates")
    axis.axhline(truth, color="#000000", linewidth=1, label=f"truth {truth:.3f}")
    axis.set_xlabel("rollouts N")
    axis.set_ylabel("estimate of $r_s$")
    axis.legend(fontsize=7, frameon=False)
    takeaway = f"at N = {n[-1]} the middle 95 % is {show_interval(low[-1], high[-1])}"
    return titled(figure, f"Monte Carlo against the truth (n = {len(outcomes)} repetitions)", takeaway)


def rollout_speed(rows: pd.DataFrame) -> Figure:
    """What `bench` measured: ways against the floor, and what the time of ours grows with; medians over runs.

    `rows` has the columns `bench.COLUMNS`. Raises ValueError without rows of the part "ways".
    """
    parts = dict(list(rows.groupby("part")))
    if "ways" not in parts:
        raise ValueError("no way was measured: the rows hold no part `ways`")
    figure, (ways, samples, tasks, history) = blank(9.6, 6.0, 4)
    rates = parts["ways"].assign(rate=lambda r: r["rollouts"] / r["seconds"], best=lambda r: r["rollouts"] / r["floor"])
    found = rates.groupby("way", sort=False)[["rate", "best"]].median()[::-1]
    for place, row in enumerate(found.itertuples()):
        ours = row.Index in ("ours", "unshared", "undrafted", "unmerged")
        ways.barh(
            place, row.rate, 0.65, color=PALETTE["ipr" if ours else "base"], alpha=1 if row.Index == "ours" else 0.6
        )
        ways.plot(
            [row.best] * 2, [place - 0.4, place + 0.4], color="#d55e00", linewidth=2, label="" if place else "the floor"
        )
        ways.annotate(f" {row.rate:,.0f}", (row.rate, place), va="center", fontsize=8)
    ways.set_yticks(range(len(found)), found.index)
    ways.set_xscale("log")
    ways.set_xlabel("rollouts a second (log scale)")
    ways.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    for axis, part, label in ((samples, "samples", "rollouts N of a step"), (tasks, "trajectories", "demonstrations")):
        if part not in parts:
            continue
        median = parts[part].groupby(part)[["seconds", "floor"]].median()
        axis.plot(median.index, median["seconds"], color=PALETTE["ipr"], marker="D", label="ours")
        axis.plot(median.index, median["floor"], color="#d55e00", linestyle="--", label="the floor")
        axis.set(xlabel=label, ylabel="seconds", ylim=(0, None), xlim=(0, None))
        axis.legend(fontsize=7, frameon=False)
    if "history" in parts:
        for way, colour, marker in (("batched_merged", _OTHER, "o"), ("ours", PALETTE["ipr"], "D")):
            median = parts["history"].query("way == @way").groupby("history")["seconds"].median()
            history.plot(median.index, 1000 * median, color=colour, marker=marker, label=way)
        history.set(xlabel="tokens of history", ylabel="milliseconds a turn", ylim=(0, None), xlim=(0, None))
        history.legend(fontsize=7, frameon=False)
    job = parts["ways"].iloc[0]
    title = f"{job['rollouts']} rollouts from the steps of {job['trajectories']} trajectories, N = {job['samples']}"
    runs = rates["run"].nunique()
    share = (found["rate"] / found["best"]).get("ours", math.nan)
    return titled(
        figure,
        f"{title} (median of n = {runs} runs, {job['threads']} threads)",
        f"ours runs at {share:.0%} of the floor's rate",
    )


def blank(width: float, height: float, panels: int = 1, columns: int = 2) -> tuple[Figure, list]:
    """An empty figure and its axes, `columns` beside each other at most."""
    figure = PngFigure(figsize=(width, height + 0.5), layout="constrained", facecolor="white")
    columns = min(panels, columns)
    axes = [figure.add_subplot(math.ceil(panels / columns), columns, i + 1) for i in range(panels)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return figure, axes


def titled(figure: Figure, title: str, takeaway: str) -> Figure:
    """What is shown, and below it what it says, in lines no longer than the figure is wide."""
    letters = int(13 * figure.get_figwidth())
    lines = [textwrap.fill(one_line(text, 120), letters) for text in (title, takeaway) if text]
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    return figure
