"""Attention in parts: over the keys of a shared prompt and over a row's own, put together exactly.

Softmax over two sets of keys is a mean of the softmaxes over each, weighted by the sums of their exponentials. So what
several rows share is read once for all of their queries, and nothing is copied to lie in one piece (Juravsky et al.
2024, "Hydragen"; the same identity merges the blocks of FlashAttention).
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend_plainly(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of queries (rows, heads, q, size) to keys and values (rows, heads, k, size), and the log of the sum of
    the exponentials of their scores, (rows, heads, q), in float32.

    mask: -inf where a query must not see a key, else 0, (rows, 1, q, k). Who sees none gets 0 and -inf.
    cap: scores are bent to stay between -cap and cap (Gemma 2).
    """
    scores = (query @ keys.mT).float() * scale
    if cap is not None:
        scores = (scores / cap).tanh() * cap
    if mask is not None:
        scores = scores + mask
    total = scores.logsumexp(-1)
    weights = (scores - total[..., None]).exp().nan_to_num(0.0)
    return weights.to(values.dtype) @ values, total


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float | None = None
) -> tuple[Tensor, Tensor]:
    """The same; on a CPU and without a cap by torch's fused attention, whose public face keeps the sums to itself."""
    if query.device.type != "cpu" or cap is not None:
        return attend_plainly(query, keys, values, mask, scale, cap)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    found, total = fused(query, keys, values, attn_mask=mask, scale=scale)
    if mask is not None:
        total = total.masked_fill(mask.amax(-1) == -torch.inf, -torch.inf)
    return found, total


def join(found: Tensor, total: Tensor, more: Tensor, more_total: Tensor) -> Tensor:
    """Attention to two sets of keys, from that to each: `found` and `more` (..., size) with their `total`s (...)."""
    return found.lerp(more, (more_total - total).sigmoid()[..., None].to(found.dtype))
