"""Which examples each update sees."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

# So many batches at most are cut from one pool sorted by length: little padding, little ordering.
POOL = 8


def parts_of(batch_size: int, most: int | None) -> int:
    """How many of a batch are worked off at once: `most`, or the largest divisor up to 4. Raises ValueError for a number
    that does not divide the batch."""
    size = min(most or max(n for n in (1, 2, 3, 4) if batch_size % n == 0), batch_size)
    if batch_size % size:
        raise ValueError(f"micro_batch_size {size} must divide the batch of {batch_size}")
    return size


def plan_batches(
    lengths: Sequence[int], is_outcome: Sequence[bool], batch_size: int, updates: int, seed: int
) -> tuple[list[list[int]], dict[bool, float]]:
    """Which examples each update sees, and how many of its kind each one stands for.

    Every batch holds the same number of outcome pairs, in proportion to the set and at least one of
    each kind there is, so that no update lacks a term of the loss. Each kind is drawn from its own
    endless shuffle (all once before any twice). Pools of up to `POOL` batches are sorted by length and
    their batches shuffled again: batches hold similar lengths, in random order, and over the
    shuffles every example is equally likely in every batch, which `ipr_loss` relies on.
    """
    if updates < 1:
        raise ValueError("nothing to do: the settings ask for no update")
    rng = random.Random(seed)
    kinds = {kind: [i for i, k in enumerate(is_outcome) if bool(k) is kind] for kind in (True, False)}
    kinds = {kind: members for kind, members in kinds.items() if members}
    size = min(batch_size, len(lengths))
    if size < len(kinds):
        raise ValueError("batch_size must be at least 2 to hold an outcome pair and a step pair")
    quotas = dict.fromkeys(kinds, size)
    if len(kinds) == 2:
        share = round(size * len(kinds[True]) / len(lengths))
        quotas[True] = min(max(share, 1), size - 1)
        quotas[False] = size - quotas[True]
    streams = {kind: _endless_shuffle(members, rng) for kind, members in kinds.items()}
    # A pool never spans more than one pass over a kind: sorting would gather the copies of a pair in one batch.
    pool_size = max(1, min([POOL] + [len(kinds[kind]) // quota for kind, quota in quotas.items() if quota > 1]))
    batches = []
    for start in range(0, updates, pool_size):
        pool = [[] for _ in range(min(pool_size, updates - start))]
        for kind, quota in quotas.items():
            drawn = sorted(itertools.islice(streams[kind], quota * len(pool)), key=lengths.__getitem__)
            for n, batch in enumerate(pool):
                batch.extend(drawn[n * quota : (n + 1) * quota])
        rng.shuffle(pool)
        batches.extend(sorted(batch, key=lengths.__getitem__) for batch in pool)
    return batches, {kind: len(kinds[kind]) / quota for kind, quota in quotas.items()}


def _endless_shuffle(members: list[int], rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(members, len(members))
