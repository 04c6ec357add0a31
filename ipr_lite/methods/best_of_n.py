"""Best-of-N: the SFT policy plays every test task N times, and one of the episodes counts. No training.

best-of-n-oracle   the one with the highest outcome: what a perfect judge could make of the SFT policy
best-of-n          the one whose last action the learned step reward model likes best (`reward_model.py`)
"""

from __future__ import annotations

from collections.abc import Callable

from ipr_lite import envs
from ipr_lite.ipr import Run
from ipr_lite.methods.reward_model import reward_model, trajectory_scores
from ipr_lite.rollout import stable_seed
from ipr_lite.trajectory import Trajectory, read_trajectories, write_trajectories


def best_of_n_oracle(run: Run, split: str) -> list[Trajectory]:
    """The tasks of a split, each the best of `best_of` sampled episodes by the true reward."""
    return _best(run, split, "best-of-n-oracle", lambda played: [t.reward for t in played])


def best_of_n(run: Run, split: str) -> list[Trajectory]:
    """The same, chosen by the learned step reward model: nobody tells it the outcome."""
    reward_model(run)
    return _best(run, split, "best-of-n", lambda played: trajectory_scores(run, played), ["reward-model"])


METHODS = {"best-of-n": best_of_n, "best-of-n-oracle": best_of_n_oracle}


def _best(run: Run, split: str, method: str, scores: Callable, stages: list[str] | None = None) -> list[Trajectory]:
    tasks = envs.tasks(run.config.env, split, run.config.data)[: getattr(run.config, split)]
    played = _sampled(run, tasks, split)
    before = run.spent(stages or [])
    run.spend(
        f"{method}/1",
        env_steps=sum(t.steps for t in played) + before["env_steps"],
        tokens=sum(t.extra["tokens"] for t in played) + before["tokens"],
    )
    best: dict[str, tuple[float, Trajectory]] = {}
    for trajectory, score in zip(played, scores(played)):
        if trajectory.id not in best or score > best[trajectory.id][0]:
            best[trajectory.id] = score, trajectory
    return [best[task.id][1] for task in tasks]


def _sampled(run: Run, tasks: list, split: str) -> list[Trajectory]:
    """`best_of` episodes of every task at temperature 1, kept for whoever chooses next."""
    path = run.folder / "evaluations" / f"sft-sampled-{run.config.best_of}-{split}.jsonl"
    if not path.exists():
        player = run.player(run.sft(), 1.0, "sft")
        episodes = [
            run.start(task, stable_seed(run.config.seed, "best-of-n", task.id, sample))
            for task in tasks
            for sample in range(run.config.best_of)
        ]
        write_trajectories(path, player.play(episodes, run.bar("sample")))
    return read_trajectories(path)
