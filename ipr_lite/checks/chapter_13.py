"""Search with a judge: the best of n by all choices of n, and a loss that ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right
from ipr_lite.methods.armap import CENTRE, rank

Scores = Sequence[float]


def chosen_of_n(best: Callable[[Scores, Scores, int], float]) -> None:
    """Notebook 13: the mean reward of the episode that is scored highest, over all choices of n of the episodes."""
    cases = (
        ([0.1, 0.9, 0.5], [0.0, 0.5, 1.0], 2),
        ([0.3, 0.2, 0.8, 0.6], [0.25, 1.0, 0.5, 0.75], 3),
        ([2.0, 1.0], [0.4, 0.6], 1),
    )
    for scores, rewards, n in cases:
        found = attempt(best, list(scores), list(rewards), n)
        if found is NOTHING:
            return
        every = list(combinations(range(len(scores)), n))
        truth = fmean(rewards[max(some, key=scores.__getitem__)] for some in every)
        if math.isclose(found, truth, abs_tol=1e-6):
            continue
        shown = f"scores {scores}, rewards {rewards}, n = {n}: you gave {found:.4g}"
        if math.isclose(found, fmean(max(rewards[i] for i in some) for some in every), abs_tol=1e-6):
            raise WrongAnswer(
                f"{shown}; that is what an oracle would choose: the score decides, the reward is what comes of it"
            )
        if math.isclose(found, fmean(max(scores[i] for i in some) for some in every), abs_tol=1e-6):
            raise WrongAnswer(f"{shown}; that is the mean of the best scores: what reward do those episodes have?")
        first = rewards[max(range(n), key=scores.__getitem__)]
        if math.isclose(found, first, abs_tol=1e-6):
            raise WrongAnswer(
                f"{shown}; that is the first {n} alone: {len(every)} choices of {n} are possible, take their mean"
            )
        raise WrongAnswer(
            f"{shown}; {len(every)} choices of {n}, in each the reward of the highest score, then the mean"
        )
    say_right("every choice of n counts once, so that the curve does not hang on which episode came first")


def ranking_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Notebook 13: -log sigmoid(s+ - s-) + 0.001 (s+ + s-)^2 of two scores."""
    for better, worse in ((2.0, 1.0), (-1.0, 3.0), (0.5, 0.5)):
        pair = torch.tensor(better), torch.tensor(worse)
        found = attempt(loss, *pair)
        if found is NOTHING:
            return
        found, truth = float(found), rank([one[None] for one in pair]).item()
        if math.isclose(found, truth, abs_tol=1e-4):
            continue
        shown = f"s+ = {better}, s- = {worse}: you gave {found:.4f}"
        centre = CENTRE * (better + worse) ** 2
        if math.isclose(found, -truth, abs_tol=1e-4):
            raise WrongAnswer(f"{shown}; a loss is least where the ranking is right: look at the sign")
        if better != worse and math.isclose(found, truth - (worse - better), abs_tol=1e-4):
            raise WrongAnswer(f"{shown}; that pays for the wrong order: s+ minus s-, not s- minus s+")
        if centre > 1e-4 and math.isclose(found, truth - centre, abs_tol=1e-4):
            raise WrongAnswer(f"{shown}; the second term is missing: differences alone leave open where 0 is")
        raise WrongAnswer(f"{shown}; -log sigmoid(s+ - s-) + {CENTRE} (s+ + s-)^2 gives {truth:.4f}")
    say_right("the order is learned, and the small second term holds the scores around 0")
