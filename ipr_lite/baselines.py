"""What IPR is compared with, on the same run: its data, its scorer, its budget.

    sft-long      SFT on the same demonstrations, for as many updates as SFT and IPR together
    sft-careful   SFT on as many demonstrations of careful people: is it the habit that costs?
    random-pairs  IPR's own pairs with the preference drawn at random: is it the preference that
                  helps, or only more training on the same texts?

A baseline gives its policy after every round it trains; of several, dev chooses one, as it does for IPR.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ipr_lite.ipr import Run, Weights, draw_demonstrations
from ipr_lite.records import Pair
from ipr_lite.rollout import stable_seed


def sft_long(run: Run) -> list[Weights]:
    """SFT for the number of updates that SFT and all iterations of IPR take together."""
    sft_updates = len((run.folder / "sft_log.csv").read_text(encoding="utf-8").splitlines()) - 1
    total = sft_updates + run.config.iterations * run.config.updates
    run.spend("sft-long/1", updates=total)
    return [run.clone(run.demonstrations(), updates=total)[0]]


def sft_careful(run: Run) -> list[Weights]:
    """SFT on as many demonstrations as the run has, by people without habits, of the same tasks."""
    careful = draw_demonstrations(run.config, run.env, "careful")
    weights, log = run.clone(careful[: len(run.demonstrations())])
    run.spend("sft-careful/1", updates=len(log))
    return [weights]


def random_pairs(run: Run) -> list[Weights]:
    """IPR's training on IPR's pairs of each iteration, every preference decided by a coin."""
    rounds = [run.sft()]
    for iteration in range(1, run.config.iterations + 1):
        rng = random.Random(stable_seed(run.config.seed, iteration, "random-pairs"))
        pairs = [flipped(p) if rng.random() < 0.5 else p for p in run.pairs(iteration)]
        weights, log = run.learn(pairs, rounds[-1], iteration, what="random pairs")
        run.spend(f"random-pairs/{iteration}", updates=len(log))
        rounds.append(weights)
    return rounds[1:]


def flipped(pair: Pair) -> Pair:
    """The same pair with the preference the other way round."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_reward=pair.rejected_reward,
        rejected_reward=pair.chosen_reward,
        chosen_outcome=pair.rejected_outcome,
        rejected_outcome=pair.chosen_outcome,
    )


METHODS = {"sft-long": sft_long, "sft-careful": sft_careful, "random-pairs": random_pairs}
