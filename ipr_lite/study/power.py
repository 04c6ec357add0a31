"""What a comparison could have seen: its smallest detectable difference, the seeds that one needs, and what may be said.

Two methods are compared by their paired differences, seed by seed (`evaluation.paired_difference`). All here is Student's t
on those; the tests hold it against simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import nct, t

from ipr_lite.evaluation import student_interval
from ipr_lite.study.results import agent_order, difference, show, show_interval, show_signed

Verdict = Literal["reproduced", "reversed", "equal", "open", "not run"]
MARGIN = 0.03
"""Two methods whose difference is surely smaller than this are called equal (units of reward)."""
MANY = 10_000
"""Nobody here runs more seeds than this."""


def power(difference: float, sd: float, n: int, alpha: float = 0.05) -> float:
    """How likely a two-sided paired t-test over n >= 2 seeds sees a true difference; sd: of the paired differences."""
    if n < 2:
        raise ValueError(f"power needs at least 2 seeds, not {n}")
    if sd == 0:
        return 1.0 if difference else 0.0
    away, edge = abs(difference) / sd * math.sqrt(n), t.ppf(1 - alpha / 2, n - 1)
    below = nct.cdf(-edge, n - 1, away)  # SciPy's is NaN where it is next to nothing
    return float(nct.sf(edge, n - 1, away) + (0.0 if math.isnan(below) else below))


def detectable(sd: float, n: int, wanted: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that n seeds see with probability `wanted` (units of reward); NaN for one seed."""
    if n < 2:
        return math.nan
    return 0.0 if sd == 0 else brentq(lambda d: power(d * sd, sd, n, alpha) - wanted, 0.0, 100.0) * sd


def seeds_needed(difference: float, sd: float, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """The fewest seeds that see a true difference with probability `wanted`.

    Raises ValueError where it is 0, or more than `MANY` seeds were needed.
    """
    low, high = 1, MANY
    if difference == 0 or power(difference, sd, high, alpha) < wanted:
        raise ValueError(f"a difference of {difference:g} with a standard deviation of {sd:g} is beyond {MANY} seeds")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, sd, middle, alpha) >= wanted else (middle, high)
    return high


class Moments(NamedTuple):
    """Of paired differences: their mean, its standard error, their number."""

    mean: float
    error: float
    n: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> Moments:
        """Raises ValueError without differences."""
        mean, low, _ = student_interval(differences)
        return cls.behind(mean, low, len(differences))

    @classmethod
    def behind(cls, mean: float, low: float, n: int) -> Moments:
        """Of a mean and the lower end of its 95 % interval; n = 1 has no error."""
        return cls(mean, (mean - low) / t.ppf(0.975, n - 1) if n > 1 else math.nan, n)

    @property
    def sd(self) -> float:
        return self.error * math.sqrt(self.n)

    @property
    def p(self) -> float:
        """Of the two-sided paired t-test against 0; NaN for fewer than two seeds."""
        if self.n < 2:
            return math.nan
        return float(2 * t.sf(abs(self.mean) / self.error, self.n - 1)) if self.error else float(self.mean == 0)

    def equal(self, margin: float = MARGIN, alpha: float = 0.05) -> bool:
        """Whether the difference is surely within the margin: two one-sided tests (Schuirmann, 1987), both at alpha."""
        return self.n > 1 and abs(self.mean) + t.ppf(1 - alpha, self.n - 1) * self.error < margin

    def verdict(self, paper: float, p: float | None = None, margin: float = MARGIN) -> Verdict:
        """What may be said of the paper's difference: *reproduced* or *reversed* where ours is surely on one side of 0,
        else *equal* within the margin, else *open*. p: its p-value after Holm; default: its own."""
        if self.n < 2:
            return "not run"
        if (self.p if p is None else p) < 0.05:
            return "reproduced" if (self.mean > 0) == (paper > 0) else "reversed"
        return "equal" if self.equal(margin) else "open"


