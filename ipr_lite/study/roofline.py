"""The least time that a set of rollouts could take on this machine.

Rollouts need operations and bytes. Every token of a conversation has to be read once, each token that is written has to
see the keys and values of all before it. The floor is the larger of two times: the operations at the rate at which this
machine multiplies matrices, and the bytes at the rate at which it copies. It leaves out all that is not arithmetic
(tokenizing, drawing, the world, Python), and takes one token a pass; a good draft can save passes, not operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import torch

Conversation = tuple[list[int], list[int]]
"""The tokens of an episode, and the places in it of those that were written by the rollout."""


@dataclass
class Work:
    """What conversations need.

    tokens: read at least once. context: sum over them of the tokens that each attends to. written: by the agent, after
    the shared ones are taken as one. passes: of the longest rollout. seen: keys and values read, in tokens.
    """

    tokens: int = 0
    context: int = 0
    written: int = 0
    passes: int = 0
    seen: int = 0

    def __add__(self, other: Work) -> Work:
        sums = (a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        work = Work(*sums)
        work.passes = max(self.passes, other.passes)
        return work


def work(conversations: Iterable[Conversation], share: bool = True) -> Work:
    """The work of these conversations; with `share`, what several begin with is done once.

    The conversations make a tree. A token's keys are read once in every pass k in which a rollout that goes through it
    writes its k-th token: bit k of a number kept for each token of the tree.
    """
    if not share:
        return sum((work([conversation]) for conversation in conversations), Work())
    root: dict[int, list] = {}
    total = Work()
    for tokens, places in conversations:
        total.passes = max(total.passes, len(places))
        later, places, level = (1 << len(places)) - 1, set(places), root
        for depth, token in enumerate(tokens):
            node = level.get(token)
            if node is None:
                node = level[token] = [{}, 0]
                total.tokens += 1
                total.context += depth + 1
                total.written += depth in places
            if depth in places:
                later &= later - 1  # the lowest bit goes: that pass has been
            total.seen += (later & ~node[1]).bit_count()
            node[1] |= later
            level = node[0]
    return total


def seconds(work: Work, model, matrix_rate: float, copy_rate: float) -> tuple[float, float]:
    """Least seconds for the operations and for the bytes of `work` with this causal LM.

    matrix_rate: operations/s; copy_rate: bytes/s, reads and writes both counted.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    layers, kv_heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    operations = 2 * work.tokens * sum(m.in_features * m.out_features for m in linear)
    operations += 2 * work.written * head.in_features * head.out_features
    operations += 4 * work.context * layers * heads * size
    cached = 2 * layers * kv_heads * size * next(model.parameters()).element_size()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moved = work.passes * weights + (work.tokens + work.seen) * cached
    return operations / matrix_rate, moved / copy_rate


def matrix_rate(model, tokens: int = 2048) -> float:
    """Operations/s of this model's largest linear layer (but the output's) on `tokens` tokens; the median of 20."""
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    layer = max(linear, key=lambda m: m.in_features * m.out_features)
    reference = next(model.parameters())
    x = torch.randn(tokens, layer.in_features, dtype=reference.dtype, device=reference.device)
    weight = torch.randn(layer.out_features, layer.in_features, dtype=x.dtype, device=x.device)
    return 2 * tokens * weight.numel() / _median_time(lambda: torch.nn.functional.linear(x, weight))


def copy_rate(model, size: int = 256 * 2**20) -> float:
    """Bytes/s read plus written by a copy of `size` bytes, too many for a processor's caches; the median of 20."""
    source = torch.ones(size, dtype=torch.uint8, device=next(model.parameters()).device)
    target = torch.empty_like(source)
    return 2 * size / _median_time(lambda: target.copy_(source))


def _median_time(what: Callable[[], object], repeats: int = 20) -> float:
    def once() -> float:
        start = time.perf_counter()
        what()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()  # the first time pays for memory
    return median(once() for _ in range(repeats))
