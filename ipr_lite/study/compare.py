"""Methods x settings x seeds -> a results file, a row for each, resumable.

A cell is one method of one setting and seed; a cell whose rows the results file holds is not run again. Every setting
and seed is a run of its own (`runs/compare-.../SETTING/seed-N`): the seed draws the demonstrations, the training order
and the exploration. Dev chooses IPR's iterate, and a baseline's round, before test is scored. One run, hence one
model, is in memory at a time; two processes may share a results file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

from ipr_lite.config import Config
from ipr_lite.engine.folder import fill_atomically
from ipr_lite.evaluation import by_part, summarize
from ipr_lite.ipr import NoPairs
from ipr_lite.methods import METHODS
from ipr_lite.methods.learned_rewards import FIT_COLUMNS
from ipr_lite.records import Trajectory, read_json, write_atomically
from ipr_lite.run import Run
from ipr_lite.study.results import add_results, add_task_rewards, keep_rows, read_results

DEFAULT_METHODS = ("base", "sft", "sft-long", "sft-careful", "random-pairs", "ipr", "careful")

# What has no part in a stage; runs that agree in all else share it.
_AFTER_PAIRS = (
    "iterations", "updates", "learning_rate", "reference", "beta", "w_outcome", "w_step", "w_sft", "sft_on", "sft_per",
    "ratio_per", "average", "budget", "showcase",
)  # fmt: skip
_AFTER_SFT = (
    "samples", "step_reward", "scorer", "explore_temperature", "tau_step", "tau_outcome", "both_directions", "action_only",
    "shorter_wins", "step_pairs_from", *_AFTER_PAIRS,
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
    cells = [(c, seed, name) for seed in seeds for c in configs for name in METHODS if name in methods]
    bar = tqdm(cells, desc="compare", disable=quiet, unit="cell")
    new, run = [], None
    for c, seed, method in bar:
        bar.set_postfix_str(f"seed {seed} {c.setting} {method}")
        if cell_done(results, c, seed, method, split):
            continue
        place = folder / _file_name(c.setting) / f"seed-{seed}"
        if run is None or run.folder != place:
            run = Run(replace(c, seed=seed), place, quiet=True)
            beside = [other for other in folder.glob(f"*/seed-{seed}") if (other / "sft").exists() and other != place]
            for other in sorted(beside, key=lambda other: (len(_differs(run, other)), other)):
                _share(run, other)
        start = time.monotonic()
        try:
            with run.locked():
                rows = cell_rows(run, method, split)
            found = ", ".join(f"{row['reward']:.3f}{'*' * row['selected']}" for row in rows if row["split"] == split)
        except NoPairs as error:
            rows, found = [], f"no rows: {error}"
        note = f"{c.env} {method} {c.setting} seed {seed}: {found} ({time.monotonic() - start:.0f} s)"
        with FileLock(str(results) + ".lock"):
            if rows:
                add_results(results, rows, command)
                add_task_rewards(results, rows, command)
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


def cell_rows(run: Run, name: str, split: str) -> list[dict]:
    """The rows of one method on one run: each round's agent; the one that dev chose is marked."""
    method = METHODS[name]
    agents = method.train(run)
    chosen = agents[0]
    if len(agents) > 1:
        chosen = run.select(agents, "selected.json" if name == "ipr" else f"selected-{name}.json", method.play)
    rows = []
    for number, agent in enumerate(agents, start=1):
        played = by_part(method.play(run, agent, split), split)
        number = 0 if agent == name else number
        budget = run.spent(method.spent(number))
        for part, episodes in played.items():
            made = row(run.config, summarize(episodes, name, part), number, agent == chosen, budget)
            made |= {"panel": mark(t.id for t in episodes), "episodes": mark(map(said, episodes))}
            rows.append(made | ({"rewards": [t.reward for t in episodes]} if part == split else {}))
    return rows


def mark(texts: Iterable[str]) -> str:
    """Eight letters that stand for these texts in this order; equal ones for equal texts."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return digest[:8].translate(str.maketrans("0123456789", "ghijklmnop"))


def said(episode: Trajectory) -> str:
    """An episode as one text: its messages and its reward."""
    return json.dumps([episode.messages, episode.reward])


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
        "budget": c.budget,
    }


def scale_name(config: Config) -> str:
    """The scale, with the name of the model where it is not the scale's own: `tiny:two-layer-base`."""
    return config.scale if config.model is None else f"{config.scale}:{Path(config.model).name}"


def _share(run: Run, other: Path) -> None:
    """Take the SFT stage, and the pairs of round 1, from the run of another setting, where they depend on nothing that
    differs."""
    differs = _differs(run, other)
    if (run.folder / "sft").exists() or differs - set(_AFTER_SFT):
        return
    names, stages = ["demonstrations.jsonl", "sft_log.csv"], ["sft"]
    names += [
        f"evaluations/{p.name}" for a in ("base", "sft", "careful") for p in other.glob(f"evaluations/{a}-*.jsonl")
    ]
    if not differs - set(_AFTER_PAIRS):
        made = ("explorations.jsonl", "step_rewards.jsonl", "pairs.jsonl", "pair_counts.json")
        names += [f"iteration-1/{name}" for name in made]
        stages += ["iteration-1/explore", "iteration-1/score"]
    spent = read_json(other / "budget.json", dict, "remove the folder")
    for stage in stages:
        run.spend(stage, **spent.get(stage, {}))
    for name in names:
        if (other / name).exists():
            fill_atomically(run.folder / name, lambda aside: shutil.copy(other / name, aside))
    fill_atomically(run.folder / "sft", lambda aside: shutil.copytree(other / "sft", aside))


def _differs(run: Run, other: Path) -> set[str]:
    """The options that a run in another folder has otherwise."""
    theirs = read_json(other / "config.json", dict, "remove the folder")
    return {name for name, value in asdict(run.config).items() if theirs.get(name, getattr(Config(), name)) != value}


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
    write_atomically(path, told + "".join(line + "\n" for line in lines))
