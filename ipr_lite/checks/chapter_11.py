"""Four bits: what a weight costs, what a cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right


def bits_per_weight(bits: Callable[[int, int, int], float]) -> None:
    """Notebook 11: codes of 4 bits, a scale for each block, a float32 for each group of blocks (0: none)."""
    for block, scale_bits, group in ((64, 32, 0), (64, 8, 256), (32, 16, 0), (128, 8, 64)):
        try:
            found = attempt(bits, block, scale_bits, group)
        except ZeroDivisionError:
            raise WrongAnswer(f"group {group}: division by zero; group 0 means that there is no second scale") from None
        if found is NOTHING:
            return
        found, more = float(found), 32 / (block * group) if group else 0.0
        if math.isclose(found, 4 + scale_bits / block + more, rel_tol=1e-6):
            continue
        shown = f"block {block}, scales of {scale_bits} bits, group {group}: you gave {found:.4f}"
        if group and math.isclose(found, 4 + scale_bits / block, rel_tol=1e-6):
            raise WrongAnswer(f"{shown}; every group of blocks stores a float32 too")
        if group and math.isclose(found, 4 + scale_bits / block + 32 / group, rel_tol=1e-6):
            raise WrongAnswer(f"{shown}; the float32 is shared by all weights of {group} blocks")
        if math.isclose(found, scale_bits / block + more, rel_tol=1e-6):
            raise WrongAnswer(f"{shown}; the codes themselves are missing")
        raise WrongAnswer(f"{shown}; add the code and the weight's share of each scale")
    say_right("4 bits, and the weight's share of the scales")


def episodes_that_fit(fit: Callable[[int, int, int, int, int], int]) -> None:
    """Notebook 11: whole episodes whose keys and values (16 bits) fit into `free` bytes."""
    for free, layers, kv_heads, head, tokens in (
        (2**30, 28, 4, 128, 4096),
        (2**31, 24, 2, 64, 4096),
        (10**6, 28, 4, 128, 512),
    ):
        found = attempt(fit, free, layers, kv_heads, head, tokens)
        if found is NOTHING:
            return
        numbers = layers * kv_heads * head * tokens
        truth = free // (4 * numbers)
        if found == truth and not isinstance(found, bool):
            continue
        shown = f"{free:,} bytes, {layers} layers, {kv_heads} heads of {head}, {tokens} tokens: you gave {found}"
        if isinstance(found, float) and math.isclose(found, free / (4 * numbers), rel_tol=1e-6):
            raise WrongAnswer(f"{shown}; whole episodes only, rounded down")
        if found == free // (2 * numbers):
            raise WrongAnswer(f"{shown}; keys and values: two numbers of two bytes each")
        if found == free // (8 * numbers):
            raise WrongAnswer(f"{shown}; 16 bits are two bytes, not four")
        if found == free // (4 * kv_heads * head * tokens):
            raise WrongAnswer(f"{shown}; every layer has its own keys and values")
        raise WrongAnswer(f"{shown}; an episode takes 2 (key, value) x 2 bytes x layers x heads x head x tokens")
    say_right("keys and values of all layers, two bytes each")
