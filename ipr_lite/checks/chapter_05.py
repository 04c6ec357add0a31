"""Pairs: the action alone, a setting for a budget, a one-sided set."""

from __future__ import annotations

import copy
from collections.abc import Callable

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right
from ipr_lite.records import Pair


def action_only(shorten: Callable) -> None:
    """Notebook 05: `shorten(pair)` contrasts the action at t alone, not the suffix from t."""

    def said(*texts: str) -> list[dict[str, str]]:
        roles = ("assistant", "user")
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]

    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "o1"}]
    chosen, rejected = said("a", "o2", "b", "o3", "c"), said("x", "o2", "y")
    step = Pair([*prompt, *said("a1", "o1b")], chosen, rejected, "step", "t", 2, 0.9, 0.4, 1.0, 0.5)
    whole = Pair(prompt, chosen, rejected, "outcome", "t", 1, None, None, 1.0, 0.5)
    before = copy.deepcopy(step)
    short = attempt(shorten, step)
    if short is NOTHING:
        return
    if not isinstance(short, Pair):
        raise WrongAnswer(f"you gave a {type(short).__name__}; give a Pair (dataclasses.replace makes a changed copy)")
    for side in ("chosen", "rejected"):
        if not isinstance(getattr(short, side), list):
            raise WrongAnswer(f"a step pair: {side} is no list; give a list that holds one message")
        if getattr(short, side) != getattr(before, side)[:1]:
            kept = [message["content"] for message in getattr(short, side)]
            raise WrongAnswer(
                f"a step pair: {side} holds {kept}; only the first action may stay, without its observation"
            )
    if (short.prompt, short.kind, short.chosen_reward) != (before.prompt, "step", 0.9):
        raise WrongAnswer("a step pair: prompt, kind and rewards must stay as they were")
    if step != before:
        raise WrongAnswer("the pair that you were given has changed; make a changed copy instead")
    if shorten(whole).to_record() != whole.to_record():
        raise WrongAnswer("an outcome pair compares whole trajectories: it must stay as it is")
    say_right("step pairs are one action long, outcome pairs are untouched")


def best_setting(choose: Callable[[list[dict], int, float], tuple[int, float]]) -> None:
    """Notebook 05: the (n, tau) with the most right pairs for so many rollouts, at most `limit` of them wrong."""
    rows = [
        (1, 0.01, 0.80, 0.20),
        (1, 0.02, 0.82, 0.24),
        (1, 0.35, 0.50, 0.09),
        (5, 0.01, 0.90, 0.06),
        (5, 0.35, 0.55, 0.02),
        (20, 0.01, 0.95, 0.03),
    ]
    table = [dict(zip(("n", "tau", "built", "wrong"), row, strict=True)) for row in rows]
    for limit in (0.25, 0.10, 0.06, 0.03, 0.02):
        found = attempt(choose, copy.deepcopy(table), 1200, limit)
        if found is NOTHING:
            return
        allowed = [row for row in table if row["wrong"] <= limit]

        def right_pairs(row: dict) -> float:
            return 1200 / (2 * row["n"]) * row["built"] * (1 - row["wrong"])

        best = max(allowed, key=right_pairs)
        shown = f"limit {limit:.0%}, 1,200 rollouts: you chose {found}"
        try:
            n, tau = found
        except (TypeError, ValueError):
            raise WrongAnswer(f"{shown}; give two numbers, n and tau, of one row") from None
        if (n, tau) == (best["n"], best["tau"]):
            continue
        mine = next((row for row in table if (row["n"], row["tau"]) == (n, tau)), None)
        if mine is None:
            raise WrongAnswer(f"{shown}; no row of the table has these two")
        if mine["wrong"] > limit:
            raise WrongAnswer(f"{shown}; {mine['wrong']:.0%} of its pairs are wrong, which is over the limit")
        if mine is max(allowed, key=lambda row: row["built"]):
            raise WrongAnswer(
                f"{shown}; it builds most pairs per contrast, but scores few contrasts: one costs 2n rollouts"
            )
        raise WrongAnswer(f"{shown}; it gives {right_pairs(mine):.0f} right pairs, another row more")
    say_right("most right pairs for the rollouts, within the limit")


def one_sided(find: Callable[[list[tuple[str, str]], float], list[str]]) -> None:
    """Notebook 05: kinds of action rejected in more than `limit` of the pairs and chosen in none, sorted."""
    cases = [
        ([("option", "buy"), ("item", "buy"), ("item", "item")], 0.5, ["buy"]),
        ([("option", "buy"), ("buy", "option"), ("item", "buy")], 0.5, []),
        ([("option", "buy"), ("item", "item"), ("item", "back")], 0.3, ["back", "buy"]),
        ([("option", "buy"), ("option", "item")], 0.5, []),
    ]
    for firsts, limit, expected in cases:
        found = attempt(find, list(firsts), limit)
        if found is NOTHING:
            return
        shown = f"{firsts}, limit {limit}"
        try:
            found = list(found)
        except TypeError:
            raise WrongAnswer(f"{shown}: you gave a {type(found).__name__}; give a sorted list of kinds") from None
        chosen, rejected = zip(*firsts, strict=True)
        for name in found:
            if name in chosen:
                raise WrongAnswer(f"{shown}: {name!r} is chosen in a pair, so the set is not one-sided about it")
            if rejected.count(name) <= limit * len(firsts):
                raise WrongAnswer(
                    f"{shown}: {name!r} is rejected in {rejected.count(name)} of {len(firsts)} pairs, not more than the limit"
                )
        missing = [name for name in expected if name not in found]
        if missing:
            raise WrongAnswer(f"{shown}: {missing[0]!r} is missing: rejected often enough, chosen never")
        if found != expected:
            raise WrongAnswer(f"{shown}: you gave {found}; each kind once, sorted")
    say_right("a kind that many pairs reject and none chooses")
