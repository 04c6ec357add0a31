"""report.html: one self-contained page that tells what a run did, from the files of its folder.

It works for a run that failed, that built no pairs or that is half done: whatever is there is
shown, whatever is missing is named.
"""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from ipr_lite.evaluation import compare_agents, read_metrics
from ipr_lite.jsonl import DataError, write_whole
from ipr_lite.records import Pair, StepReward, read_pairs, read_step_rewards
from ipr_lite.study import plots
from ipr_lite.study.results import METRICS_HEADER, metrics_cells, show, show_interval, show_signed
from ipr_lite.study.viewer import page, pair_html, table_html, trajectory_html
from ipr_lite.trajectory import Trajectory, read_trajectories

T = TypeVar("T")

_STAGES = (
    ("explorations.jsonl", "explore"),
    ("step_rewards.jsonl", "score"),
    ("pairs.jsonl", "pair"),
    ("train_log.csv", "train"),
)
_OPTIONS = ("env", "data", "scale", "model", "precision", "seed", "out")


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
        self.expert_rewards: list[StepReward] = self.read("expert_step_rewards.jsonl", read_step_rewards) or []
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
    sections = [
        ("What happened", _summary(run)),
        ("Agents", _agents(run)),
        ("Training", _curves(run)),
        ("Pairs of each round", _counts(run)),
        ("One demonstration and its step rewards", _trajectory(run)),
        ("Three pairs", _pairs(run)),
        ("Stages", _stages(run)),
        ("Do it again", _again(run)),
    ]
    body = "\n".join(f"<section><h2>{title}</h2>{inside}</section>" for title, inside in sections if inside)
    return write_whole(folder / "report.html", page(f"IPR Lite: {folder.resolve().name}", _notes(run) + body))


def _notes(run: _Run) -> str:
    notes = []
    if run.failed:
        why = run.read("error.txt", _read_text) or "error.txt is empty"
        notes.append(
            f"<strong>This run failed.</strong><pre>{escape(why.strip())}</pre>"
            "What to do: follow the remedy in the message, if it names one, and give the same command again "
            "(below). Whole stages are kept: the run goes on after the last one."
        )
    for number in run.iterations:
        if run.read(f"iteration-{number}/pairs.jsonl", read_pairs) == []:
            notes.append(
                f"<strong>Round {number} built no pairs.</strong> Agent and expert did the same, or no difference passed "
                "both thresholds. Explore with a higher temperature, lower the thresholds, take more demonstrations or "
                "train the SFT agent for fewer epochs."
            )
    for name in ("warnings.txt", *(f"iteration-{number}/warnings.txt" for number in run.iterations)):
        text = run.read(name, _read_text)
        if text and text.strip():
            notes.append(f"<strong>Warnings ({escape(name)})</strong><pre>{escape(text.strip())}</pre>")
    notes += [escape(trouble) for trouble in run.troubles]
    return "".join(f'<div class="note">{note}</div>' for note in notes)


def _summary(run: _Run) -> str:
    env = escape(str(run.config.get("env", "text")))
    told = [
        f"An agent was to learn the {env} world from {len(run.demonstrations)} demonstrations and {_rounds(run)} of IPR."
    ]
    split = _headline_split(run)
    reward = {row["agent"]: row for row in run.metrics if row["split"] == split}
    chosen = "ipr" if "ipr" in reward else run.selected.get("agent")
    if "sft" in reward and chosen in reward:
        called = "IPR" + (f" ({run.selected['agent']}, chosen on dev)" if "agent" in run.selected else "")
        told.append(
            f"On the {int(reward['sft']['n'])} tasks of {escape(split)} its mean reward went from "
            f"<strong>{show(reward['sft']['reward'])}</strong> (SFT) to <strong>{show(reward[chosen]['reward'])}</strong> ({escape(called)})."
        )
        told.append(_difference(run, chosen, split))
        if "expert" in reward:
            told.append(f"The expert gets {show(reward['expert']['reward'])}.")
    elif "sft" in reward:
        told.append(f"The SFT agent's mean reward on {escape(split)} is <strong>{show(reward['sft']['reward'])}</strong>; no IPR agent was scored there.")  # fmt: skip
    else:
        told.append("No agent has been scored on test tasks yet." if not run.failed else "It stopped before an agent was scored on test tasks.")  # fmt: skip
    return f"<p>{' '.join(filter(None, told))}</p>"


