"""A finished run's agents in other data: trained in the generated world, tried in the original's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ipr_lite import envs
from ipr_lite.evaluation import by_part, summarize, write_metrics
from ipr_lite.methods import METHODS
from ipr_lite.methods.method import greedy
from ipr_lite.run import Run
from ipr_lite.study.compare import row


def transfer(
    folder: Path, data: str | None, split: str, limit: int, env: str | None = None, names: Sequence[str] = ()
) -> list[dict]:
    """Rows of metrics: base, SFT, the iterate chosen on dev and the careful person, greedy, on tasks of `data`.

    folder: a finished run. env: the world, where it is not the run's (a run in all worlds, tried in one; a world in other
    words). names: other agents of the run, which need not be finished then. Writes `transfer-SPLIT.csv` into the run's
    folder. Raises FileNotFoundError where there is no such run, or agent, and ValueError for an agent that does not play
    alone (a search, a planner): its adapter is no policy.
    """
    for agent in names:
        method = METHODS.get(agent) or METHODS.get(re.sub(r"-\d+$", "", agent))
        if method and method.play is not greedy:
            raise ValueError(
                f"{agent}: this method does not play by its adapter alone ({method.about}), and `transfer` plays "
                "policies; choose base, sft, ipr-1, eto-1, ..."
            )
    run = Run.opened(folder) if names else finished(folder)
    agents = {name: name for name in names} or {"base": "base", "sft": "sft", "ipr": run.select(), "careful": "careful"}
    name = env or run.config.env
    run.env = envs.make(name, data)
    tasks = envs.tasks(name, split, data)[:limit]
    rows = [
        summarize(part, shown, name)
        for shown, agent in agents.items()
        for name, part in by_part(run.play_agent(agent, tasks), split).items()
    ]
    write_metrics(run.folder / f"transfer-{split}.csv", rows)
    return rows


def results_rows(folder: Path, metrics: list[dict], data: str | None, env: str | None = None) -> list[dict]:
    """What `transfer` found, as rows of the results file: setting `original` (`data` is given) or `transfer`."""
    run = Run.opened(folder)
    chosen = int(run.select().split("-")[1]) if any(found["agent"] == "ipr" for found in metrics) else 0
    spent = {name: method.spent(1) for name, method in METHODS.items() if method.from_base}
    spent["ipr"] = ["sft", *(f"iteration-{i}" for i in range(1, chosen + 1))]
    config = replace(run.config, env=env or run.config.env)
    setting = {"setting": "original" if data else "transfer"}
    rows = []
    for found in metrics:
        agent = found["agent"]
        budget = run.spent(spent.get(agent, []))
        rows.append(row(config, found, chosen if agent == "ipr" else 0, True, budget) | setting)
    return rows


def finished(folder: Path) -> Run:
    """The run in a folder. Raises FileNotFoundError where it is not finished."""
    folder = Path(folder)
    if not (folder / "selected.json").is_file():
        raise FileNotFoundError(
            f"{folder / 'selected.json'}: no finished run there; `python -m ipr_lite run --out {folder}`"
        )
    return Run.opened(folder)
