"""ETO (Song et al., ACL 2024): preference training on whole trajectories, judged by their outcome."""

from __future__ import annotations

from ipr_lite.ipr import NoPairs
from ipr_lite.methods.explored import explored, round_budget, rounds
from ipr_lite.methods.method import Method
from ipr_lite.pairs import PairRule, contrast, pairs_of
from ipr_lite.records import Pair
from ipr_lite.run import Log, Run, Weights


def eto(run: Run, name: str = "eto", w_sft: float = 0.0) -> list[str]:
    """Each round explores the training tasks, and the higher outcome, demonstrator's or agent's, wins.

    No step pairs, no SFT term; the reference is the current iterate, as in its code. Greedy at first, then sampled
    until IPR's actions of the round are taken; with `budget="paper"` greedy alone, as in its paper.
    """

    def learn(number: int, weights: Weights) -> tuple[Weights, Log]:
        played, spent = explored(run, weights, f"{name}-{number}", round_budget(run, number), greedy_first=True)
        for t in played:
            t.extra["start_step"] = 1
        distinct = list({(t.id, *t.actions): t for t in played}.values())
        rule = PairRule.of(run.config)
        whole = [c for c in contrast(run.demonstrations(), distinct, run.env, rule) if c.kind == "outcome"]
        return contrasted(run, name, number, pairs_of(whole, rule), weights, spent, w_sft=w_sft)

    return rounds(run, name, learn)


def eto_sft(run: Run) -> list[str]:
    """ETO with IPR's SFT term: what IPR has beyond it are the steps."""
    return eto(run, "eto-sft", run.config.w_sft)


def contrasted(
    run: Run, name: str, number: int, pairs: list[Pair], start: Weights, spent: dict[str, int], rate: float = 1.0,
    w_sft: float = 0.0,
) -> tuple[Weights, Log]:  # fmt: skip
    """A round of plain DPO on these pairs, without an SFT term by default; `rate` in parts of IPR's learning rate."""
    if not pairs:
        raise NoPairs(f"{name} built no pair in round {number}: demonstrator and agent always end alike")
    rate = run.config.learning_rate or rate * run.scale.learning_rate
    weights, log = run.learn(pairs, start, number, what=name, w_sft=w_sft, reference="current", learning_rate=rate)
    run.spend(f"{name}/{number}", updates=len(log), **spent)
    return weights, log


ETO = Method("eto", "whole trajectories, judged by their outcome", eto, "#5e1848", "s")
ETO_SFT = Method("eto-sft", "ETO with IPR's SFT term", eto_sft, "#8c564b", "h")
