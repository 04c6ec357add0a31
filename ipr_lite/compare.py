"""Methods x seeds -> a results file, one row for each, resumable.

Every seed is a run of its own (`runs/compare-.../seed-N`): the seed draws the demonstrations, the
training order and the exploration. The dev split chooses IPR's iterate, and a baseline's round, before test
is scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ipr_lite.baselines import METHODS
from ipr_lite.config import Config
from ipr_lite.evaluation import by_part, summarize
from ipr_lite.ipr import Run, Weights
from ipr_lite.jsonl import write_whole
from ipr_lite.trajectory import read_trajectories


def compare(config: Config, seeds: list[int], folder: Path, quiet: bool = False) -> list[dict]:
    """All rows of all seeds. A seed whose rows.json is there is not run again."""
    rows = []
    for seed in seeds:
        path = folder / f"seed-{seed}" / "rows.json"
        if not path.exists():
            one = Run(replace(config, seed=seed), path.parent, quiet)
            write_whole(path, json.dumps(seed_rows(one), indent=1) + "\n")
        rows += json.loads(path.read_text(encoding="utf-8"))
    return rows


def seed_rows(run: Run) -> list[dict]:
    """The test rows of one seed: IPR's run first, then the baselines on its data."""
    config = run.config
    run.metrics()
    chosen = run.select()
    iterations = range(1, config.iterations + 1)
    stages = {"base": [], "sft": ["sft"], "expert": []}
    stages |= {f"ipr-{i}": ["sft", *(f"iteration-{j}" for j in range(1, i + 1))] for i in iterations}
    rows = []
    for agent, spent in stages.items():
        iteration = int(agent[4:]) if agent.startswith("ipr-") else 0
        method = "ipr" if iteration else agent
        selected = not iteration or agent == chosen
        rows += rows_of(run, run.evaluate(agent, "test"), method, iteration, selected, spent)
    for method, train in METHODS.items():
        rows += baseline_rows(run, method, train)
    return rows


def baseline_rows(run: Run, method: str, train: Callable[[Run], list[Weights]]) -> list[dict]:
    """The test rows of a baseline after every round (0: it has one); the round that dev chose is marked.

    `selected-METHOD.json` keeps the choice; written when all is played, it says that the baseline is done.
    """
    path = run.folder / f"selected-{method}.json"
    if not path.exists():
        rounds = train(run)
        agents = {f"{method}-{n}" if len(rounds) > 1 else method: w for n, w in enumerate(rounds, start=1)}
        dev = {}
        if len(rounds) > 1:
            dev = {a: summarize(run.evaluate(a, "dev", w), a, "dev")["reward"] for a, w in agents.items()}
        for agent, weights in agents.items():
            run.evaluate(agent, "test", weights)
        choice = {"agent": max(dev, key=dev.get) if dev else method, "agents": list(agents), "dev": dev}
        write_whole(path, json.dumps(choice, indent=1) + "\n")
    choice = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for number, agent in enumerate(choice["agents"], start=1):
        spent = [f"{method}/{earlier}" for earlier in range(1, number + 1)]
        episodes = read_trajectories(run.folder / "evaluations" / f"{agent}-test.jsonl")
        iteration = number if len(choice["agents"]) > 1 else 0
        rows += rows_of(run, episodes, method, iteration, agent == choice["agent"], spent)
    return rows


def rows_of(run: Run, played: list, method: str, iteration: int, selected: bool, stages: list[str]) -> list[dict]:
    """Lines of the results file (columns of `evaluation.RESULTS`): the test split, and its parts."""
    budget = run.spent(stages)
    parts = by_part(played, "test")
    return [row(run.config, summarize(part, method, split), iteration, selected, budget) for split, part in parts.items()]


def row(c: Config, summary: dict, iteration: int, selected: bool, budget: dict[str, int]) -> dict:
    """One line of the results file."""
    return {
        "env": c.env,
        "method": summary["agent"],
        "setting": "default",
        "seed": c.seed,
        "iteration": iteration,
        "selected": int(selected),
        "split": summary["split"],
        "precision": c.precision,
        "scale": c.scale,
        "n": summary["n"],
        "reward": summary["reward"],
        "success": summary["success"],
        "steps": summary["steps"],
        "env_steps": budget["env_steps"],
        "updates": budget["updates"],
        "tokens": budget["tokens"],
    }
