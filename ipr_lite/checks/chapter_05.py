"""Pairs: the action alone."""

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
