"""The critic of ACC-Collab (`acc_collab.py`): what it is shown, and how actor and critic play together."""

from __future__ import annotations

from dataclasses import replace

from ipr_lite.methods import advice
from ipr_lite.methods.method import kept
from ipr_lite.methods.outline import Outlines
from ipr_lite.records import Message, Trajectory
from ipr_lite.run import Run, Weights

SYSTEM = "You are a critic. Read the attempt and reply with a Comment for the agent."
NONE = advice.line_of("Comment", [])


def prompt(outlines: Outlines, messages: list[Message], attempt: Trajectory) -> list[Message]:
    """What the critic is shown: the task, and the outline of the attempt."""
    told = advice.line_of("Attempt", outlines.of(attempt))
    return advice.asked(SYSTEM, f"{messages[1]['content']}\n{told}")


def after(run: Run, agent: str) -> tuple[Weights, ...]:
    """Both after as many rounds as the agent's name says; without a number, or with 0, as cloned."""
    number = int(agent[-1]) if agent[-1].isdigit() else 0
    names = (str(number), f"critic-{number}") if number else ("actor", "critic")
    return tuple(run.load(run.folder / f"acc-collab-{name}") for name in names)


def first(run: Run, agent: str, split: str) -> list[Trajectory]:
    """`Method.play`: the actor's greedy episodes without a comment, on which the critic comments."""
    own = agent.replace("-first", "")

    def play() -> list[Trajectory]:
        starts = [run.start(task, 0) for task in run.tasks(split)]
        return advice.act(run, after(run, own)[0], own, starts, [NONE] * len(starts), 0.0)[0]

    return kept(run, f"{own}-first", split, play)


def together(run: Run, agent: str, split: str) -> list[Trajectory]:
    """`Method.play`: the actor's second episodes, after the critic's likeliest comment on its first, all greedy."""

    def play() -> list[Trajectory]:
        (actor, critic), told = after(run, agent), Outlines(run.env, run.demonstrations())
        both = [(run.start(t.task, 0), t) for t in first(run, agent, split)]
        shown = [replace(start, messages=prompt(told, start.messages, t)) for start, t in both]
        comments, _ = advice.write(run, critic, agent, shown, temperature=0.0)
        return advice.act(run, actor, agent, [start for start, _ in both], [one for (one,) in comments], 0.0)[0]

    return kept(run, agent, split, play)
