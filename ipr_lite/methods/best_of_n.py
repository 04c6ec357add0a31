"""Best-of-N: the SFT policy plays every test task N times, and one of the episodes counts. No training.

best-of-n-oracle   the one with the highest outcome: what a perfect judge could make of the SFT policy
best-of-n          the one whose last action the learned step reward model likes best (`reward_model.py`)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ipr_lite.methods.learned_rewards import last_scores, reward_model
from ipr_lite.methods.method import Method, kept, prepared
from ipr_lite.records import Trajectory
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run

N = 10


def by_the_model(run: Run, agent: str, split: str) -> list[Trajectory]:
    """Chosen by the learned step reward model: nobody tells it the outcome."""
    return best(run, split, agent, partial(last_scores, run, reward_model(run)), ("reward-model",))


def by_the_oracle(run: Run, agent: str, split: str) -> list[Trajectory]:
    """Chosen by the true reward."""
    return best(run, split, agent, lambda played: [t.reward for t in played])


def best(run: Run, split: str, method: str, scores: Callable, stages: tuple[str, ...] = ()) -> list[Trajectory]:
    """The tasks of a split, each the best of `N` sampled episodes."""
    played = sampled(run, split)
    before = run.spent(stages)
    run.spend(
        f"{method}/1",
        env_steps=sum(t.steps for t in played) + before["env_steps"],
        tokens=sum(t.extra["tokens"] for t in played) + before["tokens"],
    )
    best: dict[str, tuple[float, Trajectory]] = {}
    for trajectory, score in zip(played, scores(played), strict=True):
        if trajectory.id not in best or score > best[trajectory.id][0]:
            best[trajectory.id] = score, trajectory
    return [best[task.id][1] for task in run.tasks(split)]


def sampled(run: Run, split: str) -> list[Trajectory]:
    """`N` episodes of every task at temperature 1, kept for whoever chooses next."""

    def play():
        seeds = [(t, stable_seed(run.config.seed, "best-of-n", t.id, n)) for t in run.tasks(split) for n in range(N)]
        return run.player(run.sft(), 1.0, "sft").play([run.start(*both) for both in seeds], run.bar("sample"))

    return kept(run, f"sft-sampled-{N}", split, play)


BEST_OF_N = Method(
    "best-of-n", f"the best of {N} by the reward model", prepared("best-of-n"), "#88ccee", "d", by_the_model
)
BEST_OF_N_ORACLE = Method(
    "best-of-n-oracle",
    f"the best of {N} by the true reward",
    prepared("best-of-n-oracle"),
    "#332288",
    "H",
    by_the_oracle,
)
