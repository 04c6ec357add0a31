"""MPO, Meta Plan Optimization (Xiong et al., Findings of EMNLP 2025): the agent stays as it is, and a planner is trained.

1. A planner learns to write a plan from the task alone: the outlines of the demonstrations (the paper: by GPT-4o).
2. For each training task it writes `PLANS` plans; the agent plays the task N times with each. Q(plan) = mean reward.
3. The plan of the highest Q is preferred to that of the lowest: a round of DPO on the planner, with IPR's SFT term.

The plan stands in the instruction; mpo-thought puts the same plan where the agent's own first thought would be. The
paper's agents can read a plan; ours learns it when it is cloned, once, from demonstrations that have their own outline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ipr_lite.methods import advice
from ipr_lite.methods.eto import contrasted
from ipr_lite.methods.explored import in_turns, rounds, total
from ipr_lite.methods.method import Method, kept, prepared, shared
from ipr_lite.methods.outline import Outlines
from ipr_lite.records import Message, Pair, Task, Trajectory
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Log, Run, Weights

PLANS = 5
SYSTEM = "You are a planner. Reply with a Plan for the agent."


def planning(messages: list[Message]) -> list[Message]:
    """What the planner is shown of a conversation: the task."""
    return advice.asked(SYSTEM, messages[1]["content"])


def roles(run: Run) -> tuple[Weights, Weights]:
    """The planner before it is trained, and the agent who reads plans."""
    demonstrations = run.demonstrations()
    outlines = Outlines(run.env, demonstrations)
    plans = [advice.line_of("Plan", outlines.of(t)) for t in demonstrations]
    both = list(zip(demonstrations, plans, strict=True))
    written = [(t, [*planning(t.messages), {"role": "assistant", "content": plan}]) for t, plan in both]
    read = [(t, advice.below(t.messages, plan)) for t, plan in both]
    return advice.role(run, "mpo-planner", written, advice.WRITER), advice.role(run, "mpo-agent", read)


def mpo(run: Run) -> list[str]:
    """The planner after every round."""
    planner, agent = roles(run)

    def learn(number: int, weights: Weights) -> tuple[Weights, Log]:
        def play(tasks: list[Task], turn: int) -> tuple[list[Pair], dict[str, int]]:
            return compared(run, weights, agent, tasks, f"mpo-{number} {turn}")

        pairs, spent = in_turns(run, number, play)
        return contrasted(run, "mpo", number, pairs, weights, spent, w_sft=run.config.w_sft)

    return rounds(run, "mpo", learn, planner)


def compared(run: Run, planner: Weights, agent: Weights, tasks: list[Task], name: str) -> tuple[list[Pair], dict]:
    """Of every task the best plan over the worst, if their Q differ; and what that cost."""
    starts = [run.start(task, stable_seed(run.config.seed, name, task.id)) for task in tasks]
    shown = [replace(start, messages=planning(start.messages)) for start in starts]
    plans, asked = advice.write(run, planner, name, shown, PLANS)
    tries, acted = advice.tried(run, agent, name, starts, plans)
    pairs = [
        advice.preferred(start.messages, each, run.config.tau_outcome, start.task.id)
        for start, each in zip(shown, tries, strict=True)
    ]
    return [pair for pair in pairs if pair], total(asked, acted)


def in_thought(messages: list[Message], plan: str) -> list[Message]:
    """The plan as what the agent has thought already."""
    return [*messages, {"role": "assistant", "content": f"Thought: {plan}"}, {"role": "user", "content": "Go on."}]


def planned(place: Callable, run: Run, agent: str, split: str) -> list[Trajectory]:
    """`Method.play`: the planner's likeliest plan, put in place, then the agent's greedy episode; kept in the run's folder."""

    def play() -> list[Trajectory]:
        planner = run.load(run.folder / agent.replace("mpo-thought", "mpo").replace("mpo-sft", "mpo-planner"))
        starts = [run.start(task, 0) for task in run.tasks(split)]
        shown = [replace(start, messages=planning(start.messages)) for start in starts]
        plans, _ = advice.write(run, planner, agent, shown, temperature=0.0)
        return advice.act(
            run, run.load(run.folder / "mpo-agent"), agent, starts, [plan for (plan,) in plans], 0.0, place
        )[0]

    return kept(run, agent, split, play)


INSTRUCTED, THOUGHT = partial(planned, advice.below), partial(planned, in_thought)
ROLES = "mpo-planner", "mpo-agent"
MPO = Method(
    "mpo", "plans that served the frozen agent well", mpo, "#b8860b", "$m$", INSTRUCTED, from_base=True, roles=ROLES
)
MPO_THOUGHT = Method(
    "mpo-thought", "the same plans, as the agent's thought", shared("mpo-thought", "mpo", mpo), "#d9b866", "$t$", THOUGHT,
    from_base=True, stage="mpo/{round}", roles=ROLES,
)  # fmt: skip
MPO_SFT = Method(
    "mpo-sft", "plans cloned from demonstrations", prepared("mpo-sft", roles), "#7a5c00", "$p$", INSTRUCTED,
    from_base=True, roles=ROLES,
)  # fmt: skip
