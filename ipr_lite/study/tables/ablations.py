"""What each loss, each round and each deviation of the released code is worth (the paper's Table 4): the page *Ablations*."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ipr_lite.study.results import difference, markdown_table, show, show_signed
from ipr_lite.study.tables.comparison import PAPER_2
from ipr_lite.study.tables.results import RESULTS_FOLDER, Results, difference_cell, mean_cell, verdicts

# Table 4 of the paper: WebShop, InterCodeSQL, ALFWorld unseen.
PAPER_4 = {
    "default": ("full", (0.713, 0.613, 0.747)),
    "w_outcome=0.0": ("without outcome-DPO", (0.702, 0.593, 0.724)),
    "w_step=0.0": ("without step-DPO", (0.664, 0.580, 0.702)),
    "w_sft=0.0": ("without the SFT loss", (0.618, 0.317, 0.649)),
}
PAPER_4_ROUNDS = {1: 0.636, 2: 0.637, 3: 0.682, 4: 0.713, 5: 0.681}
FALLEN = 0.55
"""A round below this is below SFT's mean in the shop, on the first base."""
DEVIATIONS = {
    "sft_on=all_winners": "SFT term on all winners",
    "sft_per=sequence": "SFT term summed over tokens",
    "sft_on=all_winners sft_per=sequence": "both, as the released code sums it",
    "both_directions=False": "only the demonstrator wins, in outcome pairs too (the paper: in step pairs)",
    "action_only=True": "one action contrasted, not the suffix",
    "step_pairs_from=1": "step pairs from t = 1",
    "shorter_wins=True": "of two successes the shorter wins",
    "tau_step=0.1": "step threshold 0.1 (the paper's for SQL)",
    "tau_step=0.35 tau_outcome=0.2": "thresholds 0.35 and 0.2 (the script's defaults for WebShop)",
    "reference=current": "reference = the iterate, ETO's rule",
    "w_sft=1.0": "the paper's weight 1 of the SFT term (2 then)",
    "explore_temperature=1.0": "exploring at temperature 1",
    "scorer=current": "scorer = the iterate: not frozen",
}


def table4(folder: Path = RESULTS_FOLDER) -> str:
    """Each loss left out, in the shop: mean reward, and what the loss is worth."""
    two, four = Results("table2", folder), Results("table4", folder)
    full = two.rewards("shop", "test", "ipr")
    whole, *parts = [(setting, name, theirs) for setting, (name, (theirs, _, _)) in PAPER_4.items()]
    rewards = [four.rewards("shop", "test", "ipr", setting) for setting, _, _ in parts]
    gone, paper = [difference(mine, full) for mine in rewards], [theirs - whole[2] for _, _, theirs in parts]
    rows = [(whole[1], mean_cell(full), show(whole[2]), "", "", "")]
    for (_, name, theirs), mine, *cells in zip(parts, rewards, gone, paper, verdicts(gone, paper), strict=True):
        found, published, verdict = cells
        rows.append((name, mean_cell(mine), show(theirs), difference_cell(found), show_signed(published), verdict))
    return markdown_table(("setting", "shop: ours", "WebShop: paper", "minus full: ours", "paper", "verdict"), rows)


def table4_rounds(folder: Path = RESULTS_FOLDER) -> str:
    """Five rounds in the shop, none chosen but in the last line; beside SFT and beside the choice of two rounds."""
    two, four = Results("table2", folder), Results("table4", folder)
    sft, full = (two.rewards("shop", "test", method) for method in ("sft", "ipr"))
    rows = []
    for number in (*PAPER_4_ROUNDS, None):
        mine = four.rewards("shop", "test", "ipr", "iterations=5", number)
        theirs = PAPER_4_ROUNDS.get(number)
        rows.append((
            "chosen on dev" if theirs is None else str(number), mean_cell(mine), below_cell(mine.values()),
            "" if theirs is None else show(theirs), difference_cell(difference(mine, sft)),
            "" if theirs is None else show_signed(theirs - PAPER_2["sft"][0]), difference_cell(difference(mine, full)),
        ))  # fmt: skip
    header = ("round", "shop: ours", f"below {FALLEN}", "paper", "minus SFT: ours", "paper", "minus two rounds, chosen")
    return markdown_table(header, rows)


def deviations(folder: Path = RESULTS_FOLDER) -> str:
    """What each deviation of the released code, or from us, changes in the shop; the lowest round, and how many fell."""
    found = Results("deviations", folder)
    full = Results("table2", folder).rewards("shop", "test", "ipr")
    rows = []
    for setting, name in DEVIATIONS.items():
        mine = found.rewards("shop", "test", "ipr", setting)
        rounds = [one for number in (1, 2) for one in found.rewards("shop", "test", "ipr", setting, number).values()]
        lowest = show(min(rounds)) if rounds else "-"
        rows.append(
            (
                f"{name}: `{setting}`",
                mean_cell(mine),
                difference_cell(difference(mine, full)),
                lowest,
                below_cell(rounds),
            )
        )
    return markdown_table(("deviation: setting", "reward", "minus default", "lowest round", f"below {FALLEN}"), rows)


def below_cell(rewards: Collection[float]) -> str:
    """How many of these rewards are below SFT's mean."""
    return f"{sum(reward < FALLEN for reward in rewards)} of {len(rewards)}" if rewards else "-"
