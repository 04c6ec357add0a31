"""What a run leaves behind: files that appear only when they are whole, logs, the manifest."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch

from ipr_lite.jsonl import SCHEMA_VERSION, write_whole

KEPT = {".csv", ".json", ".jsonl", ".safetensors"}


def whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a file or folder aside, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.unfinished")
    if aside.is_dir():
        shutil.rmtree(aside)
    write(aside)
    os.replace(aside, path)
    return path


def write_log(path: Path, rows: list[dict]) -> Path:
    """A training log as CSV, floats with six significant digits."""
    lines = [",".join(rows[0])]
    for row in rows:
        lines.append(",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()))
    return write_whole(path, "\n".join(lines) + "\n")


def write_manifest(folder: Path, seed: int) -> Path:
    """manifest.json: versions, seed, threads, commit and the sha256 of every file in a run's folder."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in KEPT)
    facts = {
        "schema": SCHEMA_VERSION,
        "commit": commit or None,
        "seed": seed,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
        "sha256": {p.relative_to(folder).as_posix(): sha256(p.read_bytes()).hexdigest() for p in files},
    }
    return write_whole(folder / "manifest.json", json.dumps(facts, indent=1) + "\n")
