"""A run's folder: atomic writes, what was spent, warnings, logs, the manifest."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ipr_lite.engine.safe_text import visible
from ipr_lite.records import SCHEMA_VERSION, read_json, write_atomically
from ipr_lite.rollout import Player

T = TypeVar("T")

KEPT = {".csv", ".json", ".jsonl", ".safetensors"}


def fill_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Atomic write of what `write` makes, a file or a folder: filled aside, then renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.unfinished")
    if aside.is_dir():
        shutil.rmtree(aside)
    write(aside)
    os.replace(aside, path)
    return path


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def write_log(path: Path, rows: list[dict]) -> Path:
    """A training log as CSV, floats with six significant digits."""
    lines = [",".join(rows[0])]
    for row in rows:
        lines.append(",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()))
    return write_atomically(path, "\n".join(lines) + "\n")


def write_manifest(folder: Path, seed: int) -> Path:
    """manifest.json: versions, seed, threads, commit and the sha256 of every file in a run's folder."""
    git = shutil.which("git")
    asked = [git, "rev-parse", "HEAD"]
    commit = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True).stdout if git else ""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in KEPT)
    facts = {
        "schema": SCHEMA_VERSION,
        "commit": commit.strip() or None,
        "seed": seed,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
        "sha256": {p.relative_to(folder).as_posix(): sha256_of(p) for p in files},
    }
    return write_atomically(folder / "manifest.json", json.dumps(facts, indent=1) + "\n")


class Folder:
    """A run's folder: what its stages have made, what they spent, what they were warned of."""

    def __init__(self, folder: Path, quiet: bool = False):
        self.folder, self.quiet = Path(folder), quiet

    def file(self, number: int, name: str) -> Path:
        """A file or folder of one round."""
        return self.folder / f"iteration-{number}" / name

    def keep(
        self, path: Path, make: Callable[[], T], read: Callable[[Path], T], write: Callable[[Path, T], object]
    ) -> T:
        """What a stage makes: read from its file where that is there, and so whole; else made, and written."""
        if not path.exists():
            write(path, make())
            journal(path).unlink(missing_ok=True)
        return read(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder for this process alone. Raises RuntimeError where another process works in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"{self.folder}: another process works in this folder; wait for it, or give another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def spend(self, stage: str, **amounts: int) -> None:
        """Write what a stage has spent (env_steps, tokens written, updates) to budget.json.

        A stage that is run again, because it was killed before its file was whole, counts once.
        """
        spent = self._budget()
        spent[stage] = amounts
        write_atomically(self.folder / "budget.json", json.dumps(spent, indent=1) + "\n")

    def count(self, stage: str, player: Player) -> None:
        """Write what a player has spent to budget.json."""
        self.spend(stage, env_steps=player.actions_taken, tokens=player.tokens_written)

    def spent(self, stages: Sequence[str]) -> dict[str, int]:
        """The sum over stages of what they have spent; `iteration-1` holds `iteration-1/score` and so on."""
        mine = [
            amounts
            for stage, amounts in self._budget().items()
            if any(stage == name or stage.startswith(name + "/") for name in stages)
        ]
        return {name: sum(amounts.get(name, 0) for amounts in mine) for name in ("env_steps", "tokens", "updates")}

    def _budget(self) -> dict[str, dict[str, int]]:
        path = self.folder / "budget.json"
        return read_json(path, dict, "remove the file") if path.exists() else {}

    def bar(self, what: str) -> Callable[[int, int], None]:
        """A progress callback (done, total) that draws a bar with the time left."""
        # `disable` is left out where bars are wanted, so that TQDM_DISABLE still silences them.
        off = {"disable": True} if self.quiet else {}
        bar = tqdm(desc=what, leave=False, total=1, **off)

        def show(done: int, total: int):
            bar.total = total
            bar.update(done - bar.n)
            if done >= total:
                bar.close()

        return show

    def say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(visible(text))

    def warn(self, number: int, text: str) -> None:
        """Say it, and keep it for the report."""
        path = self.file(number, "warnings.txt")
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if text not in old:
            self.say(f"warning: {text}")
            write_atomically(path, old + text + "\n")


def journal(path: Path) -> Path:
    """Where a server's finished episodes stand until the stage's file is whole."""
    return path.with_suffix(".journal")
