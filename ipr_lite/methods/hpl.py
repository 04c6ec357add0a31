"""HPL (Hierarchical Preference Learning, ICLR 2026), the direct heir of IPR: pairs of three sizes, easy ones first.

Where agent and demonstrator part at step t, a pair is made of

    whole trajectories     where they part at once (t = 1), judged by the outcome
    groups of actions      the next third of what is left, judged by Monte Carlo after the group's last action
    single actions         judged by Monte Carlo after the action

all of them also by the outcome, as IPR's. Curriculum: a round has three phases; groups whose two sides differ most come
first, the closest in the last. The paper also cuts groups by meaning, which asks a large model; and by entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ipr_lite.ipr import NoPairs
from ipr_lite.methods.explored import rounds
from ipr_lite.methods.method import Method
from ipr_lite.pairs import Contrast, PairRule, contrast, explore
from ipr_lite.records import Message, Pair, Trajectory
from ipr_lite.rollout import stable_seed, states_along
from ipr_lite.run import Log, Run, Weights
from ipr_lite.step_reward import ScoredStep, monte_carlo, step_of

PHASES = 3
PARTS = 3
"""A group is the next 1 / PARTS of the actions that are left."""


def hpl(run: Run) -> list[str]:
    """The policy after every round. It explores and scores as IPR does: the budget is its own."""
    rule = PairRule.of(run.config)

    def learn(number: int, weights: Weights) -> tuple[Weights, Log]:
        demonstrations = run.demonstrations()
        player = run.player(weights, run.config.explore_temperature, f"hpl-{number}")
        seed, scorer = stable_seed(run.config.seed, number), run.player(run.sft(), 1.0, "scorer")
        explored = explore(demonstrations, run.states(demonstrations), player, seed, run.bar("explore"))
        parted = [c for c in contrast(demonstrations, explored, run.env, rule) if c.open]
        whole = [c.pair() for c in parted if c.kind == "outcome"]
        # Where no side has more than three actions left, a group would be the single action once more.
        longer = [c for c in parted if max(c.agent.steps, c.demonstration.steps) - c.step >= PARTS]
        steps, groups = judged(run, parted, one, scorer, rule), judged(run, longer, third, scorer, rule)
        pairs, log = [*whole, *steps], []
        if not pairs:
            raise NoPairs(f"hpl built no pair in round {number}: demonstrator and agent always end alike")
        updates = [run.config.updates // PHASES + (p < run.config.updates % PHASES) for p in range(PHASES)]
        for phase, (count, more) in enumerate(zip(updates, curriculum(groups), strict=True)):
            pairs = [*pairs, *more]
            weights, rows = run.learn(pairs, weights, PHASES * number + phase, what="hpl", updates=count)
            log += [row | {"step": row["step"] + len(log)} for row in rows]
        spent = {"env_steps": player.actions_taken + scorer.actions_taken}
        spent["tokens"] = player.tokens_written + scorer.tokens_written
        run.spend(f"hpl/{number}", updates=len(log), **spent)
        return weights, log

    return rounds(run, "hpl", learn)


def one(left: int) -> int:
    """The size of a single action."""
    return 1


def third(left: int) -> int:
    """The size of a group where so many actions are left."""
    return math.ceil(left / PARTS)


def judged(run: Run, parted: list[Contrast], size: Callable, scorer, rule: PairRule) -> list[Pair]:
    """Of every step where the two part: what each did next, `size` actions of it; kept where Monte Carlo after the last of
    them and the outcome say the same."""
    contrasts = [c for c in parted if c.kind == "step"]
    ends = [end_of(run, c, side, size) for c in contrasts for side in (c.demonstration, c.agent)]
    rewards = iter(monte_carlo(ends, scorer, run.config.samples, run.config.seed, run.bar("score")))
    pairs = []
    for c, end, other in zip(contrasts, ends[::2], ends[1::2], strict=True):
        c = replace(c, demonstrated=next(rewards), acted=next(rewards))
        c.judge(rule.tau_step)
        if c.open:
            pair, lengths = c.pair(), [end.step - c.step + 1, other.step - c.step + 1]
            chosen, rejected = reversed(lengths) if c.verdict == "win" else lengths
            pairs.append(replace(pair, chosen=first(pair.chosen, chosen), rejected=first(pair.rejected, rejected)))
    return pairs


def end_of(run: Run, c: Contrast, side: Trajectory, size: Callable[[int], int]) -> ScoredStep:
    """The last action of what a side did next."""
    last = c.step + size(side.steps - c.step + 1) - 1
    who = "demonstrator" if side is c.demonstration else "agent"
    return step_of(states_along(run.env, side)[last - 1], side, last, who)


def first(messages: list[Message], actions: int) -> list[Message]:
    """So many actions, with the observations between them."""
    return messages[: 2 * actions - 1]


def curriculum(groups: list[Pair]) -> list[list[Pair]]:
    """What each phase adds: the pairs whose step rewards differ most first."""
    ordered = sorted(groups, key=lambda pair: pair.rejected_reward - pair.chosen_reward)
    return [ordered[len(ordered) * p // PHASES : len(ordered) * (p + 1) // PHASES] for p in range(PHASES)]


HPL = Method("hpl", "pairs of three sizes, easy ones first", hpl, "#1f9e89", "$h$")