def _difference(run: _Run, chosen: str, split: str) -> str:
    names = [name for name in dict.fromkeys((chosen, run.selected.get("agent"))) if name]
    after = next((f for f in (run.read(f"evaluations/{n}-{split}.jsonl", read_trajectories) for n in names) if f), None)
    before = run.read(f"evaluations/sft-{split}.jsonl", read_trajectories)
    if not after or not before or not {t.id for t in after} & {t.id for t in before}:
        return ""
    mean, low, high, n = compare_agents(after, before)
    verdict = "The interval holds zero: this run alone shows no sure gain."
    if low > 0:
        verdict = "The interval lies above zero: luck with the tasks alone seldom gives such a gain."
    elif high < 0:
        verdict = "The interval lies below zero: IPR made the agent worse."
    elif math.isnan(low):
        verdict = ""
    return (
        f"Task by task the difference is <strong>{show_signed(mean)}</strong> (95 % interval {show_interval(low, high)}, "
        f"n = {n} tasks, one seed). {verdict} Only several seeds tell whether another run would gain as much."
    )


def _rounds(run: _Run) -> str:
    done = sum(run.has(f"iteration-{number}/train_log.csv") for number in run.iterations)
    planned = run.config.get("iterations", done)
    rounds = "1 round" if planned == 1 else f"{planned} rounds"
    return escape(rounds if planned == done else f"{rounds} ({done} done)")


def _headline_split(run: _Run) -> str:
    splits = sorted({str(row["split"]) for row in run.metrics} - {"train", "dev"})
    return "test" if "test" in splits or not splits else splits[0]


def _agents(run: _Run) -> str:
    if not run.metrics:
        return ""
    table = table_html(METRICS_HEADER, [metrics_cells(row) for row in run.metrics])
    split = _headline_split(run)
    if not any(row["split"] == split for row in run.metrics):
        return table
    return table + figure_html(
        plots.reward_by_agent(run.metrics, split), f"Mean outcome reward on {split}; the dashed line is the expert."
    )


def _curves(run: _Run) -> str:
    names = [("sft_log.csv", "SFT"), *((f"iteration-{n}/train_log.csv", f"Round {n}") for n in run.iterations)]
    figures = []
    for name, title in names:
        figure = run.read(
            name, lambda path: plots.learning_curves(pd.read_csv(path, comment="#", encoding="utf-8"), title)
        )
        if figure is not None:
            figures.append(figure_html(figure, f"{title}, from {name}."))
    return "".join(figures)


def _counts(run: _Run) -> str:
    counted = [(n, run.read(f"iteration-{n}/pair_counts.json", _read_json)) for n in run.iterations]
    rows = [
        (n, kind, counts) for n, found in counted if found for kind, counts in found.items() if isinstance(counts, dict)
    ]
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for _, _, counts in rows for name in counts))
    names = {"win": "agent wins", "tie": "tie (dropped)", "lose": "expert wins", "same_action": "same action"}
    header = ["round", "kind", *(names.get(column, column) for column in columns)]
    return table_html(header, [[n, kind, *(counts.get(c, "") for c in columns)] for n, kind, counts in rows])


