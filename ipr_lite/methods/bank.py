"""AgentBank (Song et al., EMNLP 2024): one agent cloned from demonstrations of many worlds.

How many demonstrations (the config's `demonstrations`, of each world), and of how many worlds: one is SFT itself;
`agentbank-2` and `agentbank` add the demonstrations of one and of all other worlds; `agentbank-out` leaves its own world
out. As in the paper, more data means more updates. Its agents are LLMs, its worlds sixteen.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import zip_longest

from ipr_lite import envs
from ipr_lite.envs.all import WORLDS
from ipr_lite.methods.method import Method
from ipr_lite.methods.sft import cloned
from ipr_lite.records import Trajectory
from ipr_lite.run import Run, draw_demonstrations


def bank(name: str, own: bool, others: int, run: Run) -> list[str]:
    """SFT from the base on the run's own demonstrations, or without them, and on those of so many other worlds."""
    return cloned(run, name, lambda: run.clone(mixed(run, own, others)))


def mixed(run: Run, own: bool, others: int) -> list[Trajectory]:
    """The demonstrations of all these worlds, in turn."""
    names = [name for name in WORLDS if name != run.config.env][:others]
    each = [run.demonstrations()] if own else []
    for name in names:
        each.append(draw_demonstrations(replace(run.config, env=name), envs.make(name), run.config.habits))
    return [t for turn in zip_longest(*each) for t in turn if t is not None]


AGENTBANK_OUT = Method(
    "agentbank-out", "clone the other worlds alone", partial(bank, "agentbank-out", False, 2), "#a9a9a9", "$0$",
    from_base=True,
)  # fmt: skip
AGENTBANK_2 = Method(
    "agentbank-2", "clone two worlds", partial(bank, "agentbank-2", True, 1), "#5f9ea0", "$2$", from_base=True
)
AGENTBANK = Method(
    "agentbank", "clone three worlds", partial(bank, "agentbank", True, 2), "#006d6f", "$3$", from_base=True
)
