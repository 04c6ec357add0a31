"""Text worlds. Two doors: `make(name)` opens a world, `tasks(name, split)` lists what to do in it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from ipr_lite.envs.base import TextEnv
from ipr_lite.trajectory import Task

# A world's module has make(data, ...) and tasks(split, data, ...), where ... is what its name says besides the module's;
# its experts' module has demonstrate, demonstrations, CAREFUL, HABITUAL and SORTS.
_WORLDS = {
    "shop": ("shop.generated", "shop.people"), "sql": ("sql.generated", "sql.people"),
    "house": ("house.generated", "house.people"), "all": ("all", "all_people"),
    "shop-2": ("shop.errands", "shop.errands_people", 2), "shop-3": ("shop.errands", "shop.errands_people", 3),
}  # fmt: skip
NAMES = tuple(_WORLDS)


def make(name: str, data: str | Path | None = None) -> TextEnv:
    """The world `name`, generated, or on the original's own files in the folder `data`.

    Raises ValueError for an unknown name or a bad file, FileNotFoundError for a missing one.
    """
    module, more = _module(name, 0)
    return module.make(data, *more)


def tasks(name: str, split: str, data: str | Path | None = None) -> list[Task]:
    """The tasks of a split of the world `name`, in a fixed order. Raises as `make` does."""
    module, more = _module(name, 0)
    return module.tasks(split, data, *more)


def experts(name: str) -> ModuleType:
    """The module of the world's demonstrators. Raises ValueError for an unknown name."""
    return _module(name, 1)[0]


def _module(name: str, part: int) -> tuple[ModuleType, tuple]:
    if name not in _WORLDS:
        raise ValueError(f"no world {name!r}; the worlds are {', '.join(NAMES)}")
    (*modules,) = _WORLDS[name]
    return import_module(f"ipr_lite.envs.{modules[part]}"), tuple(modules[2:])