def _trajectory(run: _Run) -> str:
    """The demonstration on which agent and expert differ most in step reward (round 1)."""
    first = f"iteration-{run.iterations[0]}/step_rewards.jsonl" if run.iterations else ""
    scored = [*run.expert_rewards, *((run.read(first, read_step_rewards) or []) if first else [])]
    by_task: dict[str, list[StepReward]] = {}
    for item in scored:
        by_task.setdefault(item.id, []).append(item)
    shown = [t for t in run.demonstrations if t.id in by_task]
    if not shown:
        return ""
    best = max(shown, key=lambda t: (_spread(by_task[t.id]), t.id))
    strip = plots.step_reward_strip(by_task[best.id])
    return (
        '<p class="soft">Of all demonstrations, the one where two actions differ most in step reward.</p>'
        + figure_html(strip, "Each dot is the outcome of one rollout of the scorer after the action.")
        + trajectory_html(best, by_task[best.id])
    )


def _spread(items: Sequence[StepReward]) -> float:
    rewards = [item.reward_mc for item in items]
    return max(rewards) - min(rewards)


def _pairs(run: _Run) -> str:
    """The widest outcome pair, and the widest and the narrowest step pair, of the first round with pairs."""
    found = next((p for p in (run.read(f"iteration-{n}/pairs.jsonl", read_pairs) for n in run.iterations) if p), [])
    outcome = sorted((p for p in found if p.kind == "outcome"), key=_gap)
    step = sorted((p for p in found if p.kind == "step"), key=_gap)
    chosen = outcome[-1:] + step[-1:] + step[:1] if len(step) > 1 else outcome[-2:] + step
    if len(chosen) < 3:
        chosen += [pair for pair in found if not any(pair is c for c in chosen)][: 3 - len(chosen)]
    if not chosen:
        return ""
    note = "The pairs with the widest gap"
    if len(step) > 1:
        note += ", and the narrowest step pair: there Monte Carlo noise may have chosen the winner"
    return f'<p class="soft">{note}.</p>' + "".join(pair_html(pair) for pair in chosen)


def _gap(pair: Pair) -> tuple[float, str, int]:
    better, worse = pair.chosen_reward, pair.rejected_reward
    if pair.kind == "outcome" or better is None or worse is None:
        better, worse = pair.chosen_outcome or 0.0, pair.rejected_outcome or 0.0
    return better - worse, pair.id, pair.step


def _stages(run: _Run) -> str:
    planned = run.config.get("iterations")
    last = max([planned if isinstance(planned, int) else 0, *run.iterations])
    names = [
        ("demonstrations.jsonl", "demonstrations"),
        ("sft_log.csv", "SFT"),
        ("expert_step_rewards.jsonl", "score the expert"),
    ]
    names += [(f"iteration-{n}/{name}", f"round {n}: {what}") for n in range(1, last + 1) for name, what in _STAGES]
    names += [("selected.json", "choose on dev"), ("metrics.csv", "evaluate")]
    return table_html(
        ("stage", "file", "state"), [(what, name, "done" if run.has(name) else "missing") for name, what in names]
    )


def _again(run: _Run) -> str:
    command = run.config.get("command") or _command(run.config)
    found = f"<pre>{escape(str(command))}</pre>"
    for title, values in (("configuration", run.config), ("versions, seed, commit, checksums", run.manifest)):
        if values:
            text = json.dumps(values, indent=2, ensure_ascii=False)
            found += f"<details><summary>{title}</summary><div><pre>{escape(text)}</pre></div></details>"
    return found


def _command(config: dict[str, Any]) -> str:
    words = ["python", "-m", "ipr_lite", "run"]
    for name in _OPTIONS:
        if config.get(name) is not None:
            words += [f"--{name}", str(config[name])]
    return shlex.join([*words, *(["--quick"] if config.get("quick") else [])])


def figure_html(figure: Figure, caption: str) -> str:
    """A figure inside a page, with its caption."""
    data = base64.b64encode(plots.png_bytes(figure)).decode("ascii")
    alt = escape(" ".join(figure.get_suptitle().split()))
    scrolls = ' class="wide"' if figure.get_figwidth() > 6 else ""
    return f'<figure{scrolls}><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _read_json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise DataError("holds no JSON object; write the file anew")
    return found
