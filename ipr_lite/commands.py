"""What each command does. A command is a function: its docstring and the notes at its parameters are its help.

Of `config` the command line makes an option for every field of `Config`; `folder`, `command` (the line that was typed) and
`quick` are handed in (`__main__.py`). What takes long to import is imported within.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from ipr_lite.config import Config, Count
from ipr_lite.engine.safe_text import visible

Words = tuple[str, ...]
Data = Annotated[str | None, "a folder with the original benchmark's data; default: the generated world"]
Runs = Annotated[tuple[Path, ...], "the run's folder; several, for several seeds"]
World = Annotated[str, "the world"]


def run(config: Config, folder: Path):
    """The whole of IPR, resumable (the default)."""
    from ipr_lite.study.job import run

    print(f"report: {run(config, folder)}")


def sft(config: Config, folder: Path):
    """Stage 1: clone the demonstrations."""
    from ipr_lite.run import Run

    one = Run(config, folder)
    with one.locked():
        one.sft()
    print(f"done: {folder}")


def stage(name: str, text: str, before: str, needs: str) -> Callable:
    """The command of one stage of a round; `needs`: the file in the run's folder that the stage `before` leaves."""

    def one(config: Config, folder: Path, iteration: Annotated[Count, "the round, from 1"] = 1):
        from ipr_lite.ipr import round_of
        from ipr_lite.methods.judge import judge_of
        from ipr_lite.run import Run

        path = folder / needs.format(iteration)
        if iteration > config.iterations:
            raise ValueError(f"--iteration {iteration}: the run has iterations 1 to {config.iterations}")
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; run the stage `{before}` first")
        run = Run(config, folder)
        with run.locked():
            round_of(run, iteration, name, judge_of(run))
        print(f"done: {folder}")

    one.__doc__ = text
    return one


def evaluate(config: Config, folder: Path):
    """Dev and test, the iterate chosen on dev."""
    from ipr_lite.run import Run

    one = Run(config, folder)
    with one.locked():
        one.metrics()
    print(f"done: {folder}")


def plan(
    config: Config,
    device: Annotated[Literal["cuda", "cpu"], "cuda: 16 bits; cpu: float32"] = "cuda",
    measure: Annotated[bool, "also do a few updates and rollouts here: seconds, tokens, on CUDA the peak"] = False,
    random: Annotated[bool, "measure with random weights: no download"] = False,
):
    """The memory that each stage will need, from the model's configuration alone."""
    from ipr_lite.run import scale_of
    from ipr_lite.study.plan import memory_plan

    scale = scale_of(config)
    print(memory_plan(scale, config.precision, config.batch_size, device))
    if measure:
        from ipr_lite.study.measure import measured_table

        print(measured_table(scale, config.precision, config.batch_size, random))


def compare(
    config: Config,
    folder: Path,
    command: str,
    seeds: Annotated[str, "such as 0-9 or 0,3,5"] = "0-9",
    methods: Annotated[Words | None, "such as sft eto ipr; default: SFT, its controls, IPR"] = None,
    settings: Annotated[Words, 'such as default "w_step=0" "beta=0.3 updates=40"'] = ("default",),
    split: Annotated[Literal["test", "dev"], "what is scored; dev, to search settings"] = "test",
    results: Annotated[Path | None, "the results file to add to; default: in the folder"] = None,
):
    """IPR and its controls, many seeds, to a results file."""
    numbers = seeds_of(seeds)
    from ipr_lite.study import compare as c
    from ipr_lite.study.tables import write_comparison

    path = results or folder / "results.csv"
    if path.suffix != ".csv":
        raise ValueError(f"--results {path}: name a .csv file; the pages beside it end in .md and .html")
    c.compare(config, methods or c.DEFAULT_METHODS, settings, numbers, folder, path, command, split)
    text, html = write_comparison(path, folder / path.stem)
    print(text.read_text(encoding="utf-8"))
    print(f"results: {path}\npage: {html}")


