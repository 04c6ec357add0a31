"""The originals' games: ALFWorld's own folders (`<split>/.../game.tw-pddl`), or JSON Lines of problems.

A line of `games_<split>.jsonl` (or `.jsonl.gz`) holds `game`, `task` (the instruction) and
`pddl_problem`; a `game.tw-pddl` holds `pddl_problem` and a grammar that tells the instruction.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

from ipr_lite.envs.house.game import Game, read_problem
from ipr_lite.trajectory import Task

# Our split -> the originals' name of it.
SPLITS = {"train": "train", "dev": "valid_train", "test_seen": "valid_seen", "test_unseen": "valid_unseen"}


def load(folder: str | Path, split: str) -> tuple[dict[str, Game], list[Task]]:
    """The games of a split and their tasks, in the order of their names or lines.

    Raises ValueError for an unknown split, and with file and line for a record that is not a game;
    FileNotFoundError that says what was looked for where the folder has no game of the split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")
    folder, theirs = Path(folder), SPLITS[split]
    records = [*_lines(folder, theirs), *_games(folder, theirs)]
    if not records:
        raise FileNotFoundError(
            f"{folder}: no game of the split {theirs}: neither games_{theirs}.jsonl(.gz) nor {theirs}/**/game.tw-pddl"
        )
    found, tasks = {}, []
    for where, name, instruction, problem in records:
        found[name] = read_problem(problem, instruction, where)
        kind = Path(name).parts[0].split("-")[0]
        tasks.append(Task(name, "house", split, instruction, {"game": name, "type": kind}))
    return found, tasks


def splits_of(folder: str | Path) -> list[str]:
    """The splits, by our names, of which the folder has files."""
    return [
        ours
        for ours, theirs in SPLITS.items()
        if _line_files(Path(folder), theirs) or _game_files(Path(folder), theirs)
    ]


def _line_files(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"games_{split}.jsonl*"))


def _game_files(folder: Path, split: str) -> list[Path]:
    return sorted((folder / split).rglob("game.tw-pddl"))


def _lines(folder: Path, split: str):
    for path in _line_files(folder, split):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}, line {number}"
                record = _record(line, where)
                yield where, *(_text(record, key, where) for key in ("game", "task", "pddl_problem"))


def _games(folder: Path, split: str):
    for path in _game_files(folder, split):
        record = _record(path.read_text(encoding="utf-8"), str(path))
        if record.get("solvable") is False:
            continue
        told = re.search(r"Your task is to: ([^\"\\]+)", _text(record, "grammar", str(path)))
        if not told:
            raise ValueError(f"{path}: the grammar tells no task ('Your task is to: ...')")
        name = path.parent.relative_to(folder / split).as_posix()
        yield str(path), name, told.group(1), _text(record, "pddl_problem", str(path))


def _record(text: str, where: str) -> dict:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error.msg}); is the file cut off?") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected a JSON object, a game")
    return record


def _text(record: dict, key: str, where: str) -> str:
    if not isinstance(record.get(key), str):
        raise ValueError(f"{where}: field {key!r} is missing or no text; a game needs it")
    return record[key]
