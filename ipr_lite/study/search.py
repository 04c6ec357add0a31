"""Reward against the actions that a search takes: the best of 1, 2, 3, 5, 10 by three judges, and the beam.

`python -m ipr_lite.study.search RUN...` reads what `compare --methods best-of-n best-of-n-oracle armap agentrm` left in
each run's folder, plays nothing, and writes `data/results/search.csv`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import comb
from pathlib import Path
from statistics import fmean

from ipr_lite import DATA
from ipr_lite.methods.armap import wandering_model
from ipr_lite.methods.best_of_n import N, sampled
from ipr_lite.methods.learned_rewards import last_scores, reward_model
from ipr_lite.records import Trajectory, read_trajectories
from ipr_lite.run import Run
from ipr_lite.study.results import keep_rows

FILE = DATA / "results" / "search.csv"
COLUMNS = ("env", "seed", "judge", "n", "tasks", "actions", "reward")
SIZES = (1, 2, 3, 5, N)


def chosen_of_n(scores: Sequence[float], rewards: Sequence[float], n: int) -> float:
    """The reward of the episode that is scored highest among `n`, on average over all choices of n of these episodes.

    Of N episodes the one in rank i (from 0) is the best of a choice that has it and n - 1 of the N - 1 - i below it.
    """
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    ways = [comb(len(scores) - 1 - rank, n - 1) for rank in range(len(scores))]
    return sum(way * rewards[i] for way, i in zip(ways, ranked, strict=True)) / comb(len(scores), n)


def best_of(played: Sequence[Trajectory], scores: Sequence[float], n: int) -> tuple[float, float]:
    """Means over tasks: the actions of `n` episodes, and the reward of the one of n that is scored highest."""
    of_task: dict[str, list[tuple[float, Trajectory]]] = {}
    for t, score in zip(played, scores, strict=True):
        of_task.setdefault(t.id, []).append((score, t))
    each = [([score for score, _ in both], [t for _, t in both]) for both in of_task.values()]
    actions = n * fmean(fmean(t.steps for t in episodes) for _, episodes in each)
    return actions, fmean(chosen_of_n(scores, [t.reward for t in episodes], n) for scores, episodes in each)


def judges_of(run: Run) -> dict[str, Callable[[Sequence[Trajectory]], list[float]]]:
    """Who can choose in a run: the true reward, and the models that it has."""
    found = {"oracle": lambda played: [t.reward for t in played]}
    if (run.folder / "reward-model").exists():
        found["monte carlo"] = partial(last_scores, run, reward_model(run))
    if (run.folder / "armap-model").exists():
        found["hindsight"] = partial(last_scores, run, wandering_model(run))
    return found


def curve(run: Run, split: str = "test") -> list[dict]:
    """The rows of a run."""
    played, tasks = sampled(run, split), len(run.tasks(split))
    rows = []
    for judge, score in judges_of(run).items():
        scores = score(played)
        for n in SIZES:
            actions, reward = best_of(played, scores, n)
            rows.append({"judge": judge, "n": n, "actions": actions, "reward": reward})
    for agent in ("agentrm", "orps"):
        path = run.folder / "evaluations" / f"{agent}-{split}.jsonl"
        if path.exists():
            actions = run.spent([agent])["env_steps"] - run.spent(["reward-model"])["env_steps"]
            reward = fmean(t.reward for t in read_trajectories(path))
            rows.append({"judge": agent, "n": 1, "actions": actions / tasks, "reward": reward})
    return [row | {"env": run.config.env, "seed": run.config.seed, "tasks": tasks} for row in rows]


def main(folders: Sequence[str]) -> None:
    """Put the rows of each run into the file."""
    command = shlex.join(["python", "-m", "ipr_lite.study.search", *folders])
    for folder in folders:
        rows = curve(Run.opened(Path(folder)))
        keep_rows(
            FILE, rows, COLUMNS, ("env", "seed", "judge", "n"), command,
            lambda row: (row["env"], int(row["seed"]), row["judge"], int(row["n"])),
        )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
