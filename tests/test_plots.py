"""Figures say what they show; the palette survives a grey print."""

import itertools
import math

import pandas as pd
import pytest

from ipr_lite.evaluation import METRICS
from ipr_lite.records import StepReward
from ipr_lite.study import plots
from ipr_lite.study.results import effect_table


def lightness(colour: str) -> float:
    """CIE L* of an sRGB colour, 0 (black) to 100 (white)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_the_palette_is_told_apart_in_grey_and_by_marker():
    """Methods that share the course's figures by lightness, all of them by colour and marker."""
    together = ("base", "sft", "random-pairs", "sft-long", "sft-careful", "ipr", "eto", "careful")
    grey = sorted(lightness(plots.PALETTE[name]) for name in together)
    assert min(b - a for a, b in itertools.pairwise(grey)) > 6.5
    assert plots.PALETTE.keys() == plots.MARKERS.keys() >= plots.HATCHES.keys()
    for looks in (plots.PALETTE, plots.MARKERS):
        assert len(set(looks.values())) == len(looks)
    assert plots.method_of("ipr-12") == "ipr" and plots.method_of("sft-long") == "sft-long"


def title(figure) -> str:
    png = plots.png_bytes(figure)
    assert png.startswith(b"\x89PNG") and len(png) < 200_000
    assert figure._repr_png_() == png
    return figure.get_suptitle()


def row(agent, reward, low=0.1, high=0.9) -> dict:
    return {
        **dict.fromkeys(METRICS, 0.5),
        "agent": agent,
        "split": "test",
        "n": 40,
        "reward": reward,
        "low": low,
        "high": high,
    }


def test_rewards_show_n_the_gain_and_the_careful_person_as_a_line():
    rows = [
        row("careful", 1.0),
        row("ipr", 0.75),
        row("ipr-1", 0.7),
        row("sft", 0.5),
        row("mine", 0.4, math.nan, math.nan),
    ]
    figure = plots.reward_by_agent(rows)
    assert title(figure) == "Reward on test (n = 40 tasks)\nipr minus sft: +0.250"
    axis = figure.axes[0]
    assert len(axis.patches) == 4 and any(a.get_text() == "careful 1.00" for a in axis.texts)
    with pytest.raises(ValueError, match="'dev'"):
        plots.reward_by_agent(rows, "dev")


def test_curves_draw_the_columns_that_the_log_has():
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert "n = 2 updates" in title(plots.learning_curves(log)) and len(plots.learning_curves(log).axes) == 1
    log = [{**record, "loss_step": 0.69, "accuracy": 0.5, "margin": 0.0, "chosen_logp": -3.0} for record in log]
    figure = plots.learning_curves(pd.DataFrame(log), "Round 1")
    assert title(figure).startswith("Round 1") and len(figure.axes) == 4
    with pytest.raises(ValueError, match="no column"):
        plots.learning_curves([{"epoch": 1}])


def test_a_strip_of_step_rewards_names_the_lowest_step():
    steps = [
        StepReward("t9", i, "a", "o", "demonstrator", r, 2, [0.0, 2 * r], 1.0, False) for i, r in ((1, 0.5), (2, 0.25))
    ]
    steps.append(StepReward("t9", 3, "a", "", "demonstrator", 1.0, 0, [], 1.0, True))
    steps.append(StepReward("t9", 2, "b", "o", "agent", 0.0, 2, [0.0, 0.0], 0.0, False))
    text = title(plots.step_reward_strip(steps))
    assert text == "Step rewards of task t9 (N = 2 rollouts a step)\nlowest at step 2 (agent): 0.00"
    with pytest.raises(ValueError, match="no step rewards"):
        plots.step_reward_strip([])


def test_a_forest_shows_gains_over_the_baseline():
    rows = [
        {"env": "shop", "method": method, "setting": "default", "seed": seed, "selected": 1, "split": "test",
         "precision": "nf4", "scale": "tiny", "reward": start + 0.1 * seed + 0.01 * (seed % 2) * (method == "ipr")}
        for method, start in (("sft", 0.5), ("ipr", 0.6), ("odd", 0.5)) for seed in range(4)
    ]  # fmt: skip
    table = effect_table(pd.DataFrame(rows))
    assert title(plots.effect_forest(table)) == "Gain over sft (n = 4 seeds)\ninterval above 0: ipr"
    with pytest.raises(ValueError, match="no method shares a seed"):
        plots.effect_forest(table[table["method"] == "sft"])


def test_monte_carlo_nears_the_truth():
    figure = plots.mc_convergence([[0, 1, 0, 1], [1, 0, 1, 0]], truth=0.5)
    assert title(figure).endswith("at N = 4 the middle 95 % is 0.500 to 0.500")
    with pytest.raises(ValueError, match="equal length"):
        plots.mc_convergence([1, 0, 1], truth=0.5)
