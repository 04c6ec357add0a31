"""Supervised fine-tuning (SFT): clone the demonstrations; for longer; or clone people without habits."""

from __future__ import annotations

from collections.abc import Callable

from ipr_lite.methods.method import Method
from ipr_lite.run import Log, Run, Weights, draw_demonstrations


def sft(run: Run) -> list[str]:
    """The scorer and the reference of all other methods."""
    run.sft()
    return ["sft"]


def sft_long(run: Run) -> list[str]:
    """SFT for the number of updates that SFT and all rounds of IPR take together."""
    return cloned(run, "sft-long", lambda: run.clone(run.demonstrations(), all_updates(run)))


def sft_careful(run: Run) -> list[str]:
    """SFT on as many demonstrations as the run has, by people without habits, of the same tasks."""

    def clone():
        careful = draw_demonstrations(run.config, run.env, "careful")
        return run.clone(careful[: len(run.demonstrations())])

    return cloned(run, "sft-careful", clone)


def cloned(
    run: Run, name: str, clone: Callable[[], tuple[Weights, Log]], spent: dict[str, int] | None = None
) -> list[str]:
    """An agent that is cloned from the base, at once; `spent`: what `clone` has spent on exploring, told by it."""

    def made():
        weights, log = clone()
        run.spend(f"{name}/1", updates=len(log), **(spent or {}))
        return weights, log

    run.adapter(run.folder / name, run.folder / f"{name}_log.csv", made)
    return [name]


def all_updates(run: Run) -> int:
    """The updates of SFT and of all rounds of IPR."""
    run.sft()
    return run.spent(["sft"])["updates"] + run.config.iterations * run.config.updates


SFT = Method("sft", "clone the demonstrations", sft, "#e69f00", "o", from_base=True, stage="sft")
SFT_LONG = Method("sft-long", "the same, for as many updates as IPR", sft_long, "#d55e00", "v", from_base=True)
SFT_CAREFUL = Method(
    "sft-careful",
    "clone people without habits: is it the habit that costs?",
    sft_careful,
    "#117733",
    "^",
    from_base=True,
)
