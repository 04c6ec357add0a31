"""Methods x settings x seeds -> a results file, a row for each, resumable.

A cell is one method of one setting and seed; a cell whose rows the results file holds is not run again. Every setting
and seed is a run of its own (`runs/compare-.../SETTING/seed-N`): the seed draws the demonstrations, the training order
and the exploration. Dev chooses IPR's iterate, and a baseline's round, before test is scored. One run, hence one
model, is in memory at a time; two processes may share a results file.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

from ipr_lite.config import Config
from ipr_lite.engine.folder import whole
from ipr_lite.evaluation import by_part, summarize
from ipr_lite.ipr import NoPairs, Run
from ipr_lite.jsonl import write_whole
from ipr_lite.methods import baselines, best_of_n, ppo
from ipr_lite.methods.reward_model import FIT_COLUMNS
from ipr_lite.study.results import METHODS, add_results, keep_rows, read_results
from ipr_lite.trajectory import Trajectory, read_trajectories

TRAINED = baselines.METHODS | ppo.METHODS
CHOSEN = best_of_n.METHODS
FROM_BASE = ("sft-long", "sft-careful", "rft")
DEFAULT_METHODS = ("base", "sft", "sft-long", "sft-careful", "random-pairs", "ipr", "expert")

# What the SFT policy depends on, and the pairs of round 1; settings that agree here share them.
_OF_SFT = ("demonstrations", "keep", "habits", "sft_epochs", "sft_learning_rate", "batch_size")
_OF_PAIRS = (
    "samples", "step_reward", "scorer", "explore_temperature", "tau_step", "tau_outcome", "both_directions", "action_only",
    "shorter_wins", "step_pairs_from",
)  # fmt: skip


def compare(
    config: Config, methods: list[str], settings: list[str], seeds: list[int], folder: Path, results: Path,
    command: str, split: str = "test", quiet: bool = False,
) -> list[dict]:  # fmt: skip
    """Run every cell that `results` lacks and put its rows there, with a line in the log beside it.

    `split`: what is scored; "dev" searches settings without a look at test. Returns the new rows. Raises
    ValueError for an unknown method or setting before anything is run.
    """
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {', '.join(unknown)}; choose of {', '.join(METHODS)}")
    configs = [config.with_setting(setting) for setting in settings]
    cells = [(c, seed, method) for seed in seeds for c in configs for method in sorted(methods, key=METHODS.index)]
    bar = tqdm(cells, desc="compare", disable=quiet, unit="cell")
    new, run = [], None
    for c, seed, method in bar:
        bar.set_postfix_str(f"seed {seed} {c.setting} {method}")
        if cell_done(results, c, seed, method, split):
            continue
        place = folder / _file_name(c.setting) / f"seed-{seed}"
        if run is None or run.folder != place:
            run = Run(replace(c, seed=seed), place, quiet=True)
            _share(run, folder / "default" / f"seed-{seed}")
        start = time.monotonic()
        try:
            rows = cell_rows(run, method, split)
            found = ", ".join(f"{row['reward']:.3f}{'*' * row['selected']}" for row in rows if row["split"] == split)
        except NoPairs as error:
            rows, found = [], f"no rows: {error}"
        note = f"{c.env} {method} {c.setting} seed {seed}: {found} ({time.monotonic() - start:.0f} s)"
        with FileLock(str(results) + ".lock"):
            if rows:
                add_results(results, rows, command)
            _log(results.with_suffix(".log"), command, [note, *_warnings(run, method)])
            _keep_fit(run, results.with_name(f"{c.env}_reward_model.csv"), command)
        new += rows
    return new


def cell_done(results: Path, config: Config, seed: int, method: str, split: str) -> bool:
    """Whether the results file has the rows of a cell."""
    if not results.exists():
        return False
    mine = {"env": config.env, "method": method, "setting": config.setting, "seed": seed, "split": split,
            "precision": config.precision, "scale": scale_name(config)}  # fmt: skip
    table = read_results(results)
    for column, value in mine.items():
        table = table[table[column] == value]
    return len(table) > 0


def cell_rows(run: Run, method: str, split: str) -> list[dict]:
    """The rows of one method on one run."""
    if method == "ipr":
        return ipr_rows(run, split)
    if method in TRAINED:
        return baseline_rows(run, method, split)
    if method in CHOSEN:
        return rows_of(run, CHOSEN[method](run, split), method, 0, True, ["sft", method], split)
    stages = ["sft"] if method == "sft" else []
    return rows_of(run, run.evaluate(method, split), method, 0, True, stages, split)


def ipr_rows(run: Run, split: str) -> list[dict]:
    """IPR after every iteration; the one that dev chose is marked."""
    chosen = run.select()
    rows = []
    for number in range(1, run.config.iterations + 1):
        spent = ["sft", *(f"iteration-{earlier}" for earlier in range(1, number + 1))]
        agent = f"ipr-{number}"
        rows += rows_of(run, run.evaluate(agent, split), "ipr", number, agent == chosen, spent, split)
    return rows


def baseline_rows(run: Run, method: str, split: str) -> list[dict]:
    """The rows of a baseline after every round (0: it trains from the base, at once); the round that dev chose is marked.

    `selected-METHOD.json` keeps the choice; written when all is played, it says that the baseline is done.
    """
    path = run.folder / f"selected-{method}{'' if split == 'test' else '-' + split}.json"
    if not path.exists():
        rounds = TRAINED[method](run)
        agents = {f"{method}-{n}" if len(rounds) > 1 else method: w for n, w in enumerate(rounds, start=1)}
        dev = {a: summarize(run.evaluate(a, "dev", w), a, "dev")["reward"] for a, w in agents.items()}
        for agent, weights in agents.items():
            run.evaluate(agent, split, weights)
        choice = {"agent": max(dev, key=dev.get), "agents": list(agents), "dev": dev}
        write_whole(path, json.dumps(choice, indent=1) + "\n")
    choice = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    from_base = method in FROM_BASE
    for number, agent in enumerate(choice["agents"], start=1):
        spent = [*([] if from_base else ["sft"]), *(f"{method}/{earlier}" for earlier in range(1, number + 1))]
        episodes = read_trajectories(run.folder / "evaluations" / f"{agent}-{split}.jsonl")
        rows += rows_of(run, episodes, method, 0 if from_base else number, agent == choice["agent"], spent, split)
    return rows


def rows_of(
    run: Run, played: list[Trajectory], method: str, iteration: int, selected: bool, stages: list[str], split: str
) -> list[dict]:
    """Lines of the results file (columns of `evaluation.RESULTS`): the split, and its parts."""
    budget = run.spent(stages)
    parts = by_part(played, split)
    return [row(run.config, summarize(part, method, name), iteration, selected, budget) for name, part in parts.items()]


def row(c: Config, summary: dict, iteration: int, selected: bool, budget: dict[str, int]) -> dict:
    """One line of the results file."""
    return {
        "env": c.env,
        "method": summary["agent"],
        "setting": c.setting,
        "seed": c.seed,
        "iteration": iteration,
        "selected": int(selected),
        "split": summary["split"],
        "precision": c.precision,
        "scale": scale_name(c),
        "n": summary["n"],
        "reward": summary["reward"],
        "success": summary["success"],
        "steps": summary["steps"],
        "env_steps": budget["env_steps"],
        "updates": budget["updates"],
        "tokens": budget["tokens"],
    }


def scale_name(config: Config) -> str:
    """The scale, with the name of the model where it is not the scale's own: `tiny:two-layer-base`."""
    return config.scale if config.model is None else f"{config.scale}:{Path(config.model).name}"


