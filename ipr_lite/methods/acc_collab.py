"""ACC-Collab (Estornell et al., ICLR 2025): an actor and a critic, trained in turn for what they reach together.

The actor plays a task; the critic reads what it did and writes a comment; the actor plays again with the comment in view.
Each round, from the training tasks:

1. For each task the critic writes `COMMENTS` comments, and two are guided: what the demonstrator did and the actor did not,
   and the same of another task, which leads astray.
2. A comment is worth the mean outcome of N second tries with it; the best over the worst trains the critic by DPO.
3. Under each comment the best second try over the worst trains the actor.

Both learn their part from the demonstrations first: `acc-collab-sft`. The paper's answer questions, for several turns;
its actor is guided, too, and samples with the critic already trained.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ipr_lite.methods import advice
from ipr_lite.methods.critic import NONE, after, first, prompt, together
from ipr_lite.methods.eto import contrasted
from ipr_lite.methods.explored import best_over_worst, in_turns, rounds, total
from ipr_lite.methods.method import Method, prepared, shared
from ipr_lite.methods.outline import Outlines
from ipr_lite.records import Task, read_trajectories, write_trajectories
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Log, Run, Weights

COMMENTS = 3
GAP = 0.25
"""A pair's sides must differ by more than this in worth (the paper: half of a right answer)."""


def roles(run: Run) -> tuple[Weights, Weights]:
    """Actor and critic before they are trained: cloned from the demonstrations, beside what the SFT policy does."""
    demonstrations, path = run.demonstrations(), run.folder / "acc-collab-attempts.jsonl"
    play = partial(run.play, [t.task for t in demonstrations], run.sft(), "sft")
    attempts = run.keep(path, play, read_trajectories, write_trajectories)
    both, told = list(zip(demonstrations, attempts, strict=True)), Outlines(run.env, demonstrations)
    comments = [advice.line_of("Comment", told.lacking(attempt, t)) for t, attempt in both]
    written = [
        (t, [*prompt(told, t.messages, attempt), {"role": "assistant", "content": comment}])
        for (t, attempt), comment in zip(both, comments, strict=True)
    ]
    read = [(t, advice.below(t.messages, comment)) for t, comment in zip(demonstrations, comments, strict=True)]
    return advice.role(run, "acc-collab-actor", read), advice.role(run, "acc-collab-critic", written, advice.WRITER)


def acc_collab(run: Run) -> list[str]:
    """The actor after every round; its critic's adapter lies beside it."""

    def learn(number: int, actor: Weights) -> tuple[Weights, Log]:
        name, w_sft = f"acc-collab/{number}/critic", run.config.w_sft
        _, critic = after(run, f"acc-collab-{number - 1}")
        pairs, spent = in_turns(run, number, lambda tasks, turn: compared(run, actor, critic, tasks, f"{name} {turn}"))
        said, done = ([pair for role, pair in pairs if role == which] for which in ("critic", "actor"))
        folder = run.folder / f"acc-collab-critic-{number}"
        log = folder.with_name(f"{folder.name}_log.csv")
        run.adapter(folder, log, lambda: contrasted(run, name, number, said, critic, {}, w_sft=w_sft))
        return contrasted(run, "acc-collab", number, done, actor, spent, w_sft=w_sft)

    return rounds(run, "acc-collab", learn, roles(run)[0])


def compared(run: Run, actor: Weights, critic: Weights, tasks: list[Task], name: str) -> tuple[list, dict]:
    """The pairs of both roles on these tasks, each with its role; and what they cost."""
    better, told = {t.id: t for t in run.demonstrations()}, Outlines(run.env, run.demonstrations())
    starts = [run.start(task, stable_seed(run.config.seed, name, task.id)) for task in tasks]
    firsts, first = advice.act(run, actor, name, starts, [NONE] * len(starts))
    shown = [replace(s, messages=prompt(told, s.messages, t)) for s, t in zip(starts, firsts, strict=True)]
    comments, asked = advice.write(run, critic, name, shown, COMMENTS)
    for i, (task, attempt) in enumerate(zip(tasks, firsts, strict=True)):
        led = (told.lacking(attempt, better[other.id]) for other in (task, tasks[i - 1]))
        comments[i] += [advice.line_of("Comment", actions) for actions in led]
    tries, second = advice.tried(run, actor, name, starts, comments)
    found = [
        ("critic", advice.preferred(s.messages, each, GAP, s.task.id)) for s, each in zip(shown, tries, strict=True)
    ]
    found += [("actor", best_over_worst(again, GAP)) for each in tries for again in each.values()]
    return [(role, pair) for role, pair in found if pair], total(first, asked, second)


ROLES = "acc-collab-actor", "acc-collab-critic"
ACC = Method(
    "acc-collab", "a second try, after the critic's comment", acc_collab, "#8b0000", "$c$", together, roles=ROLES
)
ACC_FIRST = Method(
    "acc-collab-first", "its first try: is it the comment that helps?",
    shared("acc-collab-first", "acc-collab", acc_collab), "#e9967a", "$f$", first,
    stage="acc-collab/{round}", roles=ROLES,
)  # fmt: skip
ACC_SFT = Method(
    "acc-collab-sft", "the same, actor and critic as cloned", prepared("acc-collab-sft", roles), "#cd5c5c", "$s$",
    together, roles=ROLES,
)  # fmt: skip
