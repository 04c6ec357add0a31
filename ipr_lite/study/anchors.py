"""GiGPO's groups, audited: of decisions made after the same observation, how many were made in the same state?

Only a world that can tell its true state can answer. `python -m ipr_lite.study.anchors RUN...` plays groups of episodes
with the SFT policy of each run and writes `data/results/anchors.csv`.
"""

from __future__ import annotations

import shlex
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from ipr_lite import DATA
from ipr_lite.envs.base import TextEnv
from ipr_lite.methods.grpo import GROUP, LAST, among, anchors
from ipr_lite.records import Trajectory
from ipr_lite.rollout import stable_seed, states_along
from ipr_lite.run import Run
from ipr_lite.study.results import keep_rows

FILE = DATA / "results" / "anchors.csv"
COLUMNS = ("env", "seed", "last", "episodes", "decisions", "company", "judged", "mixed")
TASKS = 60


def audit(
    env: TextEnv, played: Sequence[Trajectory], last: int, parts: Collection[str] | None = None
) -> dict[str, float]:
    """Of the decisions of these episodes, by groups with the same `last` observations of the same task:

    company: the share whose group has another member; judged: the share that gets an advantage other than 0; mixed: of
    the decisions in company, the share whose group joins different states. `parts`: of a state, all that is compared.
    """
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for t in played:
        for key, before in zip(anchors(t, last), states_along(env, t), strict=True):
            state = before.state()
            groups[key].append({part: state[part] for part in (state if parts is None else parts)})
    advantages = [advantage for one in among(played, last) for advantage in one]
    company = [group for group in groups.values() if len(group) > 1]
    mixed = [group for group in company if any(state != group[0] for state in group)]
    together = sum(map(len, company))
    return {
        "episodes": len(played),
        "decisions": len(advantages),
        "company": together / len(advantages),
        "judged": sum(advantage != 0 for advantage in advantages) / len(advantages),
        "mixed": sum(map(len, mixed)) / max(together, 1),
    }


def groups_of_episodes(run: Run, tasks: int = TASKS) -> list[Trajectory]:
    """`GROUP` episodes of each of the first training tasks, sampled by the SFT policy at temperature 1."""
    drawn = list({t.id: t.task for t in run.demonstrations()}.values())[:tasks]
    seeds = [(task, stable_seed(run.config.seed, "anchors", task.id, n)) for task in drawn for n in range(GROUP)]
    played = run.player(run.sft(), 1.0, "sft").play([run.start(*both) for both in seeds], run.bar("groups"))
    return [t for t in played if t.steps]


def main(folders: Sequence[str]) -> None:
    """Put the rows of each run into the file."""
    command = shlex.join(["python", "-m", "ipr_lite.study.anchors", *folders])
    for folder in folders:
        run = Run.opened(Path(folder))
        mine, played = {"env": run.config.env, "seed": run.config.seed}, groups_of_episodes(run)
        rows = [mine | {"last": last} | audit(run.env, played, last) for last in range(1, LAST + 1)]
        keep_rows(FILE, rows, COLUMNS, tuple(mine), command, lambda row: int(row["seed"]))


if __name__ == "__main__":
    main(sys.argv[1:])
