"""What the project knows of a world: its doors, its people, its place in tables, what it costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.people import People
from ipr_lite.records import Task

Data = str | Path | None
"""A folder with the original's own files; None: the generated world."""


@dataclass(frozen=True)
class World:
    """A world of text, as `envs.world(name)` gives it.

    make(data), tasks(split, data): its two doors. columns: of result tables, a title each, with the split that it shows and
    what the paper calls it. instruction: a pattern that finds it in the first observation of the authors' files. corpus: its
    share of the tiny base's, and about how many tokens an episode has; None: it has no part in it. scored: about the share
    of steps that are scored, on both sides. hindsight(env, task, rng): the instruction that an
    episode fulfils which ended in this `env`, whatever its task asked for; None where it did nothing to be asked for. seconds: of an SFT update, an update on pairs, an exploration, a Monte Carlo
    rollout and an evaluation episode, on one core beside another busy one.
    """

    name: str
    make: Callable[[Data], TextEnv]
    tasks: Callable[[str, Data], list[Task]]
    people: People
    columns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    instruction: str | None = None
    corpus: tuple[float, int] | None = None
    scored: float = 0.1
    hindsight: Callable[[TextEnv, Task, random.Random], str | None] | None = None
    seconds: tuple[float, float, float, float, float] = (1.0, 4.2, 0.06, 0.2, 0.2)