def _share(run: Run, other: Path) -> None:
    """Take the SFT stage, and the pairs of round 1, from the run of the default setting, where they are there and
    depend on nothing that differs."""
    if run.folder == other or (run.folder / "sft").exists() or not (other / "sft").exists():
        return
    theirs = json.loads((other / "config.json").read_text(encoding="utf-8"))
    if any(theirs[name] != getattr(run.config, name) for name in _OF_SFT):
        return
    names, stages = ["demonstrations.jsonl", "sft_log.csv", "expert_step_rewards.jsonl"], ["sft"]
    names += [
        f"evaluations/{p.name}" for a in ("base", "sft", "expert") for p in other.glob(f"evaluations/{a}-*.jsonl")
    ]
    if all(theirs[name] == getattr(run.config, name) for name in _OF_PAIRS):
        names += [
            f"iteration-1/{name}"
            for name in ("explorations.jsonl", "step_rewards.jsonl", "pairs.jsonl", "pair_counts.json")
        ]
        stages += ["iteration-1/explore", "iteration-1/score"]
    spent = json.loads((other / "budget.json").read_text(encoding="utf-8"))
    for stage in stages:
        run.spend(stage, **spent.get(stage, {}))
    whole(run.folder / "sft", lambda aside: shutil.copytree(other / "sft", aside))
    for name in names:
        if (other / name).exists():
            whole(run.folder / name, lambda aside: shutil.copy(other / name, aside))


def _file_name(setting: str) -> str:
    """A setting as the name of a folder: `w_step=0.0 beta=0.2` is `w_step=0.0,beta=0.2`."""
    return setting.replace(" ", ",").replace("/", "_")


def _warnings(run: Run, method: str) -> Iterator[str]:
    """What IPR's rounds were warned of."""
    for path in sorted(run.folder.glob("iteration-*/warnings.txt")) if method == "ipr" else []:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield f"  {path.parent.name}: {line}"


def _keep_fit(run: Run, path: Path, command: str) -> None:
    """Put how well the run's reward model fits, where it has one, beside the results."""
    facts = run.folder / "reward_model.json"
    if not facts.exists():
        return
    keys = {"scale": scale_name(run.config), "setting": run.config.setting, "seed": run.config.seed}
    row = keys | json.loads(facts.read_text(encoding="utf-8"))
    keep_rows(
        path, [row], FIT_COLUMNS, tuple(keys), command, lambda row: (row["scale"], row["setting"], int(row["seed"]))
    )


def _log(path: Path, command: str, lines: list[str]) -> None:
    told = path.read_text(encoding="utf-8") if path.exists() else ""
    if f"# {command}\n" not in told:
        lines = [f"# {command}", *lines]
    write_whole(path, told + "".join(line + "\n" for line in lines))
