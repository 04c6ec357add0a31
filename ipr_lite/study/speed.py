"""How fast rollouts are: ways to do one job, side by side in one run, against the least time it could take.

The job is what Monte Carlo step rewards cost: N rollouts from after every step of some demonstrations, by the
scorer, at temperature 1. All ways play the same policy. The first two and `unmerged` read it as it is trained, a 4-bit
base and an adapter; the others read one float copy of it, which the tiny scale can afford (`model.merged`).

    sequential          one episode at a time, `generate`, the history encoded anew every turn: the reference code's way
    batched             `generate` on batches of 16, the history encoded anew every turn
    sequential_merged   as `sequential`, on the float copy
    batched_merged      as `batched`, on the float copy
    continuous          transformers' own continuous batching, the history encoded anew every turn
    unmerged            ours, on the policy as it is
    unshared            ours, every rollout a row with a prompt of its own
    undrafted           ours, one token a pass
    ours                ours, making the float copy included
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import psutil
import torch

from ipr_lite.engine.merge import decoder
from ipr_lite.engine.rollouts import Rollouts
from ipr_lite.envs.base import TextEnv
from ipr_lite.ipr import ipr
from ipr_lite.model import set_adapter_weights
from ipr_lite.records import SCHEMA_VERSION, Task, Trajectory, write_atomically
from ipr_lite.rollout import Episode, stable_seed
from ipr_lite.run import Run
from ipr_lite.step_reward import step_of
from ipr_lite.study import generate as plain_rollouts
from ipr_lite.study import roofline as floor
from ipr_lite.study.results import markdown_table

BATCH = 16
"""Of way `batched`: 8 to 16 were fastest of 1 to 128, since a batch waits for its longest message."""

COLUMNS = (
    "part", "way", "run", "threads", "samples", "trajectories", "batch", "history", "rollouts", "tokens", "seconds",
    "floor", "memory",
)  # fmt: skip
"""part: what the row is for (ways, samples, trajectories, batch, history, iteration). way: of part `iteration` its
stages. tokens: written. floor: the least seconds, shared prefixes once except for `unshared`. memory: MiB at the peak
above those before."""


Play = Callable[[list[Episode]], list[Trajectory]]


@dataclass
class Job:
    """Rollouts of one scorer from after the steps of demonstrations."""

    run: Run
    model: object = field(init=False)

    def __post_init__(self):
        self.weights, self.policy = self.run.sft(), self.run.policy
        self.chat, self.scale = self.run.chat, self.run.scale
        self.model = decoder(self.policy, self.weights)
        set_adapter_weights(self.policy, self.weights, "explorer")
        self.policy.set_adapter("explorer")
        self.policy.eval()

    def episodes(self, trajectories: int, samples: int) -> list[Episode]:
        """Fresh episodes: `samples` from after every step of the first `trajectories` demonstrations."""
        demonstrations = self.run.demonstrations()
        if trajectories > len(demonstrations):
            raise ValueError(
                f"the run has {len(demonstrations)} demonstrations, not {trajectories}; give fewer --trajectories"
            )
        states = self.run.states(demonstrations)
        found = []
        for demonstration in demonstrations[:trajectories]:
            for t in range(1, demonstration.steps + 1):
                step = step_of(states[demonstration.key][t - 1], demonstration, t, "demonstrator")
                for sample in range(0 if step.terminal else samples):
                    seed = stable_seed(self.run.config.seed, step.id, t, step.action, sample)
                    found.append(Episode(step.env.clone(), step.task, step.messages, seed))
        return found

    def ours(self, model=None, **changes) -> Play:
        """Rollouts of this package, on a float copy made for them where no model is given."""
        settings = {
            "temperature": 1.0, "max_new_tokens": self.scale.max_new_tokens, "max_length": self.scale.max_length,
            "batch_size": self.scale.rollout_batch, "agent": "scorer",
        }  # fmt: skip

        def play(episodes: list[Episode]) -> list[Trajectory]:
            policy = model or decoder(self.policy, self.weights)
            return Rollouts(policy, self.chat, **(settings | changes)).play(episodes)

        return play

    def plainly(self, write: Callable, model, batch_size: int | None, max_new_tokens: int = 0) -> Play:
        """Rollouts by `generate`; batch_size None: all at once."""
        most = max_new_tokens or self.scale.max_new_tokens

        def play(episodes: list[Episode]) -> list[Trajectory]:
            return plain_rollouts.play(
                episodes, write(model, self.chat, 1.0, most), self.chat, batch_size=batch_size or len(episodes),
                max_new_tokens=most, max_length=self.scale.max_length, agent="scorer",
            )  # fmt: skip

        return play

    def ways(self) -> dict[str, Play]:
        generate, continuously = plain_rollouts.generate, plain_rollouts.generate_continuously
        return {
            "sequential": self.plainly(generate, self.policy, 1),
            "batched": self.plainly(generate, self.policy, BATCH),
            "sequential_merged": self.plainly(generate, self.model, 1),
            "batched_merged": self.plainly(generate, self.model, BATCH),
            "continuous": self.plainly(continuously, self.model, None),
            "unmerged": self.ours(self.policy),
            "unshared": self.ours(share=False),
            "undrafted": self.ours(draft=False),
            "ours": self.ours(),
        }

    def conversation(self, episode: Episode, trajectory: Trajectory) -> floor.Conversation:
        """The tokens of an episode and the places of those that the rollout wrote."""
        start = len(self.chat.prompt(episode.messages))
        encoded = self.chat.encode(trajectory.messages)
        return encoded.input_ids, [i for i, mine in enumerate(encoded.agent_mask) if mine and i >= start]


class Peak:
    """How far the process's memory rises within the context, in MiB: the device's on a GPU, else resident memory."""

    def __enter__(self):
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            # What earlier ways have freed is handed back, or this one would seem to need none.
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        self.before = self.highest = self._now()
        self.over = threading.Event()
        self.watch = threading.Thread(target=self._look, daemon=True)
        self.watch.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.watch.join()
        self.mib = (max(self.highest, self._now()) - self.before) / 2**20

    def _look(self):
        while not self.over.wait(0.02):
            self.highest = max(self.highest, self._now())

    def _now(self) -> int:
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss


def bench(
    run: Run,
    trajectories: int = 40,
    samples: int = 5,
    runs: int = 5,
    ways: tuple[str, ...] | None = None,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[pd.DataFrame], None] = lambda rows: None,
) -> pd.DataFrame:
    """All measurements, as rows with the columns `COLUMNS`; `keep` gets those that are there after every run.

    ways: which to measure beside `ours`. Raises ValueError for an unknown one.
    """
    job = Job(run)
    all_ways = job.ways()
    unknown = set(ways or ()) - set(all_ways)
    if unknown:
        raise ValueError(f"unknown way {', '.join(sorted(unknown))}; choose of {', '.join(all_ways)}")
    chosen = {name: play for name, play in all_ways.items() if name == "ours" or name in (ways or all_ways)}
    smaller = [max(1, trajectories // 4), max(1, trajectories // 2)]
    rows = []

    def measure(part: str, way: str, play: Callable, number: int, trajectories: int, samples: int, **more):
        episodes = job.episodes(trajectories, samples)
        torch.manual_seed(number)
        with Peak() as peak:
            start = time.perf_counter()
            played = play(episodes)
            spent = time.perf_counter() - start
        conversations = [job.conversation(*both) for both in zip(episodes, played, strict=True)]
        least = max(floor.seconds(floor.work(conversations, way != "unshared"), job.model, *rates))
        row = {
            "part": part, "way": way, "run": number, "threads": torch.get_num_threads(), "samples": samples,
            "trajectories": trajectories, "batch": job.scale.rollout_batch, "history": 0, "rollouts": len(played),
            "tokens": sum(t.extra["tokens"] for t in played), "seconds": spent, "floor": least, "memory": peak.mib,
        }  # fmt: skip
        rows.append(row | more)
        say(f"run {number}, {part}, {way}: {len(played)} rollouts in {spent:.2f} s (at least {least:.2f} s)")

    job.ours()(job.episodes(1, 1))
    for number in range(1, runs + 1):
        # Other work on the machine comes and goes, so the rates are measured in every run.
        rates = floor.matrix_rate(job.model), floor.copy_rate(job.model)
        say(f"run {number}: {rates[0] / 1e9:.0f} GFLOP/s, {rates[1] / 1e9:.0f} GB/s")
        for way, play in chosen.items():
            measure("ways", way, play, number, trajectories, samples)
        for n in (1, 5, 20):
            measure("samples", "ours", job.ours(), number, trajectories, n)
        for count in (*smaller, trajectories):
            measure("trajectories", "ours", job.ours(), number, count, samples)
        for batch in (32, 64, 128, 256):
            play = job.ours(batch_size=batch)
            measure("batch", "ours", play, number, trajectories, samples, batch=batch)
        bare = dict.fromkeys(COLUMNS, 0) | {"run": number, "threads": torch.get_num_threads()}
        for way, history, spent in turns(job):
            row = {"part": "history", "way": way, "history": history, "rollouts": TALKS, "tokens": TALKS * WORDS}
            rows.append(bare | row | {"seconds": spent})
            say(f"run {number}, history of {history} tokens, {way}: {1000 * spent:.0f} ms a turn")
        for stage, spent in stages(run):
            rows.append(bare | {"part": "iteration", "way": stage, "seconds": spent, "samples": run.config.samples,
                                "trajectories": len(run.demonstrations())})  # fmt: skip
            say(f"run {number}, {stage}: {spent:.2f} s")
        keep(pd.DataFrame(rows, columns=COLUMNS))
    return pd.DataFrame(rows, columns=COLUMNS)


def stages(run: Run) -> list[tuple[str, float]]:
    """Seconds of each stage of a first iteration: a run like this one in a folder aside, from its SFT policy on."""
    found = []
    with tempfile.TemporaryDirectory() as aside:
        other = Run(replace(run.config, iterations=1), Path(aside), quiet=True)
        shutil.copytree(run.folder / "sft", other.folder / "sft")
        shutil.copy(run.folder / "demonstrations.jsonl", other.folder)
        _ = other.sft(), other.policy
        start = time.perf_counter()
        for _, stage, _ in ipr(other):
            found.append((stage, time.perf_counter() - start))
            start = time.perf_counter()
    return found


TALKS, WORDS, HISTORIES = 8, 16, (400, 800, 1600)
"""How many conversations a turn is measured on, how many tokens are written in it, and after how many tokens."""


class _Talk(TextEnv):
    """A world that answers every message with the same text, `turns` times."""

    name, system_prompt, max_steps = "talk", "", 99

    def __init__(self, answer: str, turns: int):
        super().__init__()
        self.answer, self.turns = answer, turns

    def clone(self) -> _Talk:
        return _Talk(self.answer, self.turns)

    def step(self, action: str):
        self.turns -= 1
        return self.answer, 0.0, self.turns == 0, False, {"invalid": False, "success": False}


def turns(job: Job) -> list[tuple[str, int, float]]:
    """Seconds of one turn (an answer of the world, `WORDS` tokens by the agent) after each of the `HISTORIES`.

    (way, history, seconds): the time of four turns less that of two, over two. Each of `TALKS` conversations has a
    history of its own, made of demonstrations one after the other.
    """
    demonstrations = job.run.demonstrations()
    answer = demonstrations[0].messages[3]["content"]
    ways = {
        "batched_merged": job.plainly(plain_rollouts.generate, job.model, BATCH, WORDS),
        "ours": job.ours(job.model, max_new_tokens=WORDS, draft=False),
    }
    found = []
    for history in HISTORIES:
        for way, play in ways.items():
            spent = []
            for count in (2, 4):
                episodes = [_talk(job, demonstrations, number, history, answer, count) for number in range(TALKS)]
                start = time.perf_counter()
                play(episodes)
                spent.append(time.perf_counter() - start)
            found.append((way, history, (spent[1] - spent[0]) / 2))
    return found


def _talk(job: Job, demonstrations: list[Trajectory], number: int, history: int, answer: str, count: int) -> Episode:
    """Conversation `number`: as many actions of demonstrations as fit into `history` tokens, each with the same answer."""
    actions = itertools.cycle(
        action
        for demonstration in demonstrations[number:] + demonstrations[:number]
        for action in demonstration.actions
    )
    messages = list(demonstrations[number].messages[:2])
    while True:
        longer = [*messages, {"role": "assistant", "content": next(actions)}, {"role": "user", "content": answer}]
        if len(job.chat.prompt(longer)) > history:
            break
        messages = longer
    return Episode(_Talk(answer, count), Task(f"talk-{number}", "talk", "test", "", {}), messages, number)


def write_bench(path: Path, rows: pd.DataFrame, command: str) -> Path:
    """The rows as a CSV whose first lines, after `# `, are the command and the schema."""
    text = f"# {command}\n# schema {SCHEMA_VERSION}\n" + rows.to_csv(index=False, float_format="%.4f")
    return write_atomically(path, text)


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a way: medians over runs of rollouts/s, tokens/s, share of the floor's rate, memory; and of the ratio of
    its time to that of `ours` within the same run."""
    ways = rows[rows["part"] == "ways"].copy()
    ours = ways[ways["way"] == "ours"].set_index("run")["seconds"]
    ways["rollouts_s"] = ways["rollouts"] / ways["seconds"]
    ways["tokens_s"] = ways["tokens"] / ways["seconds"]
    ways["of_floor"] = ways["floor"] / ways["seconds"]
    ways["times_ours"] = ways["seconds"] / ways["run"].map(ours)
    names = ["seconds", "floor", "rollouts_s", "tokens_s", "of_floor", "times_ours", "memory"]
    return ways.groupby("way", sort=False)[names].median()


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """How many times the time of ours every other way takes (medians), and the share of the floor's rate of ours."""
    found = medians(rows)
    ratios = {f"vs_{way}": round(times, 2) for way, times in found["times_ours"].items() if way != "ours"}
    return ratios | {"of_floor": round(found.loc["ours", "of_floor"], 4)}


def stage_table(rows: pd.DataFrame) -> str:
    """Where the time of one iteration goes, as Markdown; medians over runs."""
    spent = rows[rows["part"] == "iteration"].groupby("way", sort=False)["seconds"].median()
    whole = spent.sum()
    lines = [(stage, f"{s:.1f}", f"{s / whole:.0%}") for stage, s in spent.items()]
    return markdown_table(("stage", "seconds", "share"), [*lines, ("all", f"{whole:.1f}", "100%")])


def bench_table(rows: pd.DataFrame) -> str:
    """The medians of all ways as Markdown, readable as plain text."""
    header = ("way", "rollouts/s", "tokens/s", "seconds", "floor, s", "of the floor's rate", "time / ours", "peak MiB")
    lines = [
        (
            m.Index, f"{m.rollouts_s:.1f}", f"{m.tokens_s:,.0f}", f"{m.seconds:.2f}", f"{m.floor:.2f}",
            f"{m.of_floor:.1%}", f"{m.times_ours:.1f}", "-" if pd.isna(m.memory) else f"{m.memory:.0f}",
        )
        for m in medians(rows).itertuples()
    ]  # fmt: skip
    return markdown_table(header, lines)
