"""Rejection sampling (RFT): what the SFT policy did well joins the demonstrations, and all are cloned anew."""

from __future__ import annotations

from ipr_lite.methods.explored import explored, round_budget
from ipr_lite.methods.method import Method
from ipr_lite.methods.sft import all_updates, cloned
from ipr_lite.records import Trajectory
from ipr_lite.run import Run


def rft(run: Run) -> list[str]:
    """The SFT policy samples episodes; what succeeds, or does better than the demonstration of its task, is kept.

    SFT takes as many updates as `sft_long`; where no episode is kept, it is `sft_long`.
    """

    def clone():
        demonstrations = run.demonstrations()
        budget = sum(round_budget(run, number) for number in range(1, run.config.iterations + 1))
        outcome = {t.id: t.reward for t in demonstrations}
        kept: dict[tuple, Trajectory] = {}
        played, amounts = explored(run, run.sft(), "rft", budget)
        spent.update(amounts)
        for t in played:
            if (t.success or t.reward > outcome[t.id] + run.config.tau_outcome) and not t.extra.get("overflow"):
                kept[t.id, *t.actions] = t
        return run.clone([*demonstrations, *kept.values()], all_updates(run))

    spent: dict[str, int] = {}
    return cloned(run, "rft", clone, spent)


RFT = Method("rft", "clone what the SFT policy did well, too", rft, "#56b4e9", "8", from_base=True)
