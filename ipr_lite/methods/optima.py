"""Optima (Chen et al., Findings of ACL 2025): no demonstrator after cloning; what ends well *and soon* is preferred.

    R = outcome - LENGTH * actions / most actions

1. Of every training task the policy samples an episode, and from a state on its way, drawn at random, `TRIES` more.
2. Those that begin with the same action are one branch; its value is their mean R.
3. Best and worst branch are a pair, if the best is worth more than `BEST` and `GAP` more than the worst: the best episode
   of the one over the worst of the other. The half with the wider gaps is kept.
4. A round of DPO with IPR's SFT term.

The paper's agents are two that talk; its length counts tokens; it also wants language that the base finds likely; and its
tree grows by eight searches a task, from states of high value.
"""

from __future__ import annotations

import random
from statistics import fmean

from ipr_lite.methods.eto import contrasted
from ipr_lite.methods.explored import cost, in_turns, rounds, said_from
from ipr_lite.methods.method import Method
from ipr_lite.records import Pair, Task, Trajectory
from ipr_lite.rollout import Episode, Player, stable_seed, states_along
from ipr_lite.run import Log, Run, Weights

LENGTH = 0.4
BEST, GAP = 0.25, 0.1
TRIES = 6


def optima(run: Run) -> list[str]:
    """The policy after every round."""

    def learn(number: int, weights: Weights) -> tuple[Weights, Log]:
        agent = f"optima-{number}"

        def play(tasks: list[Task], turn: int) -> tuple[list, dict[str, int]]:
            player = run.player(weights, 1.0, agent)
            starts = [run.start(task, stable_seed(run.config.seed, agent, turn, task.id)) for task in tasks]
            firsts = [t for t in player.play(starts, run.bar(agent)) if t.steps]
            families = branched(run, firsts, player, agent)
            return families, cost(player)

        families, spent = in_turns(run, number, play)
        pairs = wider_half([pair for step, family in families if (pair := best_and_worst(run, step, family))])
        return contrasted(run, "optima", number, pairs, weights, spent, w_sft=run.config.w_sft)

    return rounds(run, "optima", learn)


def branched(run: Run, firsts: list[Trajectory], player: Player, agent: str) -> list[tuple[int, list[Trajectory]]]:
    """Of every episode a step, drawn at random, and `TRIES` episodes that go on from before it."""
    steps = [random.Random(stable_seed(agent, t.id, t.seed)).randint(1, t.steps) for t in firsts]
    episodes = []
    for t, step in zip(firsts, steps, strict=True):
        before = states_along(run.env, t)[step - 1]
        seeds = [stable_seed(run.config.seed, agent, t.id, t.seed, n) for n in range(TRIES)]
        episodes += [Episode(before.clone(), t.task, t.prefix(step), seed) for seed in seeds]
    played = player.play(episodes, run.bar(agent))
    return [(step, played[i * TRIES : (i + 1) * TRIES]) for i, step in enumerate(steps)]


def worth(trajectory: Trajectory, most: int) -> float:
    """R: the outcome, less what its length costs."""
    return trajectory.reward - LENGTH * trajectory.steps / most


def best_and_worst(run: Run, step: int, family: list[Trajectory]) -> Pair | None:
    """The pair that a state's branches make; None where they are too few or too close."""
    branches: dict[str | None, list[Trajectory]] = {}
    for t in family:
        if t.steps >= step:  # it had room to act
            branches.setdefault(run.env.parse(t.actions[step - 1]), []).append(t)
    values = {action: fmean(worth(t, run.env.max_steps) for t in some) for action, some in branches.items()}
    if len(values) < 2:
        return None
    best, worst = max(values, key=values.get), min(values, key=values.get)
    if values[best] <= BEST or values[best] - values[worst] <= GAP:
        return None
    chosen = max(branches[best], key=lambda t: worth(t, run.env.max_steps))
    rejected = min(branches[worst], key=lambda t: worth(t, run.env.max_steps))
    sides = (said_from(t, step) for t in (chosen, rejected))
    return Pair(
        chosen.prefix(step), *sides, "outcome" if step == 1 else "step", chosen.id, step,
        values[best], values[worst], chosen.reward, rejected.reward,
    )  # fmt: skip


def wider_half(pairs: list[Pair]) -> list[Pair]:
    """The half of the pairs, rounded up, whose branches differ most."""
    return sorted(pairs, key=lambda pair: pair.rejected_reward - pair.chosen_reward)[: (len(pairs) + 1) // 2]


OPTIMA = Method("optima", "what ends well and soon, no demonstrator", optima, "#666633", "$o$")
