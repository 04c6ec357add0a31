"""Report results: Wilson's interval, three seeds that mislead, how many seeds it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right, two_numbers
from ipr_lite.evaluation import t_quantile

_Z = 1.959963984540054
_EFFORTS = ((2, 10), (0, 10), (10, 10), (1, 3), (25, 300), (56, 300), (150, 300))


def wilson_interval(successes: int, n: int, z: float = _Z) -> tuple[float, float]:
    """Wilson's interval (low, high) of a share, in [0, 1], from `successes` of `n` >= 1 tries."""
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def wilson(interval: Callable[[int, int], tuple[float, float]]) -> None:
    """Notebook 10: `interval(successes, n)` is Wilson's 95 % interval (low, high)."""
    for successes, n in _EFFORTS:
        found = attempt(interval, successes, n)
        if found is NOTHING:
            return
        shown = f"{successes} of {n}"
        low, high = two_numbers(found, float, shown, "low, high")
        right = wilson_interval(successes, n)
        if math.dist((low, high), right) < 2e-3 / math.sqrt(n):  # 1.96 for z is near enough
            continue
        wald = _Z * math.sqrt(successes * (n - successes) / n) / n
        wrongs = {
            (
                successes / n - wald,
                successes / n + wald,
            ): "that is Wald's interval, with the standard error at the share we saw",
            wilson_interval(
                successes, n, 1.6448536
            ): "that is the 90 % interval; 95 % leaves 2.5 % on each side, z = 1.96",
            (right[1], right[0]): "the ends are swapped: low comes first",
            tuple(100 * end for end in right): "these are percent; give shares between 0 and 1",
        }
        half = (right[1] - right[0]) / 2
        wrongs[successes / n - half, successes / n + half] = (
            "the width is right, the middle is not: it is pulled from p towards one half"
        )
        for ends, why in wrongs.items():
            if math.dist((low, high), ends) < 2e-3:
                raise WrongAnswer(f"{shown}: you gave {low:.4f} to {high:.4f}; {why}")
        if abs((low + high) - sum(right)) < 2e-3:
            raise WrongAnswer(f"{shown}: the middle is right, the width is not: look at what stands under the root")
        raise WrongAnswer(
            f"{shown}: you gave {low:.4f} to {high:.4f}; at both ends q, |p - q| must equal z * sqrt(q * (1 - q) / n)"
        )
    say_right("at both ends the count that we saw is just not surprising")


def two_labs(pick: Callable[[dict[int, float]], tuple[Sequence[int], Sequence[int]]]) -> None:
    """Notebook 10: three seeds that make IPR look better than ETO to a bootstrap, and three for the contrary."""
    from ipr_lite.study.tables import Results  # loads torch and matplotlib, which no other check needs

    results = Results("table2")
    ipr, eto = (results.rewards("shop", "test", method) for method in ("ipr", "eto"))
    ours = {seed: ipr[seed] - eto[seed] for seed in sorted(ipr.keys() & eto.keys())}
    others = {21: -0.30, 22: 0.02, 23: 0.40, 24: -0.01, 25: 0.01, 26: -0.02}
    for gains in (ours, others):
        found = attempt(pick, dict(gains))
        if found is NOTHING:
            return
        try:
            for_ipr, for_eto = (list(seeds) for seeds in found)
        except (TypeError, ValueError):
            raise WrongAnswer(f"you gave {found!r}; give two lists of three seeds, (for_ipr, for_eto)") from None
        for seeds, sign, name in ((for_ipr, 1, "IPR"), (for_eto, -1, "ETO")):
            _lab(gains, seeds, sign, name)
    say_right("two labs, one file, opposite findings")


