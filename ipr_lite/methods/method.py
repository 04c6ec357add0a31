"""What the comparison knows of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ipr_lite.records import Trajectory, read_trajectories, write_trajectories
from ipr_lite.run import Run


def greedy(run: Run, agent: str, split: str) -> list[Trajectory]:
    """Greedy episodes of an agent on the tasks of a split."""
    return run.evaluate(agent, split)


def kept(run: Run, name: str, split: str, play: Callable[[], list[Trajectory]]) -> list[Trajectory]:
    """Episodes on a split that are played otherwise than greedily, kept in the run's folder under this name."""
    path = run.folder / "evaluations" / f"{name}-{split}.jsonl"
    return run.keep(path, play, read_trajectories, write_trajectories)


def prepared(name: str, make: Callable[[Run], object] = Run.sft) -> Callable[[Run], list[str]]:
    """`Method.train` of an agent of no rounds, with nothing to train but what `make` does."""

    def train(run: Run) -> list[str]:
        make(run)
        return [name]

    return train


def shared(name: str, other: str, train: Callable[[Run], list[str]]) -> Callable[[Run], list[str]]:
    """`Method.train` of a row that plays another method's agents in its own way: the same agents, under its own name."""
    return lambda run: [agent.replace(other, name) for agent in train(run)]


@dataclass(frozen=True)
class Method:
    """A way to get an agent, and how it is drawn.

    train: trains what the run lacks and names its agents, one for each round, whose adapters are kept in the run's
    folder (`Run.agent`); an agent with the method's own name is one of no rounds. play: episodes of such an agent on a
    split. stage: where budget.json tells what round {} has spent. from_base: SFT is no part of it. roles: other adapters
    that are cloned before round 1. about: one line.
    """

    name: str
    about: str
    train: Callable[[Run], list[str]]
    colour: str
    marker: str = "o"
    play: Callable[[Run, str, str], list[Trajectory]] = greedy
    from_base: bool = False
    stage: str = "{name}/{round}"
    roles: tuple[str, ...] = ()

    def spent(self, rounds: int) -> list[str]:
        """The stages that an agent of this method has cost, after so many rounds."""
        own = [self.stage.format(name=self.name, round=number) for number in range(1, max(rounds, 1) + 1)]
        own = [*(f"{role}/clone" for role in self.roles), *own]
        return own if self.from_base else ["sft", *own]
