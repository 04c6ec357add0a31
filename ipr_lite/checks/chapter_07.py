"""A round: random preferences, exactly half of each kind."""

from __future__ import annotations

import copy
from collections.abc import Callable

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right
from ipr_lite.records import Pair


def balanced(control: Callable[[list[Pair], int], list[Pair]]) -> None:
    """Notebook 07: exactly half of each kind (rounded down) turned round, at random by the seed, in order."""
    pairs = [_pair(number, "outcome" if number % 3 == 0 else "step") for number in range(31)]
    before = copy.deepcopy(pairs)
    found = attempt(control, list(pairs), 0)
    if found is NOTHING:
        return
    if not isinstance(found, list) or len(found) != len(pairs) or [p.id for p in found] != [p.id for p in pairs]:
        raise WrongAnswer("give a list of all pairs in the order they came in, flipped or not")
    if pairs != before:
        raise WrongAnswer("the pairs that you were given have changed; `flipped` makes a changed copy")
    turned = [new.chosen != old.chosen for new, old in zip(found, before, strict=True)]
    for new, old, flip in zip(found, before, turned, strict=True):
        if flip and (new.chosen, new.rejected, new.chosen_outcome) != (old.rejected, old.chosen, old.rejected_outcome):
            raise WrongAnswer(f"pair {old.id}: half turned round; `flipped` exchanges texts, step rewards and outcomes")
    for kind in ("outcome", "step"):
        of_kind = [flip for flip, pair in zip(turned, before, strict=True) if pair.kind == kind]
        if sum(of_kind) != len(of_kind) // 2:
            raise WrongAnswer(
                f"{sum(of_kind)} of {len(of_kind)} {kind} pairs are turned round, not {len(of_kind) // 2}: draw within each kind"
            )
    if control(list(pairs), 0) != found:
        raise WrongAnswer(
            "the same seed gave another choice: draw from random.Random(seed), not from the global generator"
        )
    if all(control(list(pairs), seed) == found for seed in range(1, 6)):
        raise WrongAnswer("the seeds 0 to 5 turn round the same pairs: which ones must depend on the seed")
    say_right("half of each kind, by the seed")


def _pair(number: int, kind: str) -> Pair:
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "o"}]
    sides = [[{"role": "assistant", "content": f"{side} {number}"}] for side in ("good", "bad")]
    rewards = (None, None) if kind == "outcome" else (0.9, 0.4)
    return Pair(prompt, *sides, kind, f"t{number}", 1, *rewards, 1.0, 0.5)
