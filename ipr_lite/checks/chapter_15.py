"""Train the one who advises: which plan is preferred to which, and what a critic is taught to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right

Outcomes = Mapping[str, Sequence[float]]


def plan_pair(choose: Callable[[Outcomes, float], Sequence[str]]) -> None:
    """Notebook 15: the plan of the highest mean outcome and that of the lowest; nothing where they are too close."""
    cases: tuple[tuple[Outcomes, float], ...] = (
        ({"a": (1.0, 0.0, 0.2), "b": (0.5, 0.5, 0.8), "c": (0.3, 0.5, 0.4)}, 0.1),
        ({"a": (0.5, 0.5), "b": (0.25, 0.25)}, 0.25),
        ({"a": (0.5, 0.25, 0.75)}, 0.0),
    )
    for outcomes, gap in cases:
        found = attempt(choose, {plan: list(some) for plan, some in outcomes.items()}, gap)
        if found is NOTHING:
            return
        values = {plan: fmean(some) for plan, some in outcomes.items()}
        best, worst = max(values, key=values.get), min(values, key=values.get)
        truth = (best, worst) if values[best] - values[worst] > gap else ()
        found, shown = tuple(found), f"outcomes {dict(outcomes)}, gap {gap}: you gave {found!r}"
        if found == truth:
            continue
        if found == (worst, best):
            raise WrongAnswer(f"{shown}; that is (rejected, chosen): the better plan comes first")
        if not truth:
            raise WrongAnswer(f"{shown}; best and worst must differ by *more* than the gap, else an empty tuple")
        if not found:
            raise WrongAnswer(f"{shown}; the mean outcomes {values} differ by more than the gap")
        if found[0] == max(outcomes, key=lambda plan: max(outcomes[plan])):
            raise WrongAnswer(f"{shown}; one lucky episode does not make a plan good: compare means, {values}")
        raise WrongAnswer(f"{shown}; mean outcomes are {values}: (the highest, the lowest)")
    say_right("a plan is worth what the agent earns with it, on average, and a pair says which plan to prefer")


def guided_comment(lacking: Callable[[Sequence[str], Sequence[str]], Sequence[str]]) -> None:
    """Notebook 15: what a better episode did and an attempt did not, each action once, in order."""
    tried = ["search[lamp]", "click[it]", "click[buy now]"]
    cases = (
        (tried, ["search[red lamp]", "click[it]", "click[red]", "click[red]", "click[large]", "click[buy now]"]),
        ([*tried[:2], "click[features]"], tried),
        (tried, tried[::-1]),
    )
    for attempted, better in cases:
        found = attempt(lacking, list(attempted), list(better))
        if found is NOTHING:
            return
        truth = list(dict.fromkeys(action for action in better if action not in attempted))
        found, shown = list(found), f"attempt {attempted}, better {better}: you gave {list(found)}"
        if found == truth:
            continue
        if found == [action for action in attempted if action not in better]:
            raise WrongAnswer(f"{shown}; that is what the attempt did too much: a comment says what is lacking")
        if sorted(found) == sorted(truth):
            raise WrongAnswer(f"{shown}; in the order of the better episode (a set forgets it)")
        if list(dict.fromkeys(found)) == truth:
            raise WrongAnswer(f"{shown}; each action once")
        raise WrongAnswer(f"{shown}; what the better episode has and the attempt lacks: {len(truth)} actions")
    say_right("a comment that says what is lacking; where nothing lacks it says nothing")
