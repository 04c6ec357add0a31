"""Losses: how hard a pair pushes."""

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
