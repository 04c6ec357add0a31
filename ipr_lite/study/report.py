"""report.html: one self-contained page that tells what a run did, from the files of its folder.

It works for a run that failed, that built no pairs or that is half done: whatever is there is
shown, whatever is missing is named.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from ipr_lite.config import Config
from ipr_lite.engine.safe_text import command_line
from ipr_lite.evaluation import compare_agents, read_metrics
from ipr_lite.records import (
    DataError,
    Pair,
    StepReward,
    Trajectory,
    read_pairs,
    read_step_rewards,
    read_trajectories,
    write_atomically,
)
from ipr_lite.study import plots
from ipr_lite.study.results import METRICS_HEADER, metrics_cells
from ipr_lite.study.showcase import SHOWCASE
from ipr_lite.study.viewer import PARTS, TEMPLATES, pair_html, trajectory_html

T = TypeVar("T")

OLD = "expert_step_rewards.jsonl"
"""What `SHOWCASE` was called in older runs."""

_STAGES = (
    ("explorations.jsonl", "explore"),
    ("step_rewards.jsonl", "score"),
    ("pairs.jsonl", "pair"),
    ("train_log.csv", "train"),
)
_COUNTED = {"win": "agent wins", "tie": "tie (dropped)", "lose": "demonstrator wins", "same_action": "same action"}


class _Run:
    """The files of a run folder, read once; `troubles` collects what could not be read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.troubles: list[str] = []
        self.config: dict[str, Any] = self.read("config.json", _read_json) or {}
        self.manifest: dict[str, Any] = self.read("manifest.json", _read_json) or {}
        self.selected: dict[str, Any] = self.read("selected.json", _read_json) or {}
        self.metrics: list[dict] = self.read("metrics.csv", read_metrics) or []
        self.demonstrations: list[Trajectory] = self.read("demonstrations.jsonl", read_trajectories) or []
        self.demonstration_rewards: list[StepReward] = (
            self.read(SHOWCASE, read_step_rewards) or self.read(OLD, read_step_rewards) or []
        )
        found = [path.name.removeprefix("iteration-") for path in folder.glob("iteration-*")]
        self.iterations = sorted(int(number) for number in found if number.isdigit())

    def read(self, name: str, reader: Callable[[Path], T]) -> T | None:
        """What `reader` makes of a file; None where it is absent or cannot be read."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return reader(path)
        except (ValueError, OSError) as error:
            self.troubles.append(f"{name} could not be read: {str(error).replace(str(path), name)}")
            return None

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def of_rounds(self, name: str, reader: Callable[[Path], T]) -> dict[int, T]:
        """What `reader` makes of the file `name` of every round that has it."""
        read = {n: self.read(f"iteration-{n}/{name}", reader) for n in self.iterations}
        return {n: found for n, found in read.items() if found is not None}

    @property
    def failed(self) -> bool:
        return self.has("error.txt")


def report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run folder and return its path. Reads only files of that folder.

    Raises FileNotFoundError when the folder does not exist.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder; give the folder that a run wrote")
    run = _Run(folder)
    pairs = run.of_rounds("pairs.jsonl", read_pairs)
    facts = {
        "title": f"IPR Lite: {folder.resolve().name}",
        "run": run,
        "empty": [number for number, found in pairs.items() if not found],
        "warnings": [(name, text.strip()) for name, text in _warnings(run) if text.strip()],
        "why": (run.read("error.txt", _read_text) or "error.txt is empty").strip(),
        "rounds": _rounds(run),
        **_agents(run),
        "curves": _curves(run),
        **_counts(run),
        **_demonstration(run),
        **_pairs(next(filter(None, pairs.values()), [])),
        "stages": _stages(run),
        "command": _command(run),
    }
    return write_atomically(folder / "report.html", TEMPLATES.get_template("report.html").render(facts))


def _warnings(run: _Run) -> Iterable[tuple[str, str]]:
    for name in ("warnings.txt", *(f"iteration-{number}/warnings.txt" for number in run.iterations)):
        yield name, run.read(name, _read_text) or ""


def _rounds(run: _Run) -> str:
    done = sum(run.has(f"iteration-{number}/train_log.csv") for number in run.iterations)
    planned = run.config.get("iterations", done)
    rounds = "1 round" if planned == 1 else f"{planned} rounds"
    return rounds if planned == done else f"{rounds} ({done} done)"


def _agents(run: _Run) -> dict[str, Any]:
    """The rows of SFT, IPR and the careful person on the test split, the gain, and all agents as a table and a figure."""
    splits = sorted({str(row["split"]) for row in run.metrics} - {"train", "dev"})
    split = "test" if "test" in splits or not splits else splits[0]
    row_of = {row["agent"]: row for row in run.metrics if row["split"] == split}
    chosen = "ipr" if "ipr" in row_of else run.selected.get("agent")
    bars = None
    if row_of:
        caption = f"Mean outcome reward on {split}; the dashed line is the careful person."
        bars = figure_html(plots.reward_by_agent(run.metrics, split), caption)
    return {
        "split": split,
        "sft": row_of.get("sft"),
        "ipr": row_of.get(chosen),
        "careful": row_of.get("careful"),
        "gain": _gain(run, chosen, split),
        "agents_header": METRICS_HEADER,
        "agents": [metrics_cells(row) for row in run.metrics],
        "bars": bars,
    }


def _gain(run: _Run, chosen: str | None, split: str) -> tuple[float, float, float, int] | None:
    """Mean, interval and n of the difference to SFT, task by task; None without episodes of both."""
    names = [name for name in dict.fromkeys((chosen, run.selected.get("agent"))) if name]
    after = next((f for f in (run.read(f"evaluations/{n}-{split}.jsonl", read_trajectories) for n in names) if f), [])
    before = run.read(f"evaluations/sft-{split}.jsonl", read_trajectories) or []
    return compare_agents(after, before) if {t.id for t in after} & {t.id for t in before} else None


def _curves(run: _Run) -> list[Markup]:
    figures = []
    names = [("sft_log.csv", "SFT"), *((f"iteration-{n}/train_log.csv", f"Round {n}") for n in run.iterations)]
    for name, title in names:
        figure = run.read(
            name, lambda path: plots.learning_curves(pd.read_csv(path, comment="#", encoding="utf-8"), title)
        )
        if figure is not None:
            figures.append(figure_html(figure, f"{title}, from {name}."))
    return figures


def _counts(run: _Run) -> dict[str, Any]:
    counted = run.of_rounds("pair_counts.json", _read_json)
    rows = [(n, kind, c) for n, found in counted.items() for kind, c in found.items() if isinstance(c, dict)]
    columns = list(dict.fromkeys(name for _, _, counts in rows for name in counts))
    return {
        "counts_header": ["round", "kind", *(_COUNTED.get(column, column) for column in columns)],
        "counts": [[n, kind, *(counts.get(column, "") for column in columns)] for n, kind, counts in rows],
    }


def _demonstration(run: _Run) -> dict[str, Any]:
    """The demonstration on which agent and demonstrator differ most in step reward (round 1)."""
    first = f"iteration-{run.iterations[0]}/step_rewards.jsonl" if run.iterations else ""
    by_task: dict[str, list[StepReward]] = {}
    for item in [*run.demonstration_rewards, *((run.read(first, read_step_rewards) or []) if first else [])]:
        by_task.setdefault(item.id, []).append(item)
    shown = [t for t in run.demonstrations if t.id in by_task]
    if not shown:
        return {"demonstration": None}
    best = max(shown, key=lambda t: (_spread(by_task[t.id]), t.id))
    caption = "Each dot is the outcome of one rollout of the scorer after the action."
    strip = figure_html(plots.step_reward_strip(by_task[best.id]), caption)
    return {"demonstration": trajectory_html(best, by_task[best.id]), "strip": strip}


def _spread(items: Sequence[StepReward]) -> float:
    rewards = [item.reward_mc for item in items]
    return max(rewards) - min(rewards)


def _pairs(found: list[Pair]) -> dict[str, Any]:
    """The widest outcome pair, and the widest and the narrowest step pair, of the first round with pairs."""
    outcome = sorted((p for p in found if p.kind == "outcome"), key=_gap)
    step = sorted((p for p in found if p.kind == "step"), key=_gap)
    chosen = outcome[-1:] + step[-1:] + step[:1] if len(step) > 1 else outcome[-2:] + step
    if len(chosen) < 3:
        chosen += [pair for pair in found if not any(pair is c for c in chosen)][: 3 - len(chosen)]
    return {"pairs": [pair_html(pair) for pair in chosen], "narrow": len(step) > 1}


def _gap(pair: Pair) -> tuple[float, str, int]:
    better, worse = pair.chosen_reward, pair.rejected_reward
    if pair.kind == "outcome" or better is None or worse is None:
        better, worse = pair.chosen_outcome or 0.0, pair.rejected_outcome or 0.0
    return better - worse, pair.id, pair.step


def _stages(run: _Run) -> list[tuple[str, str, str]]:
    planned = run.config.get("iterations")
    last = max([planned if isinstance(planned, int) else 0, *run.iterations])
    names = [("demonstrations.jsonl", "demonstrations"), ("sft_log.csv", "SFT"), (SHOWCASE, "score demonstrations")]
    names += [(f"iteration-{n}/{name}", f"round {n}: {what}") for n in range(1, last + 1) for name, what in _STAGES]
    names += [("selected.json", "choose on dev"), ("metrics.csv", "evaluate")]
    return [(what, name, "done" if run.has(name) else "missing") for name, what in names]


def _command(run: _Run) -> str:
    """The command that does the run again: every option that differs from its default."""
    words = ["run"]
    for option in fields(Config):
        value, flag = run.config.get(option.name, option.default), option.name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}" if value else f"--no-{flag}"] if value != option.default else []
        elif value != option.default:
            words += [f"--{flag}", str(value)]
    return command_line([*words, "--out", str(run.folder)])


def figure_html(figure: Figure, caption: str) -> Markup:
    """A figure inside a page, with its caption."""
    png = Markup(base64.b64encode(plots.png_bytes(figure)).decode("ascii"))
    return PARTS.figure(png, " ".join(figure.get_suptitle().split()), caption, figure.get_figwidth() > 6)


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _read_json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise DataError("holds no JSON object; write the file anew")
    return found
