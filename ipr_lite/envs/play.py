"""A person plays in the terminal: the same world, the same texts, and a careful person to ask."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.people import Person
from ipr_lite.records import Task

HELP = (
    "Type an action alone, without `Action:` or ```sql (search[tea], SHOW TABLES, go to bed 1). "
    "Or: hint (what a careful person would do), help, quit."
)


def play(
    env: TextEnv,
    task: Task,
    guide: Callable[[Task, TextEnv], Person],
    ask: Callable[[str], str],
    tell: Callable[[str], None],
) -> float | None:
    """One episode. The outcome reward, or None where the player left before the end.

    guide: a careful person at the beginning of the task, whose next action `hint` shows. ask(prompt): the player's
    next line; raises EOFError or KeyboardInterrupt to leave. tell(text): shows a text.
    """
    try:
        return _episode(env, task, guide, ask, tell)
    except (EOFError, KeyboardInterrupt):
        tell("left before the end: no reward")
        return None


def _episode(env, task, guide, ask, tell) -> float:
    observation, _ = env.reset(options={"task": task})
    tell(env.messages(observation, task)[0]["content"])
    tell(HELP)
    tell(observation)
    played, over = [], False
    while not over:
        prompt = f"[{len(played) + 1}/{env.max_steps}] action> "
        while (line := ask(prompt).strip()) in ("", "hint", "help"):
            tell(_hint(env, lambda: guide(task, env), played, observation) if line == "hint" else HELP)
        if line == "quit":
            raise EOFError
        message = env.message(line)
        played.append((observation, env.parse(message) or line))
        observation, reward, terminated, truncated, info = env.step(message)
        tell(observation)
        if info["invalid"]:
            tell("(the world did not take this; it costs a step)")
        over = terminated or truncated
    tell(f"reward {reward:.3f} after {len(played)} steps" + (" (success)" if info["success"] else ""))
    return reward


def _hint(env: TextEnv, guide: Callable[[], Person], played: Sequence[tuple[str, str]], observation: str) -> str:
    """What a person would do now who has read every observation, and done or seen every action."""
    try:
        person = guide()
        for read, action in played:
            own = copy.deepcopy(person)
            if env.parse(own.act(read)) == action:
                person = own
            else:
                person.did(read, action)
        return f"a careful person would now: {env.parse(person.act(observation))}"
    except Exception as error:  # whatever the data hold, the game goes on
        return f"no hint here: {type(error).__name__}: {error}"
