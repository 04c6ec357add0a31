"""Naive step-DPO: single actions, judged by the final outcome; the failure that ETO's paper reports."""

from __future__ import annotations

from dataclasses import replace

from ipr_lite.methods.eto import contrasted
from ipr_lite.methods.explored import cost, rounds
from ipr_lite.methods.method import Method
from ipr_lite.pairs import PairRule, contrast, explore, judge, pairs_of, steps_to_score
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Log, Run, Weights

RATE = 0.4
"""In parts of IPR's learning rate, as the search on dev found (`data/results/first_base/shop_search.csv`)."""


def naive_step_dpo(run: Run) -> list[str]:
    """It explores as IPR does; no Monte Carlo, no outcome pairs, no SFT term, the current iterate as reference."""
    demonstrations, states = run.demonstrations(), run.states(run.demonstrations())
    rule = replace(PairRule.of(run.config), action_only=True, tau_step=run.config.tau_outcome, step_pairs_from=1)

    def learn(number: int, weights: Weights) -> tuple[Weights, Log]:
        player = run.player(weights, run.config.explore_temperature, f"naive-{number}")
        seed = stable_seed(run.config.seed, number, "naive-step-dpo")
        explorations = explore(demonstrations, states, player, seed, run.bar("explore"))
        contrasts = [c for c in contrast(demonstrations, explorations, run.env, rule) if c.kind == "step"]
        outcomes = [step.rewarded(step.outcome) for step in steps_to_score(contrasts, states)]
        pairs = pairs_of(judge(contrasts, outcomes, rule), rule)
        return contrasted(run, "naive-step-dpo", number, pairs, weights, cost(player), RATE)

    return rounds(run, "naive-step-dpo", learn)


NAIVE_STEP_DPO = Method("naive-step-dpo", "single actions, judged by the outcome", naive_step_dpo, "#a6761d", "p")
