"""AgentRefine (Fu et al., ICLR 2025): demonstrations with wrong turns in them, which are read and not learned.

Before `SHARE` of a demonstration's steps comes a wrong turn: an action that the world refuses there. The world complains,
and the demonstrator's own action corrects it. The loss is on the corrections alone; `agentrefine-unmasked` clones the wrong
turns too. What it should be good for is a world with other words (`envs/renamed.py`).

The paper's episodes are invented whole, world and all, by an LLM; here a wrong turn is an action of another demonstration.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ipr_lite.envs.base import TextEnv
from ipr_lite.methods.method import Method
from ipr_lite.methods.sft import cloned
from ipr_lite.records import Message, Trajectory
from ipr_lite.rollout import stable_seed, take
from ipr_lite.run import Run

SHARE = 0.3
TRIES = 20
"""So many actions are tried, at most, until the world refuses one."""


def refined(name: str, weight: int, run: Run) -> list[str]:
    """SFT from the base, for as many updates as SFT takes; `weight`: of the wrong turns."""

    def clone():
        demonstrations = run.demonstrations()
        states = run.states(demonstrations)
        actions = [action for t in demonstrations for action in t.actions]
        told = [with_wrong_turns(t, states[t.key], actions, weight, run.config.seed) for t in demonstrations]
        return run.clone(told, run.spent(["sft"])["updates"])

    run.sft()
    return cloned(run, name, clone)


def with_wrong_turns(
    trajectory: Trajectory, states: Sequence[TextEnv], actions: Sequence[str], weight: int, seed: int
) -> Trajectory:
    """A demonstration with wrong turns of this weight; `states`: the world before each of its steps."""
    rng = random.Random(stable_seed(seed, "wrong turns", trajectory.key))
    messages: list[Message] = trajectory.prefix(1)
    for step, before in enumerate(states, start=1):
        if rng.random() < SHARE and (refusal := refused(before, trajectory, step, actions, rng)):
            message, complaint = refusal
            messages.append({"role": "assistant", "content": message, "weight": weight})
            messages.append({"role": "user", "content": complaint})
        last = step == len(states)
        messages += trajectory.suffix(step) if last else trajectory.suffix(step)[:2]
    return replace(trajectory, messages=messages)


def refused(
    before: TextEnv, trajectory: Trajectory, step: int, actions: Sequence[str], rng: random.Random
) -> tuple[str, str] | None:
    """An action that the world refuses here, and what it says to that; None where `TRIES` find none.

    The demonstrator's own action then does what it did without it: observation, reward, and whether that ends the episode.
    """

    def answer(env: TextEnv) -> tuple[str, float, bool]:
        return take(env, trajectory.task, step, trajectory.actions[step - 1])[:3]

    own = answer(before.clone())
    for message in rng.choices(actions, k=TRIES):
        env = before.clone()
        complaint, _, terminated, truncated, info = take(env, trajectory.task, step, message)
        if info["invalid"] and not (terminated or truncated) and answer(env) == own:
            return message, complaint
    return None


REFINE = Method(
    "agentrefine", "wrong turns, read and corrected", partial(refined, "agentrefine", 0), "#4b0082", "$r$",
    from_base=True,
)  # fmt: skip
REFINE_UNMASKED = Method(
    "agentrefine-unmasked", "wrong turns, cloned too", partial(refined, "agentrefine-unmasked", 1), "#9370db", "$u$",
    from_base=True,
)  # fmt: skip
