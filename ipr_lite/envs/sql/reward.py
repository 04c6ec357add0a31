"""InterCodeSQL's reward: how much of the gold answer a result has, and in which order.

Rows are compared as texts, as princeton-nlp/intercode (MIT, Yang et al. 2023) does: the intersection
over the union of the two multisets, times Kendall's tau-b of the order in which the shared rows come.
So the right rows in the wrong order can be worth less than nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def answer_reward(rows: object, gold: object) -> float:
    """The reward of a result, in [-1, 1]; where the order counts, rounded to two digits.

    rows: the last result, a list of tuples; anything else (an error, no result) is worth 0.
    gold: the gold query's result; anything but a list counts as empty.
    """
    if not isinstance(rows, list):
        return 0.0
    mine = [str(row) for row in rows]
    wanted = [str(row) for row in gold] if isinstance(gold, list) else []
    if not mine and not wanted:
        return 1.0
    shared, union = Counter(mine) & Counter(wanted), Counter(mine) | Counter(wanted)
    value = shared.total() / union.total()
    order = tau_b(_first(mine, shared), _first(wanted, shared))
    return value if math.isnan(order) else round(order * value, 2)


def _first(rows: list[str], counts: Counter[str]) -> list[str]:
    """The rows in their order, of each as many as `counts` says, the first ones."""
    left = counts.copy()
    found = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
            found.append(row)
    return found


def tau_b(a: Sequence[str], b: Sequence[str]) -> float:
    """Kendall's tau-b of two sequences of texts of one length, compared place by place.

    NaN where either has no two different values (one row, or all equal), as in SciPy.
    """
    from scipy.stats import kendalltau  # half a second, for those who ask

    x, y = (np.unique(np.array(values, dtype=object), return_inverse=True)[1] for values in (a, b))
    if len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(kendalltau(x, y).statistic)
