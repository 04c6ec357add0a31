"""The command line: `python -m ipr_lite` runs the whole of IPR at tiny scale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError, validate_call

from ipr_lite.commands import COMMANDS
from ipr_lite.config import QUICK, Config, Count, told
from ipr_lite.engine.safe_text import command_line, visible

EXAMPLES = """
examples:
  python -m ipr_lite                                  the main job: SFT, two iterations of IPR, a report
  python -m ipr_lite --quick                          every stage in about a minute (too small for an effect)
  python -m ipr_lite run --precision full --seed 1    the same on an unquantized base, another seed
  python -m ipr_lite run --data PATH --demonstrations 120 --test 50
                                                      on WebShop's own products and goals
  python -m ipr_lite sft --out runs/mine              one stage; explore, score, pairs, train, evaluate follow
  python -m ipr_lite play --env sql                   play yourself; `hint` asks a careful person
  python -m ipr_lite compare --seeds 0-4              methods x seeds -> a results file, a table, a page
  python -m ipr_lite plan --scale consumer            the memory that each stage will need on a card
  python -m ipr_lite bench --quick                    how fast rollouts are, and how fast they could be
  python -m ipr_lite explore --backend openai --url http://localhost:8000/v1
                                                      the episodes of a stage on a server (vLLM and others)
  python -m ipr_lite show data/showcase/demonstrations.jsonl --line 3
                                                      a trajectory as a page
"""

HANDED_IN = ("config", "folder", "command", "quick")


class Parser(argparse.ArgumentParser):
    """One that raises ValueError, for `main` to tell in one line."""

    def error(self, message: str):
        raise ValueError(f"{message}; `{self.prog} --help` lists what there is")


def parser() -> Parser:
    """A subcommand for each of `COMMANDS`. Values stay texts here; the types of `Config` and of the commands read them."""
    main = Parser(
        prog="python -m ipr_lite",
        description="IPR Lite: process supervision for LLM agents, step by step.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="name", metavar="command", required=True)
    for name, do in COMMANDS.items():
        one = commands.add_parser(name, help=do.__doc__, description=do.__doc__)
        asked = signature(do).parameters.values()
        hints = get_type_hints(do, include_extras=True)
        for p in asked:
            if p.name not in HANDED_IN:
                option(one, p.name, hints[p.name], hints[p.name].__metadata__[-1], p.default, p.kind)
        option(one, "threads", int, "CPU threads; default: torch's choice")
        if "config" in hints:
            one.usage = f"{one.prog} [options]"  # argparse would list all of them twice
            option(one, "quick", bool, "every stage in about a minute: too small for an effect")
            option(one, "out", Path, "the folder; default: runs/ENV-SCALE-PRECISION-seedN, or runs/compare-...")
            group = one.add_argument_group("what a run depends on")
            for field, about in Config.__pydantic_fields__.items():
                option(group, field, about.annotation, about.description, about.default)
    return main


def option(group, name: str, kind: Any, text: str, default: Any = None, place: Any = Parameter.KEYWORD_ONLY) -> None:
    """Add the option of a field, or of a parameter; one without a default is required, and positional where Python's is."""
    while get_origin(kind) in (Annotated, Union, UnionType):  # `Annotated[int, ...] | None` is an int
        kind = get_args(kind)[0]
    required = default is Parameter.empty
    if not required and default is not None and default is not False:
        shown = " ".join(default) if isinstance(default, tuple) else default
        text = f"{text.removesuffix('.')} (default: {shown})"
    more = {"help": cleandoc(text).replace("%", "%%"), "default": argparse.SUPPRESS}
    if kind is bool:
        group.add_argument(flag(name), action=argparse.BooleanOptionalAction, **more)
        return
    if get_origin(kind) is tuple:
        kind, more["nargs"] = get_args(kind)[0], "+"
    words = get_args(kind) if get_origin(kind) is Literal else ()
    more["metavar"] = f"{{{','.join(words)}}}" if words else kind.__name__.upper()
    if required and place is not Parameter.KEYWORD_ONLY:
        group.add_argument(name, **more | {"metavar": name.upper()})
    else:
        group.add_argument(flag(name), required=required, **more)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def read(arguments: list[str]) -> tuple[Callable, dict[str, Any]]:
    """The command that a line asks for, and what to hand it. Raises ValueError."""
    command = command_line(arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    given = vars(parser().parse_args(arguments))
    name = given.pop("name")
    asked = signature(COMMANDS[name]).parameters
    if "config" in asked:
        quick, out = given.pop("quick", False), given.pop("out", None)
        mine = {f.name: given.pop(f.name) for f in fields(Config) if f.name in given}
        config = Config(**(QUICK if quick else {}) | mine)
        folder = out or folder_of(config, name == "compare", quick)
        handed = {"config": config, "folder": folder, "quick": quick}
        given |= {key: value for key, value in handed.items() if key in asked}
    return COMMANDS[name], given | ({"command": command} if "command" in asked else {})


def folder_of(config: Config, many: bool, quick: bool) -> Path:
    """A name that says what differs from the plain run."""
    name = f"{config.env}-{config.scale}-{config.precision}"
    name = f"compare-{name}" if many else f"{name}-seed{config.seed}"
    return Path("runs") / (name + ("-data" if config.data else "") + ("-quick" if quick else ""))


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong usage."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal of few characters ends no game and no run
    try:
        do, given = read(list(sys.argv[1:] if arguments is None else arguments))
        if threads := given.pop("threads", None):
            set_threads(threads=threads)
        validate_call(do)(**given)
        return 0
    except ValidationError as error:
        print(f"error: {visible(told(error))}", file=sys.stderr)
        return 2
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"error: {visible(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished stage", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"error: {type(error).__name__}: {visible(error)}", file=sys.stderr)
        return 1


@validate_call
def set_threads(threads: Count) -> None:
    """Of torch, for the whole process."""
    import torch

    torch.set_num_threads(threads)


if __name__ == "__main__":
    sys.exit(main())
