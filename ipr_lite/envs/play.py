"""A person plays in the terminal: the same world, the same texts, and a careful expert to ask."""

from __future__ import annotations

import copy
from collections.abc import Callable

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.people import Person
from ipr_lite.trajectory import Task

HELP = (
    "Type an action as an agent would write it after `Action:`. Or: hint (what a careful person would do), help, quit."
)


def play(
    env: TextEnv, task: Task, guide: Person, ask: Callable[[str], str], tell: Callable[[str], None]
) -> float | None:
    """One episode. The outcome reward, or None where the player left before the end.

    ask(prompt): the player's next line; raises EOFError or KeyboardInterrupt to leave. tell(text):
    shows a text. guide: whose action `hint` shows; it follows what is played.
    """
    observation, _ = env.reset(options={"task": task})
    tell(env.messages(observation, task)[0]["content"])
    tell(HELP)
    tell(observation)
    for turn in range(1, env.max_steps + 1):
        expert = copy.deepcopy(guide)
        advice = env.parse(expert.act(observation))
        while True:
            try:
                line = ask(f"[{turn}/{env.max_steps}] action> ").strip()
            except (EOFError, KeyboardInterrupt):
                line = "quit"
            if line == "quit":
                tell("left before the end: no reward")
                return None
            if line not in ("", "hint", "help"):
                break
            tell(f"a careful person would now: {advice}" if line == "hint" else HELP)
        message = env.message(line)
        action = env.parse(message)
        if action == advice:
            guide = expert
        else:
            guide.did(action or line)
        observation, reward, terminated, truncated, info = env.step(message)
        tell(observation)
        if info["invalid"]:
            tell("(the world did not take this; it costs a step)")
        if terminated or truncated:
            break
    tell(f"reward {reward:.3f} after {turn} steps" + (" (success)" if info["success"] else ""))
    return reward
