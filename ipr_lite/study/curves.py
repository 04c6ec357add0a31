"""Figures of reward against what it cost: actions in the world, decisions under one outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ipr_lite.study.plots import PALETTE, blank, style_of, titled


def reward_by_actions(
    panels: Mapping[str, Mapping[tuple[str, str], tuple[Sequence[float], Sequence[float]]]],
    flat: Mapping[str, Mapping[str, Mapping[int, float]]], seeds: str,
) -> Figure:  # fmt: skip
    """Mean reward on test against actions in the world, a panel a world; a point a round.

    `panels`: world -> (method, budget) -> actions and rewards; `flat`: world -> method -> reward by seed, of what explores nothing.
    """
    figure, axes = blank(9.6, 3.7, len(panels), columns=len(panels))
    for axis, (world, lines) in zip(axes, panels.items(), strict=True):
        for method, found in ((method, found) for method, found in flat[world].items() if found):
            axis.axhline(
                np.mean(list(found.values())), color=PALETTE[method], linewidth=1.5, label=f"{method}: explores nothing"
            )
        for (method, budget), (actions, values) in lines.items():
            colour, marker = style_of(method)
            once = budget == "per demonstration"
            axis.plot(
                actions, values, ":" if once else "-", color=colour, marker=marker, markersize=6,
                markerfacecolor="white" if once else colour, label=f"{method}{', as its paper explores' if once else ''}",
            )  # fmt: skip
        axis.set(xscale="log", xlabel="actions in the world, all rounds so far")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter("")
        axis.set_title(world, fontsize=10)
    axes[0].set_ylabel("mean reward on test")
    keys = {label: key for axis in axes for key, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return titled(
        figure,
        "Reward against what it cost, from the same start",
        f"n = {seeds} seeds; a point a round, nothing chosen",
    )


def lab_curves(
    lines: Mapping[tuple[str, str, str, str], pd.DataFrame], curve: tuple[Sequence[int], Sequence[float], str], told: str
) -> Figure:  # fmt: skip
    """Greedy reward against the number of decisions under one outcome, and against the actions that it took.

    `lines`: (name, colour, marker, line) -> rows with `decisions`, `actions`, `greedy`; `curve`: what was predicted by decisions.
    """
    figure, (left, right) = blank(9.0, 3.4, panels=2)
    for (name, colour, marker, line), mine in lines.items():
        for axis, x in ((left, "decisions"), (right, "actions")):
            axis.plot(mine[x], mine["greedy"], line, marker=marker, color=colour, label=name, markersize=6)
    ks, values, label = curve
    left.plot(ks, values, color="#777777", linewidth=1, label=label)
    left.set(xlabel="K, decisions under one outcome", ylabel="greedy reward", ylim=(0.5, 1.0), xticks=ks)
    right.set(xscale="log", xlabel="actions in the world", ylim=(0.5, 1.0))
    for row in mine.itertuples():
        place = {"xytext": (3, -12), "textcoords": "offset points", "ha": "right", "fontsize": 7}
        right.annotate(f"K={row.decisions}", (row.actions, row.greedy), **place)
    left.legend(fontsize=8, frameon=False, loc="lower left")
    return titled(figure, "Per demonstration steps beat outcomes; per action outcomes do as well or better", told)


def pushes(
    found: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    boundaries: tuple[Sequence[int], Sequence[int]],
    title: str,
) -> Figure:
    """The gradient coefficient of every token, a row a method: on the left a demonstration's, on the right an episode's.

    Up: the method makes the token likelier. Each row by its own largest; `boundaries`: where each side's actions begin.
    """
    sides = ("the demonstration, action by action", "the agent's episode")
    figure, axes = blank(9.6, 0.62 * len(found) + 1.1, 2 * len(found), columns=2)
    for row, (method, both) in enumerate(found.items()):
        largest = max(np.abs(side).max() for side in both) or 1.0
        for column, (side, starts) in enumerate(zip(both, boundaries, strict=True)):
            axis = axes[2 * row + column]
            values = np.asarray(side) / largest
            axis.fill_between(range(len(values)), values, step="mid", color=PALETTE[method.split(",")[0]], linewidth=0)
            axis.axhline(0, color="#888888", linewidth=0.8)
            for start in starts:
                axis.axvline(start - 0.5, color="#bbbbbb", linewidth=0.6, linestyle=":")
            axis.set(ylim=(-1.1, 1.1), yticks=[], xlim=(-0.5, len(values) - 0.5))
            if row < len(found) - 1:
                axis.set_xticks([])
            else:
                axis.set_xlabel(f"token of {sides[column]}")
            if not column:
                axis.set_ylabel(method, rotation=0, ha="right", va="center")
    return titled(figure, "What each method pushes up or down, token by token (each row by its own largest)", title)


JUDGES = {"oracle": "best-of-n-oracle", "monte carlo": "best-of-n", "hindsight": "armap"}
"""What each judge's method is called."""


def searches(found: pd.DataFrame) -> Figure:
    """Mean reward on test against the actions that a search takes for a task, a panel a world: lines for the best of N by each
    judge, a point for each beam. `found`: the rows of `search.csv`."""
    worlds = list(dict.fromkeys(found["env"]))
    figure, axes = blank(4.6 * len(worlds), 3.5, len(worlds), columns=len(worlds))
    for axis, world in zip(axes, worlds, strict=True):
        mine = found[found["env"] == world]
        for judge, rows in mine.groupby("judge", sort=False):
            points = rows.groupby("n")[["actions", "reward"]].mean()
            colour, marker = style_of(JUDGES.get(judge, judge))
            label = f"best of N, judge: {judge}" if judge in JUDGES else f"beam: {judge}"
            axis.plot(points["actions"], points["reward"], marker=marker, color=colour, label=label, markersize=7)
        seeds = mine["seed"].nunique()
        axis.set(xscale="log", xlabel="actions for one task", title=f"{world} (n = {seeds} seed{'s' * (seeds > 1)})")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter("")
        axis.legend(fontsize=8, frameon=False)
    axes[0].set_ylabel("mean reward on test")
    return titled(figure, "What searching buys depends on the judge", "N = 1, 2, 3, 5, 10 episodes of the same clone")
