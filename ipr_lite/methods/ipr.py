"""IPR itself, as a line of the comparison; the algorithm is in `ipr_lite/ipr.py`."""

from __future__ import annotations

from ipr_lite.ipr import ipr
from ipr_lite.methods.judge import judge_of
from ipr_lite.methods.method import Method
from ipr_lite.run import Run


def train(run: Run) -> list[str]:
    """All rounds; step rewards by Monte Carlo, or by the learned model where the config says so."""
    rounds = [number for number, stage, _ in ipr(run, judge_of(run)) if stage == "train"]
    return [f"ipr-{number}" for number in rounds]


IPR = Method("ipr", "step rewards: this project's subject", train, "#0b4f9e", "D", stage="iteration-{round}")
