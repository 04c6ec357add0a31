"""Text worlds: a folder and a line each. Two doors: `make(name)` opens a world, `tasks(name, split)` lists what to do in it."""

from __future__ import annotations

from importlib import import_module

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.people import People
from ipr_lite.envs.world import Data, World
from ipr_lite.records import Task

PLACES = {
    "shop": "ipr_lite.envs.shop:WORLD",
    "sql": "ipr_lite.envs.sql:WORLD",
    "house": "ipr_lite.envs.house:WORLD",
    "all": "ipr_lite.envs.all:WORLD",
    "shop-2": "ipr_lite.envs.shop.errands:TWO",
    "shop-3": "ipr_lite.envs.shop.errands:THREE",
    "shop-renamed": "ipr_lite.envs.renamed:SHOP",
    "house-renamed": "ipr_lite.envs.renamed:HOUSE",
    "lab-4": "ipr_lite.envs.lab:FOUR",
    "lab-12": "ipr_lite.envs.lab:TWELVE",
}
"""Where each world's record is; what is not asked for is not imported."""


def world(name: str) -> World:
    """What there is to know of a world. Raises ValueError for an unknown name."""
    if name not in PLACES:
        raise ValueError(f"no world {name!r}; the worlds are {', '.join(PLACES)}")
    module, _, record = PLACES[name].partition(":")
    return getattr(import_module(module), record)


def make(name: str, data: Data = None) -> TextEnv:
    """The world `name`, generated, or on the original's own files in the folder `data`.

    Raises ValueError for an unknown name or a bad file, FileNotFoundError for a missing one.
    """
    return world(name).make(data)


def tasks(name: str, split: str, data: Data = None) -> list[Task]:
    """The tasks of a split of the world `name`, in a fixed order. Raises as `make` does."""
    return world(name).tasks(split, data)


def people_of(name: str) -> People:
    """Who demonstrates in a world. Raises ValueError for an unknown name."""
    return world(name).people