def two_way(differences: np.ndarray, draws: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % interval (mean, low, high) of paired differences (seeds, tasks), where another draw of both would have its luck.

    Seeds and tasks are drawn with replacement, each on its own (the two-way bootstrap; Owen, 2007, shows that its error is
    never too small, at least for many of both). Its standard error takes the place of the seeds' alone in Student's interval: a bootstrap's own
    ends are too near with few seeds. Raises ValueError for fewer than two seeds.
    """
    seeds, tasks = differences.shape
    if seeds < 2:
        raise ValueError(f"an interval over seeds and tasks needs at least 2 seeds, not {seeds}")
    rng = np.random.default_rng(seed)
    of_seeds, of_tasks = (rng.multinomial(n, np.full(n, 1 / n), draws) / n for n in (seeds, tasks))
    means = ((of_seeds @ differences) * of_tasks).sum(axis=1)
    mean, half = differences.mean(), t.ppf(0.975, seeds - 1) * means.std() * math.sqrt(seeds / (seeds - 1))
    return float(mean), float(mean - half), float(mean + half)


def by_seed(rows: pd.DataFrame) -> dict[int, np.ndarray]:
    """The reward of every task, by seed, of a method's rows of a `_tasks` file, a row a seed."""
    return {row.seed: np.array(row.rewards.split(), float) / 1000 for row in rows.itertuples()}


def over_seeds_and_tasks(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """The two-way interval of first - second, of a method's rows each of a `_tasks` file, a row a seed; empty for fewer than two seeds."""
    a, b = by_seed(first), by_seed(second)
    seeds = sorted(a.keys() & b.keys())
    return show_interval(*two_way(np.array([a[s] - b[s] for s in seeds]))[1:]) if len(seeds) > 1 else ""


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm, 1979), in the order given; NaN stays and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    found, least = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        found[place] = least
    return found


def verdicts(moments: Sequence[Moments], paper: Sequence[float]) -> list[Verdict]:
    """What each difference says about the paper's, all asked at once: Holm's correction is over those that were run."""
    corrected = holm([one.p for one in moments])
    return [one.verdict(theirs, p) for one, theirs, p in zip(moments, paper, corrected, strict=True)]


def answers(moments: Sequence[Moments]) -> list[str]:
    """Whether each difference is *above* 0, *below*, *equal* to it within the margin, or *open*; all asked at once."""
    words = {"reproduced": "above", "reversed": "below"}
    return [words.get(verdict, verdict) for verdict in verdicts(moments, [1.0] * len(moments))]


def power_rows(
    results: pd.DataFrame, wanted: float = MARGIN, method: str = "ipr", split: str = "test", tasks: pd.DataFrame | None = None
) -> list[tuple]:  # fmt: skip
    """What a results file can say: a method minus each other of its setting, on the iterates that dev chose.

    Per comparison: world, setting, method, other, seeds, mean, 95 % interval over seeds, and over seeds and tasks (where `tasks`
    has them), smallest detectable difference, seeds that a difference of `wanted` needs, p after Holm's correction over
    all rows, and whether it is above, below, equal or open.
    """
    rows, single = (None if t is None else t[(t["split"] == split) & (t["selected"] == 1)] for t in (results, tasks))
    found = []
    for (env, setting), cell in rows.groupby(["env", "setting"], sort=False):
        rewards = {name: dict(zip(one["seed"], one["reward"], strict=True)) for name, one in cell.groupby("method")}
        for other in sorted(rewards.keys() - {method}, key=agent_order) if method in rewards else ():
            mean, low, high, n = difference(rewards[method], rewards[other])
            if n > 1:
                both = "" if single is None else over_seeds_and_tasks(
                    *(single[(single["env"] == env) & (single["setting"] == setting) & (single["method"] == name)]
                      for name in (method, other))
                )  # fmt: skip
                cells = (show_signed(mean), show_interval(low, high), both)
                found.append(((env, setting, method, other, n, *cells), Moments.behind(mean, low, n)))
    moments = [one for _, one in found]
    corrected = holm([one.p for one in moments])
    return [
        (*line, show(detectable(one.sd, one.n)), _needed(wanted, one.sd), show(p, 4), answer)
        for (line, one), p, answer in zip(found, corrected, answers(moments), strict=True)
    ]


HEADER = ("env", "setting", "method", "minus", "seeds", "difference", "over seeds", "over seeds and tasks", "detectable", "seeds for {:g}",
          "p (Holm)", "verdict")  # fmt: skip


def _needed(wanted: float, sd: float) -> str:
    return str(seeds_needed(wanted, sd)) if power(wanted, sd, MANY) >= 0.8 else f"> {MANY}"
