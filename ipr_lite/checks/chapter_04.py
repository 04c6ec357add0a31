"""Step rewards: how many rollouts are enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right


def wrong_rate(demonstrator: Sequence[float], agent: Sequence[float], n: int) -> float:
    """The chance that n rollouts each rank the agent's action above the demonstrator's, exactly.

    `demonstrator` and `agent` are the outcomes that a rollout after each action may have, all equally
    likely. Equal means make no pair: the chance is among the pairs that are made.
    """
    higher = lower = 0.0
    for a, chance_a in _sums(agent, n).items():
        for e, chance_e in _sums(demonstrator, n).items():
            if abs(a - e) > 1e-9:
                higher += chance_a * chance_e * (a > e)
                lower += chance_a * chance_e * (a < e)
    return higher / (higher + lower)


def samples_needed(needed: Callable[[list[float], list[float], float], int]) -> None:
    """Notebook 04: the smallest N for which fewer than `limit` of the pairs are wrong."""
    cases = [
        ([1.0, 1.0, 1.0, 0.5], [1.0, 0.5, 0.5, 0.0], 0.07),
        ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], 0.14),
        ([1.0, 0.75, 0.75, 0.5], [0.75, 0.75, 0.5, 0.5], 0.095),
        ([1.0], [0.5, 0.75], 0.10),
    ]
    for demonstrator, agent, limit in cases:
        found = attempt(needed, demonstrator, agent, limit)
        if found is NOTHING:
            return
        shown = f"demonstrator {demonstrator}, agent {agent}, under {limit:.0%}"
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise WrongAnswer(f"{shown}: you gave {found!r}; give a whole number of rollouts, 1 or more")
        # A simulation may be off by a little: half a percentage point is let pass.
        rate = wrong_rate(demonstrator, agent, found)
        if rate >= limit + 0.005:
            raise WrongAnswer(
                f"{shown}: with N = {found} still {rate:.1%} of the pairs are wrong; more are needed (equal means make no pair, and count neither way)"
            )
        fewer = wrong_rate(demonstrator, agent, found - 1) if found > 1 else 1.0
        if fewer < limit - 0.005:
            raise WrongAnswer(f"{shown}: N = {found} is more than needed; with {found - 1} only {fewer:.1%} are wrong")
    say_right("enough rollouts, and not one too many")


def _sums(outcomes: Sequence[float], n: int) -> dict[float, float]:
    """Chance of every sum of n draws, with replacement, from equally likely outcomes."""
    sums = {0.0: 1.0}
    for _ in range(n):
        after: dict[float, float] = {}
        for total, chance in sums.items():
            for outcome in outcomes:
                key = round(total + outcome, 9)
                after[key] = after.get(key, 0.0) + chance / len(outcomes)
        sums = after
    return sums
