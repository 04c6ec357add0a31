"""Choose what to learn from: the highest share of steps, and what a branch is worth when length costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right
from ipr_lite.methods.atlas import highest


def critical_steps(choose: Callable[[list[list[float]], float], list[set[int]]]) -> None:
    """Notebook 14: of each demonstration, the steps among the highest of all."""
    cases = (([[0.1, 0.5, 0.0], [0.4, 0.3]], 0.4), ([[0.0, -0.2], [0.1, 0.6, 0.2], [0.5]], 0.5))
    for worth, share in cases:
        found = attempt(choose, [list(one) for one in worth], share)
        if found is NOTHING:
            return
        truth, shown = highest(worth, share), f"{worth}, share {share}: you gave {found}"
        if len(found) != len(worth):
            raise WrongAnswer(f"{shown}; one set of steps for each of the {len(worth)} demonstrations, empty ones too")
        found = [set(one) for one in found]
        if found == truth:
            continue
        if found == [{step - 1 for step in one} for one in truth]:
            raise WrongAnswer(f"{shown}; steps count from 1, as in the paper's t")
        if found == [highest([one], share)[0] for one in worth]:
            raise WrongAnswer(
                f"{shown}; that is the share of each demonstration: one may hold no critical step, another many"
            )
        if found == highest([[-c for c in one] for one in worth], share):
            raise WrongAnswer(f"{shown}; those are the lowest")
        raise WrongAnswer(
            f"{shown}; {share:.0%} of {sum(map(len, worth))} steps, the highest of all demonstrations together"
        )
    say_right("all steps stand in one ranking, so that a demonstration without a decision in it teaches nothing")


def branch_values(value: Callable[[Sequence[tuple[str, float, int]], float, int], Mapping[str, float]]) -> None:
    """Notebook 14: by first action, the mean of outcome less length / most * cost."""
    tries = [("a", 1.0, 4), ("b", 0.5, 2), ("a", 0.0, 10), ("b", 0.5, 3)]
    for cost, most in ((0.4, 10), (1.0, 20)):
        found = attempt(value, list(tries), cost, most)
        if found is NOTHING:
            return
        each = {name: [(reward, steps) for first, reward, steps in tries if first == name] for name in "ab"}
        truth = {name: fmean(r - cost * steps / most for r, steps in some) for name, some in each.items()}
        shown = f"tries {tries}, cost {cost}, most {most}: you gave {dict(found)}"
        if set(found) != set(truth):
            raise WrongAnswer(f"{shown}; a value for each first action: {sorted(truth)}")

        def close(other: Mapping[str, float], found: Mapping[str, float] = found) -> bool:
            return all(math.isclose(found[name], other[name], abs_tol=1e-6) for name in other)

        if close(truth):
            continue
        if close({name: fmean(r for r, _ in some) for name, some in each.items()}):
            raise WrongAnswer(f"{shown}; that is the outcome alone: length costs {cost} for {most} actions")
        if close({name: max(r - cost * steps / most for r, steps in some) for name, some in each.items()}):
            raise WrongAnswer(
                f"{shown}; that is the best try: one lucky try does not make a branch good, take the mean"
            )
        if close({name: fmean(r - cost * steps for r, steps in some) for name, some in each.items()}):
            raise WrongAnswer(f"{shown}; the cost is for all {most} actions, not for each: steps / most")
        raise WrongAnswer(f"{shown}; the mean of outcome - {cost} * steps / {most} over the tries that begin alike")
    say_right("two branches of one outcome differ when one takes longer")
