"""What every round of a run has made, from the files of its folder alone: pairs, what was reused, dev reward.

python -m ipr_lite rounds "runs/shop/default/seed-*" --results data/results/shop_rounds.csv
"""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd

from ipr_lite.config import Config
from ipr_lite.records import read_pairs, read_step_rewards, read_trajectories
from ipr_lite.study.results import keep_rows

KINDS = tuple(f"{kind}_{end}" for kind in ("outcome", "step") for end in ("win", "tie", "lose"))
COLUMNS = (
    "env", "setting", "seed", "iteration", "dev", *KINDS, "same_action", "reject_end", "choose_end", "scored", "reused", "margin",
)  # fmt: skip
"""A row a round; round 0 is SFT, of which only the dev reward is told. Wins are the agent's.

`reject_end` (`choose_end`): step pairs whose rejected (chosen) side is one action, which ended its episode. `scored`:
actions whose step reward the pairs asked for, `reused` those among them that an earlier round had scored. `margin`: mean
of the last five updates. NaN where the folder does not say.
"""


def round_rows(folder: str | Path) -> list[dict]:
    """Rows with the columns `COLUMNS` of a run's folder, round 0 first."""
    folder = Path(folder)
    config = Config.read(folder / "config.json")
    run = {"env": config.env, "setting": config.setting, "seed": config.seed}
    cloned = folder / "evaluations" / "sft-dev.jsonl"
    reward = fmean(t.reward for t in read_trajectories(cloned)) if cloned.exists() else math.nan
    rows = [run | dict.fromkeys(COLUMNS[3:], 0) | {"dev": float(reward), "margin": math.nan}]
    chosen = folder / "selected.json"
    dev = json.loads(chosen.read_text(encoding="utf-8"))["dev"] if chosen.exists() else {}
    known: set[tuple] = set()
    for number in range(1, config.iterations + 1):
        place = folder / f"iteration-{number}"
        if not (place / "pair_counts.json").exists():
            break
        counts = json.loads((place / "pair_counts.json").read_text(encoding="utf-8"))
        made = {f"{kind}_{end}": counts[kind][end] for kind, end in (name.split("_") for name in KINDS)}
        step_pairs = [pair for pair in read_pairs(place / "pairs.jsonl") if pair.kind == "step"]
        scored = {(r.id, r.step, r.action) for r in read_step_rewards(place / "step_rewards.jsonl")}
        log = place / "train_log.csv"
        rows.append(run | made | {
            "iteration": number,
            "dev": float(dev.get(f"ipr-{number}", math.nan)),
            "same_action": counts["step"]["same_action"],
            "reject_end": sum(len(pair.rejected) == 1 for pair in step_pairs),
            "choose_end": sum(len(pair.chosen) == 1 for pair in step_pairs),
            "scored": len(scored),
            "reused": len(scored & known),
            "margin": float(pd.read_csv(log)["margin"].tail(5).mean()) if log.exists() else math.nan,
        })  # fmt: skip
        known |= scored
    return rows


def add_rounds(runs: Sequence[str], results: Path, command: str) -> int:
    """Put the rounds of runs into a results file, in place of what it holds of the same runs. Returns how many.

    runs: folders, or patterns of them.
    """
    folders = [place for text in runs for place in sorted(glob.glob(text)) or [text]]
    rows = [row for folder in folders for row in round_rows(folder)]
    keep_rows(
        results, rows, COLUMNS, ("env", "setting", "seed", "iteration"), command,
        lambda row: (row["env"], row["setting"] != "default", row["setting"], int(row["seed"]), int(row["iteration"])),
    )  # fmt: skip
    return len(rows)
