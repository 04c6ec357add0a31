"""Text worlds. Two doors: `make(name)` opens a world, `tasks(name, split)` lists what to do in it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from ipr_lite.envs.base import TextEnv
from ipr_lite.trajectory import Task

# A world's module has make(data) and tasks(split, data); its experts' module has demonstrate,
# demonstrations, transcripts, CAREFUL and HABITUAL.
_WORLDS = {name: (f"ipr_lite.envs.{name}_world", f"ipr_lite.envs.{name}_experts") for name in ("shop", "sql", "house", "all")}
NAMES = tuple(_WORLDS)


def make(name: str, data: str | Path | None = None) -> TextEnv:
    """The world `name`, generated, or on the original's own files in the folder `data`.

    Raises ValueError for an unknown name or a bad file, FileNotFoundError for a missing one.
    """
    return _module(name, 0).make(data)


def tasks(name: str, split: str, data: str | Path | None = None) -> list[Task]:
    """The tasks of a split of the world `name`, in a fixed order. Raises as `make` does."""
    return _module(name, 0).tasks(split, data)


def experts(name: str) -> ModuleType:
    """The module of the world's demonstrators. Raises ValueError for an unknown name."""
    return _module(name, 1)


def _module(name: str, which: int) -> ModuleType:
    if name not in _WORLDS:
        raise ValueError(f"no world {name!r}; the worlds are {', '.join(NAMES)}")
    return import_module(_WORLDS[name][which])
