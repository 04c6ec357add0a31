"""ATLaS (Chen et al., Findings of ACL 2025): clone the critical steps alone, three in ten; the others are only read.

The paper has GPT-4o mark them. Here Monte Carlo does: a step is critical where the demonstrator's action is worth more
than what the SFT policy does in its place,

    c_t = r_s(s_t, a_t) - r_s(s_{t-1}, a_{t-1})

since the step reward of the action before is what the policy's own actions from s_t on bring (for t = 1: its outcomes).
Controls: as many steps drawn at random, and the least critical ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import fmean

from ipr_lite.methods.learned_rewards import labelled_episodes
from ipr_lite.methods.method import Method
from ipr_lite.methods.sft import cloned
from ipr_lite.records import Trajectory, read_trajectories, write_trajectories
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run

SHARE = 0.3


def train(name: str, worth: Callable[[Run], list[list[float]]], stages: tuple[str, ...], run: Run) -> list[str]:
    """SFT from the base, for as many updates as SFT takes, on the steps that `worth` puts highest; `stages`: what that cost."""

    def clone():
        demonstrations = run.demonstrations()
        kept = highest(worth(run), SHARE)
        masked = [only(t, steps) for t, steps in zip(demonstrations, kept, strict=True) if steps]
        before = run.spent(["sft", *stages])
        spent.update({what: before[what] for what in ("env_steps", "tokens")})
        return run.clone(masked, run.spent(["sft"])["updates"])

    run.sft()
    spent: dict[str, int] = {}
    return cloned(run, name, clone, spent)


def criticality(run: Run) -> list[list[float]]:
    """c_t of every step of every demonstration."""
    demonstrations, n = run.demonstrations(), run.config.samples
    labelled = {t.key: t.extra["step_rewards"] for t in labelled_episodes(run)[: len(demonstrations)]}

    def play():
        player = run.player(run.sft(), 1.0, "atlas")
        seeds = [
            (t.task, stable_seed(run.config.seed, "atlas", t.key, sample))
            for t in demonstrations
            for sample in range(n)
        ]
        found = player.play([run.start(*both) for both in seeds], run.bar("value of the start"))
        run.count("atlas/start", player)
        return found

    played = run.keep(run.folder / "atlas-starts.jsonl", play, read_trajectories, write_trajectories)
    starts = [fmean(t.reward for t in played[i * n : (i + 1) * n]) for i in range(len(demonstrations))]
    values = [[start, *labelled[t.key]] for start, t in zip(starts, demonstrations, strict=True)]
    return [[after - before for before, after in zip(one, one[1:], strict=False)] for one in values]


def least(run: Run) -> list[list[float]]:
    """The other way round."""
    return [[-c for c in one] for one in criticality(run)]


def at_random(run: Run) -> list[list[float]]:
    """Numbers that mean nothing."""
    rng = random.Random(stable_seed(run.config.seed, "atlas-random"))
    return [[rng.random() for _ in t.actions] for t in run.demonstrations()]


def highest(worth: list[list[float]], share: float) -> list[set[int]]:
    """Of each demonstration, the steps (from 1) among the highest of all; of equal ones, the earlier demonstration's."""
    steps = [(-value, number, step) for number, one in enumerate(worth) for step, value in enumerate(one, start=1)]
    kept: list[set[int]] = [set() for _ in worth]
    for _, number, step in sorted(steps)[: round(share * len(steps))]:
        kept[number].add(step)
    return kept


def only(trajectory: Trajectory, steps: set[int]) -> Trajectory:
    """The trajectory, with weight 0 on the actions of all other steps."""
    messages, number = [], 0
    for message in trajectory.messages:
        number += message["role"] == "assistant"
        masked = message["role"] == "assistant" and number not in steps
        messages.append(message | {"weight": 0} if masked else message)
    return replace(trajectory, messages=messages)


LABELS = ("reward-model/1", "atlas/start")
ATLAS = Method(
    "atlas", "clone the critical steps alone", partial(train, "atlas", criticality, LABELS), "#e7298a", "4",
    from_base=True,
)  # fmt: skip
ATLAS_RANDOM = Method(
    "atlas-random", "as many steps at random", partial(train, "atlas-random", at_random, ()), "#f4a6cd", "+",
    from_base=True,
)  # fmt: skip
ATLAS_LEAST = Method(
    "atlas-least", "the least critical steps", partial(train, "atlas-least", least, LABELS), "#8c1a5a", "x",
    from_base=True,
)  # fmt: skip
