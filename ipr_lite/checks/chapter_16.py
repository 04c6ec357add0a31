"""Policy gradients: advantages within a group, and a page that hides a state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right
from ipr_lite.envs.base import TextEnv
from ipr_lite.methods.grpo import relative
from ipr_lite.records import Task


def group_advantages(advantages: Callable[[Sequence[float]], Sequence[float]]) -> None:
    """Notebook 16: of each episode of a group, from the group's outcomes."""
    for outcomes in ([1.0, 0.0, 0.0, 1.0], [0.5, 0.75, 0.5, 0.5, 0.0], [0.4, 0.4, 0.4], [0.0] * 7 + [1.0]):
        found = attempt(advantages, list(outcomes))
        if found is NOTHING:
            return
        found, truth = [float(a) for a in found], relative(outcomes, ["one group"] * len(outcomes))
        shown = f"outcomes {outcomes}: you gave {[round(a, 3) for a in found]}"
        if len(found) != len(outcomes):
            raise WrongAnswer(f"{shown}; one advantage for each of {len(outcomes)} episodes")
        if all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(found, truth, strict=True)):
            continue
        if any(map(math.isnan, found)):
            raise WrongAnswer(f"{shown}; where all end alike the spread is 0: what did anybody do better?")
        centred = [r - fmean(outcomes) for r in outcomes]
        if all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(found, centred, strict=True)):
            raise WrongAnswer(f"{shown}; that is the distance from the mean: its unit is the group's spread")
        population = pstdev(outcomes)
        if population and all(
            math.isclose(a, c / population, abs_tol=1e-3) for a, c in zip(found, centred, strict=True)
        ):
            raise WrongAnswer(f"{shown}; divide the squares by n - 1: the mean was taken from the same outcomes")
        raise WrongAnswer(f"{shown}; outcome minus the group's mean, over the group's standard deviation")
    say_right("the group's mean is the baseline, its spread the unit; who all end alike teach nothing")


def same_page_other_state(twins: Callable[[], tuple[list[str], list[str]]], env: TextEnv, task: Task) -> None:
    """Notebook 16: two ways through the shop that end on equal pages in different states."""
    ways = attempt(twins)
    if ways is NOTHING:
        return
    if len(ways) != 2:
        raise WrongAnswer(f"two lists of actions are wanted, not {len(ways)}")
    seen = []
    for name, actions in zip(("first", "second"), ways, strict=True):
        world = env.clone()
        page, _ = world.reset(options={"task": task})
        for number, action in enumerate(actions, start=1):
            page, _, terminated, truncated, info = world.step(env.message(action))
            if info["invalid"]:
                raise WrongAnswer(f"the {name} way, action {number}: the shop does not accept {action!r} there")
            if terminated or truncated:
                raise WrongAnswer(f"the {name} way is over after action {number}: stop before the purchase")
        seen.append((page, world.state()))
    (page, state), (other_page, other_state) = seen
    if page != other_page:
        raise WrongAnswer(
            f"the pages differ: {page[:90]!r}... and {other_page[:90]!r}...; which click changes no letter?"
        )
    if state == other_state:
        raise WrongAnswer(
            "the pages are equal, and so are the states; what does the shop know that the page does not show?"
        )
    differ = sorted(name.lstrip("_") for name in state if state[name] != other_state[name])
    say_right(f"equal pages, and the shop knows a difference: {', '.join(differ)}")
