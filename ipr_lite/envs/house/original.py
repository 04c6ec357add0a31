"""The originals' games: ALFWorld's own folders (`<split>/.../game.tw-pddl`), or JSON Lines of problems.

A line of `games_<split>.jsonl` (or `.jsonl.gz`) holds `game`, `task` (the instruction) and
`pddl_problem`; a `game.tw-pddl` holds `pddl_problem` and a grammar that tells the instruction. What
ALFWorld's own loader skips is left out with a warning that counts it.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from ipr_lite.envs.house.game import Game, read_problem
from ipr_lite.records import DataError, Task, lines_of, parse, read_text

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
        game = read_problem(problem, instruction, where)
        if name in found:
            raise DataError(f"{where}: the game {name} is in the folder twice; remove one of the files that hold it")
        found[name] = game
        kind = re.split(r"[-/\\]", name)[0]
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
    return [path for end in ("jsonl", "jsonl.gz") if (path := folder / f"games_{split}.{end}").is_file()]


def _game_files(folder: Path, split: str) -> list[Path]:
    return sorted((folder / split).rglob("game.tw-pddl"))


def _lines(folder: Path, split: str):
    for path in _line_files(folder, split):
        for number, line in lines_of(path):
            where = f"{path}, line {number}"
            record = _record(line, where)
            yield where, *(_text(record, key, where) for key in ("game", "task", "pddl_problem"))


def _games(folder: Path, split: str):
    left_out = 0
    for path in _game_files(folder, split):
        name = path.parent.relative_to(folder / split).as_posix()
        record = {} if re.search("movable|Sliced", name) else _record(read_text(path), str(path))
        if not record.get("solvable"):
            left_out += 1
            continue
        told = re.search(r"Your task is to: ([^\"\\]+)", _text(record, "grammar", str(path)))
        if not told:
            raise ValueError(f"{path}: the grammar tells no task ('Your task is to: ...')")
        yield str(path), name, told.group(1), _text(record, "pddl_problem", str(path))
    if left_out:
        warnings.warn(
            f"{folder / split}: {left_out} games are left out, as ALFWorld's own loader does: movable or sliced things, "
            "or not known to be solvable",
            stacklevel=2,
        )


def _record(text: str, where: str) -> dict:
    try:
        return parse(text, dict, "is the file cut off? Get it anew")
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _text(record: dict, key: str, where: str) -> str:
    if not isinstance(record.get(key), str):
        raise ValueError(f"{where}: field {key!r} is missing or no text; a game needs it")
    return record[key]
