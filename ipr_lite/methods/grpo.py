"""GRPO, GiGPO and HGPO: no preferences, no value model; an episode is judged against others of the same task.

    GRPO    (Shao et al., 2024, 2402.03300)  A_t = how far the outcome lies above its group's, the same for every decision
    GiGPO   (Feng et al., 2025, 2505.10978)  A_t = that + how far the discounted return of decision t lies above those of
            the other decisions that were made after the same observation
    HGPO    (He et al., 2026, 2602.22817)    A_t = a weighted mean over groups with the same last 1, 2, ... observations

"How far" is in standard deviations of the group. Nothing is asked of a demonstrator or a scorer. Left out: the
Kullback-Leibler term, and the penalty for invalid actions. Otherwise: the loss is a mean over the batch's tokens, not first
over each episode's; where HGPO's group is the decision alone its level says 0.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from operator import mul
from statistics import fmean, stdev

import torch
from torch import Tensor

from ipr_lite.methods.method import Method
from ipr_lite.methods.policy_gradient import Experience, experience, rounds
from ipr_lite.records import Trajectory
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run, Weights

GROUP = 8
"""Episodes of one task that are judged against each other."""
PHASES = 10
"""Of a round: each collects groups with the policy as it is, and trains on them."""
RATE = 0.4
"""In parts of IPR's learning rate, as the search on dev found (`data/results/papers_search.csv`)."""
DISCOUNT, STEP_WEIGHT = 0.95, 1.0
"""GiGPO's own: of a return, for every action between the decision and the outcome; of the part that is the step's."""
LAST = 3
"""HGPO's groups: the same last 1, ..., 3 observations."""


def grpo(played: Sequence[Trajectory]) -> list[list[float]]:
    """The advantage of every decision of every episode."""
    found = relative([t.reward for t in played], [t.id for t in played])
    return [[advantage] * t.steps for t, advantage in zip(played, found, strict=True)]


def gigpo(played: Sequence[Trajectory]) -> list[list[float]]:
    """GRPO's advantages, and those of each decision among decisions after the same observation."""
    return blend((1.0, grpo(played)), (STEP_WEIGHT, among(played, 1)))


def hgpo(played: Sequence[Trajectory]) -> list[list[float]]:
    """The mean of the advantages in groups by the last 1, 2, ... observations, weighted 1, 2, ...: the finer, the more."""
    levels = range(1, LAST + 1)
    return blend(*((last / sum(levels), among(played, last)) for last in levels))


def blend(*parts: tuple[float, list[list[float]]]) -> list[list[float]]:
    """The weighted sum of several advantages of the same decisions."""
    weights, advantages = zip(*parts, strict=True)
    of_episodes = zip(*advantages, strict=True)
    return [[sum(map(mul, weights, of_step)) for of_step in zip(*one, strict=True)] for one in of_episodes]


def among(played: Sequence[Trajectory], last: int) -> list[list[float]]:
    """Each decision's advantage among those that were made after the same `last` observations of the same task."""
    returns = [t.reward * DISCOUNT ** (t.steps - step) for t in played for step in range(1, t.steps + 1)]
    found = iter(relative(returns, [key for t in played for key in anchors(t, last)]))
    return [[next(found) for _ in t.actions] for t in played]


def anchors(trajectory: Trajectory, last: int) -> list[tuple[str, ...]]:
    """What the decisions of a group have in common: the task, and the last observations before each."""
    seen = [m["content"] for m in trajectory.messages if m["role"] == "user"][: trajectory.steps]
    return [(trajectory.id, *seen[max(step + 1 - last, 0) : step + 1]) for step in range(trajectory.steps)]


def relative(values: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """How far each value lies above the mean of its group, in its group's standard deviations; 0 where all are equal."""
    members = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    level = {group: fmean(found) for group, found in members.items()}
    spread = {group: stdev(found) if len(found) > 1 else 0.0 for group, found in members.items()}
    return [(v - level[g]) / spread[g] if spread[g] > 1e-9 else 0.0 for v, g in zip(values, groups, strict=True)]


def train(method: str, advantages: Callable, run: Run) -> list[str]:
    """The policy after every round."""

    def known(episodes: list[Experience], states: list[Tensor]) -> list[Tensor]:
        return [torch.tensor(one.returns) for one in episodes]

    return rounds(run, method, partial(collect, run, advantages), known, PHASES, RATE)


def collect(
    run: Run, advantages: Callable, weights: Weights, agent: str, env_steps: int, spent: dict[str, int]
) -> list[Experience]:
    """Groups of sampled episodes on training tasks, drawn anew, for about `env_steps` actions; one group at least."""
    demonstrations, rng = run.demonstrations(), random.Random(stable_seed(run.config.seed, agent))
    tasks = list({t.id: t.task for t in demonstrations}.values())
    player, played, each = run.player(weights, 1.0, agent), [], fmean(t.steps for t in demonstrations)
    wanted = max(1, int(env_steps / each / GROUP))
    while wanted:
        drawn = rng.sample(tasks, min(wanted, len(tasks)))
        played += player.play([run.start(task, rng.getrandbits(63)) for task in drawn for _ in range(GROUP)])
        each = player.actions_taken / len(played)
        wanted = max(0, round((env_steps - player.actions_taken) / each / GROUP))
    spent["env_steps"] += player.actions_taken
    spent["tokens"] += player.tokens_written
    played = [t for t in played if t.steps]
    return [experience(run.chat, t, found) for t, found in zip(played, advantages(played), strict=True)]


GRPO = Method("grpo", "outcomes against those of the group", partial(train, "grpo", grpo), "#bcbd22", "1")
GIGPO = Method("gigpo", "and after the same observation", partial(train, "gigpo", gigpo), "#7f7f2a", "2")
HGPO = Method("hgpo", "after the same last observations", partial(train, "hgpo", hgpo), "#4d4d00", "3")