def seeds_of(text: str) -> list[int]:
    """ "0-9" or "0,3,5" as numbers. Raises ValueError for anything else."""
    try:
        first, _, last = text.partition("-")
        seeds = list(range(int(first), int(last) + 1)) if last else [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds:
        raise ValueError(f"--seeds {text}: give a range such as 0-9, or a list such as 0,3,5")
    return seeds


def bench(
    config: Config,
    folder: Path,
    command: str,
    quick: bool,
    trajectories: Annotated[Count | None, "default: 40; with --quick 4"] = None,
    runs: Annotated[Count | None, "how often; default: 5; with --quick 1"] = None,
    ways: Annotated[Words | None, "default: all of ipr_lite/study/speed.py"] = None,
    json: Annotated[bool, "print the ratios and medians as one line of JSON"] = False,
    results: Annotated[Path | None, "default: bench.csv in the run's folder"] = None,
):
    """How fast rollouts are: ways to do them side by side, against the least time."""
    from json import dumps

    from tqdm.auto import tqdm

    from ipr_lite.run import Run
    from ipr_lite.study import speed as b

    path, say = results or folder / "bench.csv", (lambda text: None) if json else tqdm.write
    count, times = (4, 1) if quick else (40, 5)
    rows = b.bench(
        Run(config, folder), trajectories or count, config.samples, runs or times, ways, say,
        lambda rows: b.write_bench(path, rows, command),
    )  # fmt: skip
    if json:
        print(dumps(b.summary(rows) | {"medians": b.medians(rows).to_dict("index")}))
    else:
        print(f"{b.bench_table(rows)}\n{b.stage_table(rows)}\nresults: {path}")


def pretrain(
    out: Annotated[Path | None, "the model's folder; default: data/tiny-base"] = None,
    tokens: Annotated[Count | None, "transcript tokens to train on"] = None,
    layers: Annotated[Count | None, "default: 4"] = None,
    worlds: Annotated[Words | None, "whose transcripts; default: shop sql house"] = None,
    seed: Annotated[int, "draws the transcripts and the weights"] = 0,
):
    """Make the tiny base model anew."""
    from tqdm.auto import tqdm

    from ipr_lite.config import TINY_BASE
    from ipr_lite.make import pretrain as p

    given = {"tokens": tokens, "layers": layers, "worlds": " ".join(worlds or ())}
    settings = replace(p.PretrainSettings(seed=seed), **{name: value for name, value in given.items() if value})
    conversations = p.corpus(settings)
    tokenizer = p.train_tokenizer(p.tokenizer_texts(conversations), settings.vocab_size, settings.context)
    bar = tqdm(desc="pretrain", total=settings.tokens, unit="token", unit_scale=True)

    def show(done: int, total: int, loss: float):
        bar.set_postfix(loss=f"{loss:.3f}")
        bar.update(min(done, total) - bar.n)

    p.pretrain(conversations, tokenizer, settings, out or TINY_BASE, show)
    bar.close()
    print(f"base model: {out or TINY_BASE}")


def data(out: Annotated[Path, "the folder"] = Path("data")):
    """Write the shipped data anew."""
    from ipr_lite.make.data import write_data

    print("\n".join(map(str, write_data(out))))


def quality(
    run: Runs,
    command: str,
    samples: Annotated[Count, "rollouts that count as the truth"] = 1000,
    contrasts: Annotated[Count, "of each run"] = 20,
    agents: Annotated[Words, "whose test episodes"] = ("sft", "ipr"),
    tasks: Annotated[Count, "test tasks"] = 100,
    results: Annotated[Path, "the folder of the results files"] = Path("data/results"),
):
    """How good a finished run's step rewards are; what they show; cases."""
    from ipr_lite.study.cases import write_cases
    from ipr_lite.study.quality import measure
    from ipr_lite.study.transfer import finished

    for folder in run:
        one = finished(folder)
        truth, test = (results / f"{one.config.env}_{figure}.csv" for figure in ("fig3", "fig4"))
        measure(one, truth, test, samples, contrasts, agents, tasks, command)
    cases = results / f"{one.config.env}_cases.jsonl"
    if not cases.exists():
        write_cases(cases, finished(run[0]))
    print(f"results: {results}")


def rounds(
    runs: Annotated[Words, "folders of runs; a pattern may stand in quotes"],
    command: str,
    *,
    results: Annotated[Path, "the CSV file to add to"],
):
    """What every round of a run has made, from its files: pairs, what was reused, dev reward."""
    from ipr_lite.study.rounds import add_rounds

    print(f"{add_rounds(runs, results, command)} rounds: {results}")


def lab(command: str, results: Annotated[Path, "the folder for both files"] = Path("data/results")):
    """The exact lab: when step rewards beat outcomes, and who may judge a step; a grid of 1,000 seeds in three minutes."""
    from tqdm.auto import tqdm

    from ipr_lite.study.lab import GRID, write_grid
    from ipr_lite.study.lab_estimators import write_estimators

    write_grid(results / "lab.csv", command, tqdm(GRID, desc="lab", unit="cell"))
    write_estimators(results / "lab_estimators.csv", command)
    print(f"results: {results}")


def power(
    results: Annotated[tuple[Path, ...], "results files, as `compare` writes them"],
    *,
    difference: Annotated[float, "to ask the number of seeds for, in units of reward"] = 0.03,
    method: Annotated[str, "that is compared with all others"] = "ipr",
):
    """What difference a results file could have seen, and how many seeds a given one needs."""
    from ipr_lite.study.power import HEADER, power_rows
    from ipr_lite.study.results import TASKS, markdown_table, read_results, read_table, tasks_file

    for path in results:
        tasks = read_table(tasks_file(path), TASKS) if tasks_file(path).exists() else None
        lines = power_rows(read_results(path), difference, method, tasks=tasks)
        if not lines:
            raise ValueError(f"{path}: no two seeds in which {method} and another method were run on the test split")
        print(f"{path}\n{markdown_table([name.format(difference) for name in HEADER], lines)}")


def tables():
    """Write the book's tables anew from data/results."""
    from ipr_lite.study.tables import write_tables

    changed = write_tables()
    print("\n".join(f"written: {page}" for page in changed) or "every table was up to date")


def inspect_data(
    *,
    env: World = "shop",
    data: Annotated[str, "the folder"],
    recorded: Annotated[str | None, "a file of the authors' trajectories, to be played again"] = None,
):
    """What a folder of an original benchmark's data holds and lacks."""
    from ipr_lite.envs.authors import inspect

    print(visible(inspect(env, data, recorded)))


def play(
    env: World = "shop",
    data: Data = None,
    split: Annotated[str, "of the world's tasks: train, dev, test, ..."] = "dev",
    task: Annotated[Count, "which task of the split, from 1"] = 1,
):
    """Play a task yourself; `hint` asks a careful person."""
    from ipr_lite import envs
    from ipr_lite.envs.play import play

    world, tasks = envs.make(env, data), envs.tasks(env, split, data)
    if task > len(tasks):
        raise ValueError(f"--task {task}: the split {split} has tasks 1 to {len(tasks)}")
    one = tasks[task - 1]
    play(world, one, envs.people_of(env).guide, input, lambda text: print(visible(text)))


def transfer(
    run: Runs,
    command: str,
    env: Annotated[str | None, "default: the run's"] = None,
    data: Data = None,
    split: Annotated[str, "of that world's tasks"] = "test",
    limit: Annotated[Count, "tasks"] = 300,
    agents: Annotated[Words, "of the run; default: base, sft, ipr as dev chose it, careful"] = (),
    results: Annotated[Path | None, "a results file to add to; default: none"] = None,
):
    """A run's agents on other data, such as the original's, or in another world."""
    from ipr_lite.study import transfer as t
    from ipr_lite.study.results import add_results, results_table

    for folder in run:
        found = t.transfer(folder, data, split, limit, env, agents)
        print(f"{folder}\n{results_table(found)}")
        if results:
            add_results(results, t.results_rows(folder, found, data, env), command)


def merge(
    run: Annotated[Path, "the run's folder"],
    agent: Annotated[str, "base, sft, ipr-1, ..., or ipr, the one chosen on dev"] = "ipr",
    *,
    out: Annotated[Path, "the checkpoint's folder"],
):
    """An agent of a run as a checkpoint of its own, for servers."""
    from ipr_lite.run import Run

    print(f"checkpoint: {Run.opened(run).merge(agent, out)}")


def show(
    file: Annotated[Path, "a JSON Lines file of trajectories"],
    line: Annotated[Count, "which line, from 1"] = 1,
    out: Annotated[Path | None, "the page; default: beside the file, .html"] = None,
):
    """A trajectory as a page."""
    from ipr_lite.records import read_trajectories, write_atomically
    from ipr_lite.study.viewer import page, trajectory_html

    found = read_trajectories(file)
    if line > len(found):
        raise ValueError(f"{file} has lines 1 to {len(found)}, not {line}")
    one, out = found[line - 1], out or file.with_suffix(".html")
    if out.exists() and out.samefile(file):
        raise ValueError(f"{out}: the page would replace the file that it shows; name another with --out")
    write_atomically(out, page(f"{one.agent} on {one.id}", trajectory_html(one)))
    print(f"page: {out}")


COMMANDS = {
    "run": run,
    "sft": sft,
    "explore": stage("explore", "Stage 2: act from every step of every demonstration.", "sft", "sft"),
    "score": stage(
        "score", "Stage 3: Monte Carlo step rewards where agent and demonstrator differ.",
        "explore", "iteration-{}/explorations.jsonl",
    ),
    "pairs": stage("pairs", "Stage 4: outcome and step pairs.", "score", "iteration-{}/step_rewards.jsonl"),
    "train": stage("train", "Stage 5: preference training.", "pairs", "iteration-{}/pairs.jsonl"),
    "evaluate": evaluate,
    "plan": plan, "compare": compare, "bench": bench, "quality": quality, "rounds": rounds, "transfer": transfer, "lab": lab, "power": power,
    "tables": tables, "play": play, "show": show, "inspect": inspect_data, "merge": merge, "pretrain": pretrain,
    "data": data,
}  # fmt: skip
