"""A real LLM: what training a token costs, how many tasks a difference needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import pvariance, stdev, variance

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right


def training_flops(flops: Callable[[int, int, int, int], float]) -> None:
    """Notebook 12: of one pass forward and backward of LoRA, with logits only where a label is."""
    for tokens, labels, linear, head in ((640, 95, 106_168_320, 28_311_552), (100, 100, 1000, 500), (64, 1, 2048, 512)):
        found = attempt(flops, tokens, labels, linear, head)
        if found is NOTHING:
            return
        found, truth = float(found), 4 * (tokens * linear + labels * head)
        if math.isclose(found, truth, rel_tol=1e-9):
            continue
        shown = f"{tokens} tokens, {labels} of them labels, {linear:,} + {head:,} weights: you gave {found:.4g}"
        if math.isclose(found, 6 * (tokens * linear + labels * head), rel_tol=1e-9):
            raise WrongAnswer(f"{shown}; 6 a weight is for full training: a frozen weight has no gradient of its own")
        if math.isclose(found, 2 * (tokens * linear + labels * head), rel_tol=1e-9):
            raise WrongAnswer(f"{shown}; that is the way forward alone, or a multiplication without its addition")
        if labels < tokens and math.isclose(found, 4 * tokens * (linear + head), rel_tol=1e-9):
            raise WrongAnswer(f"{shown}; the head is used only where a label is")
        raise WrongAnswer(f"{shown}; each weight multiplies and adds once on the way forward, once on the way back")
    say_right("two operations a weight and token, forward and backward; the head only at labels")


def tasks_needed(needed: Callable[[Sequence[float], float], int]) -> None:
    """Notebook 12: tasks that show a mean difference of `effect` with 80 % power, from paired differences seen."""
    for differences, effect in (
        ([0.0, 0.5, -0.5, 0.25, 0.0, -0.25, 1.0, 0.0], 0.1),
        ([0.0, 1.0] * 10, 0.05),
        ([0.1, -0.1] * 30, 0.02),
    ):
        found = attempt(needed, differences, effect)
        if found is NOTHING:
            return
        spread = variance(differences)
        if found == math.ceil((2.8 / effect) ** 2 * spread):
            continue
        shown = f"{len(differences)} differences of spread {stdev(differences):.3f}, effect {effect}: you gave {found}"
        if found == math.ceil((2.8 / effect) ** 2 * pvariance(differences)):
            raise WrongAnswer(f"{shown}; divide the squares by n - 1: the mean was taken from the same numbers")
        if found == math.ceil((1.96 / effect) ** 2 * spread):
            raise WrongAnswer(f"{shown}; 1.96 alone sees the effect in half of the cases")
        if found == math.ceil(2.8 / effect * stdev(differences)):
            raise WrongAnswer(f"{shown}; the error falls with the root of n: square the ratio")
        if isinstance(found, float) and not found.is_integer():
            raise WrongAnswer(f"{shown}; whole tasks, rounded up")
        raise WrongAnswer(f"{shown}; n with 2.8 sd / sqrt(n) = effect, rounded up")
    say_right("(2.8 sd / effect) squared: half the effect takes four times the tasks")
