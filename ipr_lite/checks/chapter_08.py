"""Iterate: what rounds cost, when to stop, what the best of several noisy rounds seems to gain."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right, two_numbers

_ROUNDS = [
    {"explore": 249, "score": 59, "updates": 10},
    {"explore": 387, "score": 95, "updates": 12},
    {"explore": 410, "score": 30, "updates": 7},
]


def budget(spent: Callable[[int, list[dict[str, int]], int], tuple[int, int]]) -> None:
    """Notebook 08: `spent(sft_updates, rounds, r)` gives actions in the world and updates up to and including round r."""
    sft = 57
    for r in (2, 1, 3, 0):
        found = attempt(spent, sft, [dict(one) for one in _ROUNDS], r)
        if found is NOTHING:
            return
        shown = f"SFT with {sft} updates, then {len(_ROUNDS)} rounds; up to round {r}"
        actions, updates = two_numbers(found, int, shown, "actions, updates")
        right = _spent(sft, _ROUNDS[:r])
        if (actions, updates) == right:
            continue
        if (updates, actions) == right:
            raise WrongAnswer(f"{shown}: the two are swapped; actions in the world come first")
        slices = {
            f"that is round {r} alone; add up what came before it": _ROUNDS[max(r - 1, 0) : r],
            f"a round is missing: round {r} itself counts": _ROUNDS[: max(r - 1, 0)],
            "that is a round too many": _ROUNDS[: r + 1],
            "that is every round of the list": _ROUNDS,
        }
        if actions != right[0]:
            for why, rounds in slices.items():
                if actions == _spent(sft, rounds)[0]:
                    raise WrongAnswer(f"{shown}: you gave {actions} actions; {why}")
            for stage, other in (("explore", "scoring"), ("score", "exploring")):
                if actions == sum(one[stage] for one in _ROUNDS[:r]):
                    raise WrongAnswer(f"{shown}: you gave {actions} actions; {other} takes actions too")
            raise WrongAnswer(f"{shown}: you gave {actions} actions; add explore and score of all rounds up to {r}")
        if updates == right[1] - sft:
            raise WrongAnswer(f"{shown}: you gave {updates} updates; cloning made {sft} before the first round")
        if updates == right[1] + (r - 1) * sft:
            raise WrongAnswer(f"{shown}: you gave {updates} updates; SFT is trained once, not in every round")
        for why, rounds in slices.items():
            if updates in (_spent(sft, rounds)[1], _spent(0, rounds)[1]):
                raise WrongAnswer(f"{shown}: you gave {updates} updates; {why}")
        raise WrongAnswer(f"{shown}: you gave {updates} updates; add SFT's and those of all rounds up to {r}")
    say_right("all that has been spent, SFT and earlier rounds included")


def _spent(sft: int, rounds: list[dict[str, int]]) -> tuple[int, int]:
    return sum(one["explore"] + one["score"] for one in rounds), sft + sum(one["updates"] for one in rounds)


def stopped(dev: Sequence[float], patience: int = 1) -> tuple[int, int]:
    """Which round a run keeps, and how many it trains, that stops after `patience` rounds in a row without a new best.

    `dev`: reward on dev of SFT (round 0), round 1, and so on. Of equal rewards the earlier round is the best.
    """
    kept, paid = 0, 0
    for number in range(1, len(dev)):
        paid = number
        if dev[number] > dev[kept]:
            kept = number
        elif number - kept >= patience:
            break
    return kept, paid


# The first cases tell apart who looks ahead, who waits a round too long, who keeps an equal, who minds falls alone.
_DEV = [
    ([0.57, 0.69, 0.66, 0.64, 0.75], 1),
    ([0.56, 0.60, 0.60, 0.55, 0.71], 1),
    ([0.50, 0.60, 0.40, 0.50, 0.45, 0.40, 0.70], 2),
    ([0.58, 0.23, 0.49], 1),
    ([0.58, 0.23, 0.66], 2),
    ([0.50, 0.60, 0.70], 1),
    ([0.50, 0.40, 0.55, 0.52, 0.60, 0.58, 0.57, 0.80], 2),
    ([0.57], 1),
]


def stop_round(rule: Callable[[list[float], int], tuple[int, int]]) -> None:
    """Notebook 08: `rule(dev, patience)` gives the round that is kept and the number of rounds trained."""
    rng = random.Random(0)
    drawn = [
        ([round(rng.uniform(0.3, 0.7), 2) for _ in range(rng.randint(2, 7))], rng.randint(1, 3)) for _ in range(200)
    ]
    for dev, patience in [*_DEV, *drawn]:
        found = attempt(rule, list(dev), patience)
        if found is NOTHING:
            return
        shown = f"dev {dev}, patience {patience}"
        kept, paid = two_numbers(found, int, shown, "kept, paid")
        if (kept, paid) != stopped(dev, patience):
            raise WrongAnswer(f"{shown}: you keep round {kept} and pay for {paid}; {_why(dev, patience, kept, paid)}")
    say_right("it looks at no round that it has not paid for, and keeps the best of those")


def _why(dev: Sequence[float], patience: int, kept: int, paid: int) -> str:
    """What is wrong with a stop."""
    best, last = stopped(dev, patience)
    if (paid, kept) == (best, last):
        return "the two are swapped: the round that is kept comes first"
    if (kept, paid) == _against_the_last(dev, patience):
        return "compare with the best so far, not with the round before: after a fall a small rise is no new best"
    if kept > last:
        return (
            f"the run has stopped after round {last} and never sees round {kept}: look only at rounds already trained"
        )
    if paid == last and kept == paid:
        return "the last round trained is not the best one: keep that of the highest dev reward"
    if paid == last:
        return f"round {best} has the highest dev reward of rounds 0 to {paid} (0 is SFT; of equals the earlier one)"
    if paid == kept == best:
        return "the rounds that brought no new best were trained too, and have to be paid"
    if paid < last:
        return f"that stops too early: {patience} in a row must bring no new best, and a new best starts the count anew"
    if dev[kept] == dev[best] and kept != best:
        return f"round {kept} only equals the best, and that is no new best"
    return f"that stops too late: round {last} was number {patience} in a row without a new best"


def _against_the_last(dev: Sequence[float], patience: int) -> tuple[int, int]:
    """What a rule finds that counts falls from one round to the next, not rounds without a new best."""
    falls, paid = 0, 0
    for number in range(1, len(dev)):
        paid = number
        falls = 0 if dev[number] > dev[number - 1] else falls + 1
        if falls >= patience:
            break
    return max(range(paid + 1), key=lambda number: (dev[number], -number)), paid


def best_of_equals(k: int, sd: float = 1.0) -> float:
    """The expected maximum of k >= 1 independent normal numbers with mean 0 and this standard deviation.

    A sum over 20,000 quantiles, right to 1e-3 standard deviations for k up to 100.
    """
    bell, parts = NormalDist(), 20_000
    places = ((i + 0.5) / parts for i in range(parts))
    return sd * math.fsum(k * p ** (k - 1) * bell.inv_cdf(p) for p in places) / parts


def expected_best(best: Callable[[int, float], float]) -> None:
    """Notebook 08: `best(k, sd)`, the expected maximum of k rounds of equal worth 0 and noise `sd`."""
    for k, sd in ((2, 1.0), (5, 1.0), (1, 1.0), (2, 0.02), (5, 0.03), (10, 0.02)):
        found = attempt(best, k, sd)
        if found is NOTHING:
            return
        shown = f"k = {k}, sd = {sd}"
        try:
            found, again = float(found), float(best(k, sd))
        except (TypeError, ValueError):
            raise WrongAnswer(f"{shown}: you gave a {type(found).__name__}; give one number") from None
        right = best_of_equals(k, sd)
        if abs(found - again) > 0.08 * sd:
            raise WrongAnswer(
                f"{shown}: you gave {found:.4f}, then {again:.4f}: a maximum of a few draws is luck; take the mean of many"
            )
        if abs(found - right) < 0.04 * sd:
            continue
        shown += f": you gave {found:.4f}"
        close = 0.04 * sd
        if k == 1:
            raise WrongAnswer(
                f"{shown}; of one round nothing is chosen: the mean is 0 (an absolute value somewhere, or too few draws?)"
            )
        if sd != 1 and abs(found - right / sd) < 0.04:
            raise WrongAnswer(f"{shown}; that is in standard deviations: multiply by sd")
        if sd != 1 and abs(found - right * sd) < close * sd:
            raise WrongAnswer(f"{shown}; sd is taken for a variance, or multiplied twice")
        if abs(found - sd * math.sqrt(2 * math.log(k))) < close:
            raise WrongAnswer(
                f"{shown}; sd * sqrt(2 ln k) is a bound that the mean nears for very large k, not the mean"
            )
        if abs(found) < close:
            raise WrongAnswer(
                f"{shown}; that is the mean of all: take the maximum of each k first, then the mean of the maxima"
            )
        if abs(found + right) < close:
            raise WrongAnswer(f"{shown}; that is the minimum")
        raise WrongAnswer(f"{shown}; draw k normal numbers many times, take the maximum each time, then the mean")
    say_right("choosing among equals gains nothing, and seems to")
