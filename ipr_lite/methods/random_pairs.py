"""Random preferences: IPR's training on IPR's pairs, each preference drawn at random.

Is it the preference that helps, or only more training on the same texts?
"""

from __future__ import annotations

import random
from dataclasses import replace

from ipr_lite.ipr import round_of
from ipr_lite.methods.explored import rounds
from ipr_lite.methods.judge import judge_of
from ipr_lite.methods.method import Method
from ipr_lite.records import Pair
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Log, Run, Weights


def random_pairs(run: Run) -> list[str]:
    """The pairs of each of IPR's rounds, half of them turned round."""

    def learn(number: int, weights: Weights) -> tuple[Weights, Log]:
        rng = random.Random(stable_seed(run.config.seed, number, "random-pairs"))
        pairs = [flipped(p) if rng.random() < 0.5 else p for p in round_of(run, number, "pairs", judge_of(run))]
        weights, log = run.learn(pairs, weights, number, what="random pairs")
        explored = run.spent([f"iteration-{number}/explore", f"iteration-{number}/score"])
        run.spend(f"random-pairs/{number}", **explored | {"updates": len(log)})
        return weights, log

    return rounds(run, "random-pairs", learn)


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


RANDOM_PAIRS = Method("random-pairs", "IPR's pairs, preferences at random", random_pairs, "#cc79a7", "P")
