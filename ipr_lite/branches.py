"""A key-value cache in the shape of the data: one trunk for a prompt, one branch for each of its samples.

Rollouts of one step begin with the same long prompt, and reading its keys and values is what a token costs on a
small model. So they are stored once, as a trunk, and read once for all samples together; what a sample writes
and is answered lies in its own branch. `attend` puts the two together: the same attention as over one cache.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin


class _Store:
    """Keys and values of one layer in slots, (slots, heads, capacity, head size)."""

    def __init__(self, slots: int, capacity: int):
        self.slots, self.capacity = slots, capacity
        self.keys = self.values = None

    def write(self, slots: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor, values: torch.Tensor):
        """Put keys and values, (b, heads, t, size), at positions (b, t) of slots (b,)."""
        if self.keys is None:
            shape = (self.slots, keys.shape[1], self.capacity, keys.shape[3])
            self.keys = torch.zeros(shape, dtype=keys.dtype, device=keys.device)
            self.values = torch.zeros_like(self.keys)
        self.keys[slots[:, None], :, positions] = keys.transpose(1, 2)
        self.values[slots[:, None], :, positions] = values.transpose(1, 2)

    def grow(self, capacity: int):
        if self.keys is not None:
            more = (0, 0, 0, capacity - self.capacity)
            self.keys, self.values = pad(self.keys, more), pad(self.values, more)
        self.capacity = capacity

    def copy(self, source: int, target: int, length: int):
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]


class _Layer(CacheLayerMixin):
    """One layer's trunks and branches. `update` hands itself on, so that `attend` reads both."""

    is_sliding = False

    def __init__(self, cache: "BranchedCache", slots: int):
        super().__init__()
        self.cache, self.trunks, self.branches = cache, _Store(slots, 512), _Store(slots, 256)

    def lazy_initialization(self, key_states, value_states):
        """The stores make their tensors when first written."""

    def update(self, key_states, value_states, *args, **kwargs):
        cache = self.cache
        store = self.branches if cache.trunk_of is not None else self.trunks
        store.write(cache.slots, cache.positions, key_states, value_states)
        return self, self

    def attend(self, query: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of queries (b, query heads, t, size) under an additive mask (b, 1, t, positions)."""
        cache, trunks, branches = self.cache, self.trunks, self.branches
        b, heads, t, size = query.shape
        kv = trunks.keys.shape[1]
        # Query heads that share a key head are rows of one matrix product.
        query = (query * scaling).reshape(b, kv, heads // kv * t, size)
        mask = mask.expand(b, 1, t, -1).repeat(1, 1, heads // kv, 1)
        if cache.trunk_of is None:
            keys, values = _seen(trunks, cache.slots, cache.limit)
            weights = (query @ keys.mT + mask).softmax(-1)
            return (weights @ values).reshape(b, heads, t, size)
        trunk_keys, trunk_values = _seen(trunks, cache.trunk_of, cache.trunk_limit)
        keys, values = _seen(branches, cache.slots, cache.limit)
        scores = torch.cat([cache.apart(cache.together(query) @ trunk_keys.mT), query @ keys.mT], -1)
        weights = (scores + mask).softmax(-1)
        ours, theirs = weights[..., : cache.trunk_limit], weights[..., cache.trunk_limit :]
        return (cache.apart(cache.together(ours) @ trunk_values) + theirs @ values).reshape(b, heads, t, size)

    def get_mask_sizes(self, query_length):
        return self.cache.limit, 0

    def get_seq_length(self):
        return self.cache.limit

    def get_max_length(self):
        return self.branches.capacity


def _seen(store: _Store, slots: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of some slots up to a position; a view where the slots are the first ones in order."""
    if slots[-1] == len(slots) - 1 and torch.equal(slots, torch.arange(len(slots), device=slots.device)):
        return store.keys[: len(slots), :, :limit], store.values[: len(slots), :, :limit]
    return store.keys[slots, :, :limit], store.values[slots, :, :limit]


class BranchedCache(Cache):
    """A transformers cache of trunks and branches, for models whose attention is set to "branches".

    Before each forward pass `aim_at_trunks` or `aim_at_branches` says where its tokens belong.
    """

    def __init__(self, layers: int, slots: int):
        super().__init__(layers=[_Layer(self, slots) for _ in range(layers)])

    def aim_at_trunks(self, slots: torch.Tensor, positions: torch.Tensor, limit: int):
        """The pass writes trunks `slots` (b,) at `positions` (b, t) and attends to `limit` positions of them."""
        self.trunk_of = None
        self.slots, self.positions, self.limit = slots, positions, limit
        self._fit("trunks", limit)

    def aim_at_branches(
        self, slots: torch.Tensor, positions: torch.Tensor, limit: int, trunk_of: list[int], trunk_limit: int
    ):
        """The pass writes branches `slots` (b,), which grow on trunks `trunk_of`, at `positions` (b, t)."""
        self.slots, self.positions, self.limit, self.trunk_limit = slots, positions, limit, trunk_limit
        self._fit("branches", limit)
        members: dict[int, list[int]] = {trunk: [] for trunk in sorted(set(trunk_of))}
        places = []
        for row, trunk in enumerate(trunk_of):
            places.append(len(members[trunk]))
            members[trunk].append(row)
        widest = max(map(len, members.values()))
        rank = {trunk: i for i, trunk in enumerate(members)}
        device = slots.device
        self.trunk_of = torch.tensor(list(members), device=device)
        # Rows of smaller families are filled up with row 0, whose products are thrown away.
        self.members = torch.tensor([m + [0] * (widest - len(m)) for m in members.values()], device=device)
        self.family = torch.tensor([rank[trunk] for trunk in trunk_of], device=device)
        self.place = torch.tensor(places, device=device)

    def together(self, rows: torch.Tensor) -> torch.Tensor:
        """(b, heads, t, x) -> (trunks, heads, widest * t, x): the rows of a family one below the other."""
        _, heads, t, x = rows.shape
        count, widest = self.members.shape
        return rows[self.members].transpose(1, 2).reshape(count, heads, widest * t, x)

    def apart(self, families: torch.Tensor) -> torch.Tensor:
        """The way back: (trunks, heads, widest * t, x) -> (b, heads, t, x)."""
        count, heads, _, x = families.shape
        widest = self.members.shape[1]
        return families.view(count, heads, widest, -1, x).transpose(1, 2)[self.family, self.place]

    def copy(self, kind: str, source: int, target: int, length: int):
        """Give slot `target` the first `length` tokens of slot `source`; kind is "trunks" or "branches"."""
        for layer in self.layers:
            getattr(layer, kind).copy(source, target, length)

    def _fit(self, kind: str, limit: int):
        for layer in self.layers:
            store = getattr(layer, kind)
            while limit > store.capacity:
                store.grow(2 * store.capacity)


def attend(module, query, key, value, attention_mask, scaling=None, **unused):
    """What transformers calls for attention "branches": keys and values are the cache's layer."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return key.attend(query, attention_mask, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register("branches", attend)


@contextmanager
def branching(model):
    """Within, a causal LM's attention reads a `BranchedCache`."""
    before = model.config._attn_implementation
    model.set_attn_implementation("branches")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
