"""Losses: how hard a pair pushes, a shift by one, a moving reference."""

from __future__ import annotations

import math
from collections.abc import Callable

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right


def push(derivative: Callable[[float, float], float]) -> None:
    """Notebook 06: d loss / d log-probability of the chosen side, from the margin and beta."""
    for margin in (0.0, 0.7, -1.3, 4.0):
        for beta in (0.1, 0.5):
            found = attempt(derivative, margin, beta)
            if found is NOTHING:
                return
            found, right = float(found), -beta / (1 + math.exp(margin))
            if math.isclose(found, right, rel_tol=1e-3):
                continue
            shown = f"margin {margin}, beta {beta}: you gave {found:.4f}"
            if math.isclose(found, -right, rel_tol=1e-3):
                raise WrongAnswer(
                    f"{shown}: the size is right, the sign is not: does a likelier winner raise the loss?"
                )
            if math.isclose(abs(found), -right / beta, rel_tol=1e-3):
                raise WrongAnswer(f"{shown}: the log-probability enters the margin times beta; that factor is missing")
            if math.isclose(abs(found), beta / (1 + math.exp(-margin)), rel_tol=1e-3):
                raise WrongAnswer(f"{shown}: a pair that is ranked right already must push less, not more")
            raise WrongAnswer(f"{shown}: differentiate -log sigmoid(margin), then the margin, and multiply")
    say_right("-beta * sigmoid(-margin)")


def break_even(tokens: Callable[[float, float, float], float]) -> None:
    """Notebook 06: the winner's length at which the SFT term (a mean over tokens) pulls as hard as DPO."""
    for w_sft, beta, margin in ((1.0, 0.1, 0.0), (2.0, 0.1, 0.0), (1.0, 0.5, 0.8), (0.5, 0.2, -1.0)):
        found = attempt(tokens, w_sft, beta, margin)
        if found is NOTHING:
            return
        found, pull = float(found), beta / (1 + math.exp(margin))
        truth = w_sft / pull
        if math.isclose(found, truth, rel_tol=1e-3):
            continue
        shown = f"w_sft {w_sft}, beta {beta}, margin {margin}: you gave {found:.2f} tokens"
        if math.isclose(abs(found), truth, rel_tol=1e-3):
            raise WrongAnswer(f"{shown}: a length is positive; compare the sizes of the two pulls")
        if math.isclose(found, 1 / truth, rel_tol=1e-3):
            raise WrongAnswer(f"{shown}: upside down: the longer the winner, the weaker a mean over its tokens pulls")
        if math.isclose(found, w_sft * 2 / beta, rel_tol=1e-3):
            raise WrongAnswer(f"{shown}: right at margin 0 only; a settled pair pushes less (exercise 1)")
        if math.isclose(found, 1 / pull, rel_tol=1e-3):
            raise WrongAnswer(f"{shown}: the weight of the SFT term is missing")
        raise WrongAnswer(f"{shown}: set w_sft / tokens equal to the size of what exercise 1 gave")
    say_right("w_sft / (beta * sigmoid(-margin)) tokens")


def smoothed(loss: Callable) -> None:
    """Notebook 06: the expected DPO loss when a share e of the pairs is the wrong way round."""
    import torch
    import torch.nn.functional as F

    margin = torch.linspace(-3, 3, 61)
    for e in (0.0, 0.1, 0.3):
        found = attempt(loss, margin, e)
        if found is NOTHING:
            return
        shown = f"e = {e}"
        if not isinstance(found, torch.Tensor) or found.shape != margin.shape:
            raise WrongAnswer(f"{shown}: give a tensor with one loss for each margin")
        as_is, turned = -F.logsigmoid(margin), -F.logsigmoid(-margin)
        if torch.allclose(found, (1 - e) * as_is + e * turned, atol=1e-5):
            continue
        if torch.allclose(found, e * as_is + (1 - e) * turned, atol=1e-5):
            raise WrongAnswer(f"{shown}: the shares are the wrong way round: e is the share of wrong pairs")
        if torch.allclose(found, (1 - e) * as_is, atol=1e-5) or torch.allclose(
            found, (1 - e) * as_is - e * turned, atol=1e-5
        ):
            raise WrongAnswer(
                f"{shown}: the wrong pairs cost something too: add e times the loss of the pair turned round"
            )
        if torch.allclose(found, -F.logsigmoid((1 - 2 * e) * margin), atol=1e-5):
            raise WrongAnswer(f"{shown}: that is the loss of the expected margin; take the expectation of the loss")
        raise WrongAnswer(f"{shown}: with probability 1 - e the loss at margin m, with e the loss at -m")
    place = margin[loss(margin, 0.1).argmin()].item()
    say_right(
        f"with e = 0.1 it is smallest near margin {place:.1f} (ln 9 = {math.log(9):.2f}): no pair pushes for ever"
    )
