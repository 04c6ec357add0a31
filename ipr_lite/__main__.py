"""The command line: `python -m ipr_lite` runs the whole of IPR at tiny scale."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

EXAMPLES = """
examples:
  python -m ipr_lite                                  the main job: SFT, two iterations of IPR, a report
  python -m ipr_lite --quick                          every stage in about a minute (too small for an effect)
  python -m ipr_lite run --precision full --seed 1    the same on an unquantized base, another seed
  python -m ipr_lite run --data PATH --demonstrations 120 --test 50
                                                      on WebShop's own products and goals
  python -m ipr_lite sft --out runs/mine              one stage; explore, score, pairs, train, evaluate follow
  python -m ipr_lite play --env sql                   play yourself; `hint` asks an expert
  python -m ipr_lite compare --seeds 0-4              methods x seeds -> data/results/shop_effect.csv
  python -m ipr_lite plan --scale consumer            the memory that each stage will need on a card
  python -m ipr_lite bench --quick                    how fast rollouts are, and how fast they could be
  python -m ipr_lite explore --backend openai --url http://localhost:8000/v1
                                                      the episodes of a stage on a server (vLLM and others)
  python -m ipr_lite show data/showcase/demonstrations.jsonl --line 3
                                                      a trajectory as a page
"""

STAGES = ("sft", "explore", "score", "pairs", "train", "evaluate")


def parser() -> argparse.ArgumentParser:
    """All commands share the options of `Config`; a stage command adds --iteration."""
    from ipr_lite.config import Config

    main = argparse.ArgumentParser(
        prog="python -m ipr_lite",
        description="IPR Lite: process supervision for LLM agents, step by step.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", metavar="command")
    help_of = {
        "run": "the whole of IPR, resumable (the default)",
        "sft": "stage 1: clone the demonstrations",
        "explore": "stage 2: act from every step of every expert trajectory",
        "score": "stage 3: Monte Carlo step rewards where agent and expert differ",
        "pairs": "stage 4: outcome and step pairs",
        "train": "stage 5: preference training",
        "evaluate": "dev and test, the iterate chosen on dev",
        "plan": "the memory that each stage will need, from the model's configuration alone",
        "compare": "IPR and its controls, many seeds, to a results file",
        "bench": "how fast rollouts are: ways to do them side by side, against the least time",
    }
    for name, text in help_of.items():
        command = commands.add_parser(name, help=text, description=text)
        for option in fields(Config):
            flag = "--" + option.name.replace("_", "-")
            if option.type.startswith("bool"):
                command.add_argument(flag, default=option.default, action=argparse.BooleanOptionalAction)
            else:
                kind = option.type.removesuffix(" | None")
                command.add_argument(
                    flag,
                    type={"int": int, "float": float, "str": str}[kind],
                    default=option.default,
                    metavar=kind.upper(),
                    help=f"default: {option.default}",
                )
        command.add_argument("--quick", action="store_true", help="every stage in about a minute")
        command.add_argument("--out", type=Path, help="the run's folder (default: runs/<env>...)")
        command.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
        if name in STAGES:
            command.add_argument("--iteration", type=int, default=1)
        if name == "plan":
            command.add_argument(
                "--device", choices=("cuda", "cpu"), default="cuda", help="cuda: 16 bits, the default; cpu: float32"
            )
            command.add_argument(
                "--measure",
                action="store_true",
                help="also do a few updates and rollouts here: seconds, tokens, on CUDA the peak",
            )
            command.add_argument("--random", action="store_true", help="measure with random weights: no download")
        if name == "compare":
            command.add_argument("--seeds", default="0-9", help="such as 0-9 or 0,3,5")
            command.add_argument("--methods", nargs="+", metavar="METHOD", help="default: SFT, its controls, IPR")
            command.add_argument(
                "--settings",
                nargs="+",
                default=["default"],
                metavar="SETTING",
                help='such as default "w_step=0" "beta=0.3 updates=40"',
            )
            command.add_argument("--split", default="test", help="default: test; dev, to search settings")
            command.add_argument("--results", type=Path, help="the results file to add to")
        if name == "bench":
            command.add_argument("--trajectories", type=int, help="default: 40; with --quick 4")
            command.add_argument("--runs", type=int, help="how often, default: 5; with --quick 1")
            command.add_argument("--ways", nargs="+", metavar="WAY", help="default: all of ipr_lite/study/speed.py")
            command.add_argument("--json", action="store_true", help="print the ratios and medians as one line of JSON")
            command.add_argument("--results", type=Path, help="default: bench.csv in the run's folder")
    base = commands.add_parser("pretrain", help="make the tiny base model anew")
    base.add_argument("--out", type=Path, default=None, help="default: data/tiny-base")
    base.add_argument("--tokens", type=int, help="transcript tokens to train on")
    base.add_argument("--layers", type=int, help="default: 4")
    base.add_argument("--worlds", nargs="+", help="whose transcripts, default: shop sql house")
    base.add_argument("--seed", type=int, default=0)
    base.add_argument("--threads", type=int)
    data = commands.add_parser("data", help="write the shipped data anew")
    data.add_argument("--out", type=Path, default=Path("data"))
    good = commands.add_parser("quality", help="how good a finished run's step rewards are; what they show; cases")
    good.add_argument("run", type=Path, nargs="+", help="the run's folder; several, for several seeds")
    good.add_argument("--samples", type=int, default=1000, help="rollouts that count as the truth, default: 1000")
    good.add_argument("--contrasts", type=int, default=20, help="of each run, default: 20")
    good.add_argument("--agents", nargs="+", default=["sft", "ipr"], help="whose test episodes, default: sft ipr")
    good.add_argument("--tasks", type=int, default=100, help="test tasks, default: 100")
    good.add_argument("--results", type=Path, default=Path("data/results"), help="default: data/results")
    good.add_argument("--threads", type=int)
    commands.add_parser("tables", help="write the book's tables anew from data/results")
    theirs = commands.add_parser("inspect", help="what a folder of an original benchmark's data holds and lacks")
    theirs.add_argument("--env", default="shop", help="default: shop")
    theirs.add_argument("--data", required=True, help="the folder")
    theirs.add_argument("--experts", help="a file of the authors' expert trajectories, to be played again")
    game = commands.add_parser("play", help="play a task yourself; `hint` asks a careful expert")
    game.add_argument("--env", default="shop", help="default: shop")
    game.add_argument("--data", help="a folder with the original benchmark's data")
    game.add_argument("--split", default="dev", help="default: dev")
    game.add_argument("--task", type=int, default=1, help="which task of the split (from 1)")
    other = commands.add_parser("transfer", help="a finished run's agents on other data, such as the original's")
    other.add_argument("run", type=Path, nargs="+", help="the run's folder; several, for several seeds")
    other.add_argument("--env", help="default: the run's")
    other.add_argument("--data", help="a folder with the original benchmark's data")
    other.add_argument("--split", default="test", help="default: test")
    other.add_argument("--limit", type=int, default=300, help="tasks, default: 300")
    other.add_argument("--results", type=Path, help="a results file to add to (default: none)")
    other.add_argument("--threads", type=int)
    one = commands.add_parser("merge", help="an agent of a run as a checkpoint of its own, for servers")
    one.add_argument("run", type=Path, help="the run's folder")
    one.add_argument("--agent", default="ipr", help="base, sft, ipr-1, ...; default: ipr, the one chosen on dev")
    one.add_argument("--out", type=Path, required=True, help="the checkpoint's folder")
    page = commands.add_parser("show", help="a trajectory as a page")
    page.add_argument("file", type=Path, help="a JSON Lines file of trajectories")
    page.add_argument("--line", type=int, default=1, help="which line (from 1)")
    page.add_argument("--out", type=Path, help="default: beside the file, .html")
    return main


def config_of(options: argparse.Namespace):
    """The Config that the options say; --quick first, what is given by hand on top."""
    from ipr_lite.config import QUICK, Config

    given = {f.name: getattr(options, f.name) for f in fields(Config)}
    config = Config(**given)
    if options.quick:
        smaller = {k: v for k, v in QUICK.items() if given[k] == getattr(Config(), k)}
        config = replace(config, **smaller)
    return config


def folder_of(options: argparse.Namespace, config) -> Path:
    """--out, or a name that says what differs from the plain run."""
    if options.out:
        return options.out
    name = f"{config.env}-{config.scale}-{config.precision}-seed{config.seed}"
    if options.command == "compare":
        name = f"compare-{config.env}-{config.scale}-{config.precision}"
    if config.data:
        name += "-data"
    return Path("runs") / (name + ("-quick" if options.quick else ""))


def seeds_of(text: str) -> list[int]:
    """ "0-9" or "0,3,5" as numbers. Raises ValueError for anything else."""
    try:
        if "-" in text:
            first, last = text.split("-")
            return list(range(int(first), int(last) + 1))
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds {text!r}: give a range such as 0-9 or a list such as 0,3,5") from None


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    options = parser().parse_args(arguments)
    if getattr(options, "threads", None):
        import torch

        torch.set_num_threads(options.threads)
    try:
        return COMMANDS[options.command](options)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished stage", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def do_run(options) -> int:
    from ipr_lite.ipr import run

    config = config_of(options)
    page = run(config, folder_of(options, config))
    print(f"report: {page}")
    return 0


def do_stage(options) -> int:
    from ipr_lite.ipr import Run

    config = config_of(options)
    one, i = Run(config, folder_of(options, config)), options.iteration
    if options.command == "sft":
        one.sft()
    elif options.command == "evaluate":
        one.metrics()
    else:
        needs = {
            "explore": one.folder / "sft",
            "score": one.file(i, "explorations.jsonl"),
            "pairs": one.file(i, "step_rewards.jsonl"),
            "train": one.file(i, "pairs.jsonl"),
        }
        before = {"explore": "sft", "score": "explore", "pairs": "score", "train": "pairs"}
        if not needs[options.command].exists():
            raise FileNotFoundError(
                f"{needs[options.command]} is missing; run the stage `{before[options.command]}` first"
            )
        stage = {"explore": one.explorations, "score": one.step_rewards, "pairs": one.pairs, "train": one.train}
        stage[options.command](i)
    print(f"done: {one.folder}")
    return 0


def do_plan(options) -> int:
    from ipr_lite.lab import scale_of
    from ipr_lite.study.plan import memory_plan

    config = config_of(options)
    config.check()
    scale = scale_of(config)
    print(memory_plan(scale, config.precision, config.batch_size, options.device))
    if options.measure:
        from ipr_lite.study.measure import measured_table

        print(measured_table(scale, config.precision, config.batch_size, options.random))
    return 0


def do_compare(options) -> int:
    import shlex

    from ipr_lite.study.compare import DEFAULT_METHODS, compare
    from ipr_lite.study.tables import write_comparison

    config = config_of(options)
    folder = folder_of(options, config)
    path = options.results or folder / "results.csv"
    methods = options.methods or list(DEFAULT_METHODS)
    command = shlex.join(["python", "-m", "ipr_lite", *sys.argv[1:]])
    compare(config, methods, options.settings, seeds_of(options.seeds), folder, path, command, options.split)
    told, html = write_comparison(path, folder / path.stem)
    print(told.read_text(encoding="utf-8"))
    print(f"results: {path}\npage: {html}")
    return 0


def do_quality(options) -> int:
    from ipr_lite.study.cases import write_cases
    from ipr_lite.study.quality import measure
    from ipr_lite.study.transfer import finished

    command, out = "python -m ipr_lite " + " ".join(sys.argv[1:]), options.results
    for folder in options.run:
        run = finished(folder)
        truth, test = (out / f"{run.config.env}_{figure}.csv" for figure in ("fig3", "fig4"))
        measure(run, truth, test, options.samples, options.contrasts, options.agents, options.tasks, command)
    cases = out / f"{run.config.env}_cases.jsonl"
    if not cases.exists():
        write_cases(cases, finished(options.run[0]))
    print(f"results: {out}")
    return 0


def do_tables(options) -> int:
    from ipr_lite.study.tables import write_tables

    changed = write_tables()
    print("\n".join(f"written: {page}" for page in changed) or "every table was up to date")
    return 0


def do_bench(options) -> int:
    import json

    from tqdm.auto import tqdm

    from ipr_lite.ipr import Run
    from ipr_lite.study import speed as b

    config = config_of(options)
    run = Run(config, folder_of(options, config))
    trajectories, runs = (
        (options.trajectories or 4, options.runs or 1)
        if options.quick
        else (options.trajectories or 40, options.runs or 5)
    )
    say = (lambda text: None) if options.json else tqdm.write
    path, command = options.results or run.folder / "bench.csv", "python -m ipr_lite " + " ".join(sys.argv[1:])
    rows = b.bench(
        run, trajectories, config.samples, runs, options.ways, say, lambda rows: b.write_bench(path, rows, command)
    )
    if options.json:
        print(json.dumps(b.summary(rows) | {"medians": b.medians(rows).to_dict("index")}))
    else:
        print(b.bench_table(rows))
        print(b.stage_table(rows))
        print(f"results: {path}")
    return 0


def do_pretrain(options) -> int:
    from tqdm.auto import tqdm

    from ipr_lite.make import pretrain as p
    from ipr_lite.model import TINY_BASE

    settings = p.PretrainSettings(seed=options.seed)
    if options.tokens:
        settings = replace(settings, tokens=options.tokens)
    if options.layers:
        settings = replace(settings, layers=options.layers)
    if options.worlds:
        if unknown := set(options.worlds) - set(p.WORLDS):
            raise ValueError(f"--worlds {' '.join(unknown)}: choose of {', '.join(p.WORLDS)}")
        settings = replace(settings, worlds=" ".join(options.worlds))
    conversations = p.corpus(settings)
    texts = p.tokenizer_texts(conversations)
    tokenizer = p.train_tokenizer(texts, settings.vocab_size, settings.context)
    bar = tqdm(desc="pretrain", total=settings.tokens, unit="token", unit_scale=True)

    def show(done: int, total: int, loss: float):
        bar.set_postfix(loss=f"{loss:.3f}")
        bar.update(min(done, total) - bar.n)

    out = options.out or TINY_BASE
    p.pretrain(conversations, tokenizer, settings, out, show)
    bar.close()
    print(f"base model: {out}")
    return 0


def do_data(options) -> int:
    from ipr_lite.make.data import write_data

    for path in write_data(options.out):
        print(path)
    return 0


def do_inspect(options) -> int:
    from ipr_lite.envs.authors import inspect

    print(inspect(options.env, options.data, options.experts))
    return 0


def do_play(options) -> int:
    from ipr_lite import envs
    from ipr_lite.envs.play import play

    env, tasks = envs.make(options.env, options.data), envs.tasks(options.env, options.split, options.data)
    if not 1 <= options.task <= len(tasks):
        raise ValueError(f"--task {options.task}: the split {options.split} has tasks 1 to {len(tasks)}")
    task = tasks[options.task - 1]
    play(env, task, envs.experts(options.env).guide(task, env), input, print)
    return 0


def do_transfer(options) -> int:
    from ipr_lite.study.results import add_results, results_table
    from ipr_lite.study.transfer import results_rows, transfer

    for folder in options.run:
        found = transfer(folder, options.data, options.split, options.limit, options.env)
        print(f"{folder}\n{results_table(found)}")
        if options.results:
            command = "python -m ipr_lite " + " ".join(sys.argv[1:])
            add_results(options.results, results_rows(folder, found, options.data, options.env), command)
    return 0


def do_merge(options) -> int:
    from ipr_lite.ipr import Run

    print(f"checkpoint: {Run.opened(options.run).merge(options.agent, options.out)}")
    return 0


def do_show(options) -> int:
    from ipr_lite.study.viewer import page, trajectory_html
    from ipr_lite.trajectory import read_trajectories

    found = read_trajectories(options.file)
    if not 1 <= options.line <= len(found):
        raise ValueError(f"{options.file} has lines 1 to {len(found)}, not {options.line}")
    shown = found[options.line - 1]
    out = options.out or options.file.with_suffix(".html")
    out.write_text(page(f"{shown.agent} on {shown.id}", trajectory_html(shown)), encoding="utf-8")
    print(f"page: {out}")
    return 0


COMMANDS = {
    "run": do_run,
    "plan": do_plan,
    "compare": do_compare,
    "bench": do_bench,
    "tables": do_tables,
    "quality": do_quality,
    "pretrain": do_pretrain,
    "data": do_data,
    "show": do_show,
    "inspect": do_inspect,
    "play": do_play,
    "transfer": do_transfer,
    "merge": do_merge,
} | dict.fromkeys(STAGES, do_stage)

if __name__ == "__main__":
    sys.exit(main())
