"""Two roles, one base: a writer puts a line of advice under the task, and an actor acts with it in view.

Both are adapters. What MPO (`mpo.py`) and ACC-Collab (`acc_collab.py`) share: who writes the
line (of `outline.py`'s words, at first), where it stands, and what it is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from ipr_lite.methods.explored import cost
from ipr_lite.records import Message, Pair, Trajectory
from ipr_lite.rollout import Episode, stable_seed
from ipr_lite.run import Log, Run, Weights

WRITER = 4
"""Doses of SFT that a writer gets: it learns a form that the base has never seen, from one short line a demonstration. Of
1, 4 and 8 doses for MPO's planner, 4 gave the agent most on dev (.268, .514 and .469; 60 tasks, shop, one seed)."""


def line_of(word: str, actions: Sequence[str]) -> str:
    """`Plan: search[...]; click[it]; ...`: a line of advice."""
    return f"{word}: {'; '.join(actions) or 'nothing'}"


def asked(system: str, observation: str) -> list[Message]:
    """What the writer is shown."""
    return [{"role": "system", "content": system}, {"role": "user", "content": observation}]


def below(messages: list[Message], line: str) -> list[Message]:
    """A conversation with a line of advice under its first observation."""
    return [m | {"content": f"{m['content']}\n{line}"} if i == 1 else m for i, m in enumerate(messages)]


def write(
    run: Run, weights: Weights, name: str, starts: Sequence[Episode], n: int = 1, temperature: float = 1.0
) -> tuple[list[list[str]], dict[str, int]]:
    """For each of these conversations `n` lines by the writer of these weights; and what that cost."""
    player = run.player(weights, temperature, name)
    each = [replace(s, seed=stable_seed(s.seed, i), stop=lambda message: True) for s in starts for i in range(n)]
    turns = player.play(each, run.bar(name))
    # The line goes into a prompt, whatever a model wrote: one line, no more.
    lines = [t.actions[-1].partition("\n")[0] if t.actions else "" for t in turns]
    # A line is no action in the world.
    return [lines[i : i + n] for i in range(0, len(lines), n)], cost(player) | {"env_steps": 0}


def act(
    run: Run, weights: Weights, name: str, starts: Sequence[Episode], lines: Sequence[str], temperature: float = 1.0,
    place: Callable[[list[Message], str], list[Message]] = below,
) -> tuple[list[Trajectory], dict[str, int]]:  # fmt: skip
    """The actor's episodes, each with its line of advice in place; and what that cost."""
    player = run.player(weights, temperature, name)
    told = [replace(start, messages=place(start.messages, line)) for start, line in zip(starts, lines, strict=True)]
    return player.play(told, run.bar(name)), cost(player)


def tried(
    run: Run, weights: Weights, name: str, starts: Sequence[Episode], lines: Sequence[Sequence[str]]
) -> tuple[list[dict[str, list[Trajectory]]], dict[str, int]]:
    """Of each start N sampled episodes with each of its different lines, by line; and what that cost."""
    tries = [
        (i, line, run.start(start.task, stable_seed(start.seed, line, sample)))
        for i, (start, some) in enumerate(zip(starts, lines, strict=True))
        for line in dict.fromkeys(some)
        for sample in range(run.config.samples)
    ]
    played, spent = act(run, weights, name, [start for *_, start in tries], [line for _, line, _ in tries])
    found: list[dict[str, list[Trajectory]]] = [{} for _ in starts]
    for (i, line, _), trajectory in zip(tries, played, strict=True):
        found[i].setdefault(line, []).append(trajectory)
    return found, spent


def preferred(prompt: list[Message], tries: dict[str, list[Trajectory]], gap: float, id: str) -> Pair | None:
    """The line whose episodes bring most over the one whose bring least, on average, if by more than `gap`; else None."""
    values = {line: fmean(t.reward for t in some) for line, some in tries.items()}
    best, worst = max(values, key=values.get), min(values, key=values.get)
    if values[best] - values[worst] <= gap:
        return None
    sides = ([{"role": "assistant", "content": line}] for line in (best, worst))
    return Pair(prompt, *sides, "outcome", id, 1, chosen_outcome=values[best], rejected_outcome=values[worst])


def role(run: Run, name: str, conversations: Sequence[tuple[Trajectory, list[Message]]], doses: int = 1) -> Weights:
    """A writer or an actor: cloned from the base on these conversations, for `doses` times the updates of SFT."""

    def made() -> tuple[Weights, Log]:
        told = [replace(t, messages=messages) for t, messages in conversations]
        run.sft()
        weights, log = run.clone(told, doses * run.spent(["sft"])["updates"])
        run.spend(f"{name}/clone", updates=len(log))
        return weights, log

    return run.adapter(run.folder / name, run.folder / f"{name}_log.csv", made)
