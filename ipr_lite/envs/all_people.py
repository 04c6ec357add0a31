"""The demonstrators of all three worlds: in each world, its own people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from ipr_lite.envs import people
from ipr_lite.envs.all import AllWorlds
from ipr_lite.envs.house import people as house_experts
from ipr_lite.envs.shop import people as shop_experts
from ipr_lite.envs.sql import people as sql_experts
from ipr_lite.trajectory import Task, Trajectory

EXPERTS = {"shop": shop_experts, "sql": sql_experts, "house": house_experts}
CAREFUL, HABITUAL = "careful", "habitual"
SORTS = {"habitual": HABITUAL, "careful": CAREFUL}
KEEP = None
"""Each world's own."""


def guide(task: Task, env: AllWorlds) -> people.Person:
    """A careful person of the task's world to ask for a hint."""
    return EXPERTS[task.env].guide(task, env.worlds[task.env])


def demonstrations(
    tasks: Sequence[Task], env: AllWorlds, habits: str, seed: int, keep: float | None = KEEP
) -> list[Trajectory]:
    """One demonstration for each task by its world's careful or habitual people, in the order of the tasks.

    keep: the least reward of a kept one; None: each world's own.
    """
    found = {}
    for name, module in EXPERTS.items():
        own = [task for task in tasks if task.env == name]
        chosen = getattr(module, habits.upper())
        least = {} if keep is None else {"keep": keep}
        found |= {t.task.id: t for t in module.demonstrations(own, env.worlds[name], chosen, seed, **least)}
    return [found[task.id] for task in tasks if task.id in found]


def transcripts(n: int, seed: int) -> Iterator[Trajectory]:
    """`n` episodes of people of all sorts, a third in each world, for the base model's corpus."""
    each = [module.transcripts(-(-n // 3), seed) for module in EXPERTS.values()]
    rounds = (t for together in zip_longest(*each) for t in together)
    for _, transcript in zip(range(n), rounds):
        yield transcript