def _lab(gains: Mapping[int, float], seeds: list[int], sign: int, name: str) -> None:
    """Raises WrongAnswer unless these three seeds make a bootstrap exclude 0 on the side of `sign`."""
    unknown = [seed for seed in seeds if seed not in gains]
    if unknown:
        raise WrongAnswer(
            f"{name}'s lab: {unknown[0]} is no seed of this file; give seeds (the keys), of {sorted(gains)}"
        )
    if len(seeds) != 3:
        raise WrongAnswer(f"{name}'s lab has {len(seeds)} seeds; it must have three")
    if len(set(seeds)) != 3:
        raise WrongAnswer(f"{name}'s lab uses a seed twice: {seeds}; that is one run, written down again")
    values = [sign * gains[seed] for seed in seeds]
    shown = ", ".join(f"{gains[seed]:+.3f}" for seed in seeds)
    if max(values) < 0:
        raise WrongAnswer(f"{name}'s lab finds {shown}: that speaks for the other side; are the lists swapped?")
    if min(values) <= 0:
        middle = "is on the right side, but the interval is not: its ends are the smallest and the largest of three"
        middle = middle if sum(values) > 0 else "is on the wrong side"
        raise WrongAnswer(f"{name}'s lab finds {shown}: the mean {middle}")


def power(gain: float, spread: float, n: int) -> float:
    """The chance that Student's 95 % interval over n >= 2 differences lies above 0.

    The differences come from a bell curve of mean `gain` and standard deviation `spread`: the upper tail of a
    noncentral t distribution, as an integral over what the sample's standard deviation may be.
    """
    freedom = n - 1
    s = (np.arange(4000) + 0.5) / 4000 * (1 + 8 / math.sqrt(2 * freedom))  # sample deviation / spread
    log_density = freedom * np.log(s) - np.log(s) - freedom * s**2 / 2
    weight = np.exp(log_density - log_density.max())
    reach = (t_quantile(freedom) * s - gain / spread * math.sqrt(n)) / math.sqrt(2)
    above = np.array([math.erfc(x) / 2 for x in reach])
    return float((weight * above).sum() / weight.sum())


_GAINS = ((0.10, 0.10), (0.08, 0.05), (0.099, 0.065), (0.039, 0.088), (0.0092, 0.0883))


def seeds_needed(needed: Callable[[float, float], int]) -> None:
    """Notebook 10: the smallest number of seeds whose interval lies above 0 in 80 % of experiments."""
    for gain, spread in _GAINS:
        found = attempt(needed, gain, spread)
        if found is NOTHING:
            return
        shown = f"gain {gain}, spread {spread}"
        if isinstance(found, bool) or not isinstance(found, (int, np.integer)) or found < 2:
            raise WrongAnswer(f"{shown}: you gave {found!r}; give a whole number of seeds, 2 or more")
        n = int(found)
        # A simulation may be off by a little: one percentage point is let pass.
        enough, one_less = power(gain, spread, n), power(gain, spread, n - 1) if n > 2 else 0.0
        if enough >= 0.79 and one_less < 0.81:
            continue
        ratio = (spread / gain) ** 2
        with_half = (
            "the interval lies above 0 in half of the experiments: room for bad luck is missing (0.84 beside 1.96)"
        )
        wrongs = {
            math.ceil(
                (_Z + 0.8416212) ** 2 * ratio
            ): "that is the bell curve's formula; with few seeds t is larger than 1.96",
            math.ceil((1.6448536 + 0.8416212) ** 2 * ratio): "that is a one-sided test; 95 % leaves 2.5 % on each side",
            math.ceil(2 * (_Z + 0.8416212) ** 2 * ratio): "that is for two groups of seeds; ours are paired",
            math.ceil(_Z**2 * ratio): with_half,
        }
        why = wrongs.get(n)
        if why is None and abs(enough - 0.5) < 0.06:
            why = with_half
        if enough < 0.79:
            why = why or "more are needed"
            raise WrongAnswer(f"{shown}: with {n} seeds the power is {enough:.0%}, not 80 %; {why}")
        if n > 3 and power(gain, spread, n - 2) < 0.81:
            why = "one fewer will do"
        why = why or "fewer will do"
        raise WrongAnswer(f"{shown}: {n} seeds are more than needed, {n - 1} have a power of {one_less:.0%}; {why}")
    say_right("the interval lies above 0 in four experiments of five, with no seed too many")
