"""A key-value cache in the shape of the data: a trunk for a prompt, a branch for what follows it.

Rollouts of one task begin with parts of the same conversation, and reading keys and values is what a token costs
on a small model. So a prompt is stored once, as a trunk, and read once for all that grow on it; a branch sees the
first `visible` tokens of its trunk and holds only its own. `_Layer.attend` puts the two together: the same attention
as over one cache. Nothing is copied from token to token; a branch that outgrows its place moves to one twice as long.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

SHORTEST = 128
"""Tokens that the smallest place for a branch has room for."""
FEW = 17
"""Rows of a pass with up to so many new tokens are computed together, longer ones each by itself."""


@dataclass(eq=False)
class Trunk:
    """A prompt's tokens and, once read, their keys and values: one (kv heads, tokens, size) for every layer."""

    tokens: list[int]
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)


@dataclass(eq=False)
class Branch:
    """Tokens that follow the first `visible` of a trunk; the cache holds `length` of them, in slot `slot`."""

    trunk: Trunk | None = None
    visible: int = 0
    length: int = 0
    store: "_Store | None" = None
    slot: int = -1


class _Store:
    """Places of equal length: for every layer keys and values, (slots, kv heads, capacity, size)."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.branches: list[Branch] = []
        self.layers: list[list[torch.Tensor]] = []

    def add(self, branch: Branch, source: "_Store | None" = None, slot: int = -1):
        """Give a branch the next slot, with the tokens that it holds in a slot of `source`."""
        branch.store, branch.slot = self, len(self.branches)
        self.branches.append(branch)
        for number, layer in enumerate(source.layers if source and branch.length else []):
            for mine, theirs in zip(self.layer(number, *layer), layer):
                mine[branch.slot, :, : branch.length] = theirs[slot, :, : branch.length]

    def free(self, slot: int):
        """The last branch takes over a slot that gets free, so that those in use stay together."""
        mover, last = self.branches.pop(), len(self.branches)
        if slot == last:
            return
        # A branch that holds nothing yet may have a slot that the tensors do not have yet.
        for tensor in itertools.chain(*self.layers) if mover.length else ():
            tensor[slot, :, : mover.length] = tensor[last, :, : mover.length]
        self.branches[slot] = mover
        mover.slot = slot

    def layer(self, number: int, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        """Keys and values of a layer with a slot for every branch; heads and sizes are those of these."""
        if number == len(self.layers):
            self.layers.append([x.new_zeros(0, x.shape[-3], self.capacity, x.shape[-1]) for x in (keys, values)])
        slots = len(self.layers[number][0])
        if slots < len(self.branches):
            more = max(16, 2 * slots, len(self.branches)) - slots
            self.layers[number] = [pad(x, (0, 0, 0, 0, 0, 0, 0, more)) for x in self.layers[number]]
        return self.layers[number]


@dataclass
class _Group:
    """Short rows of a pass whose branches lie in one store. A token's place is its slot times `t` plus its number."""

    store: _Store
    tokens: torch.Tensor
    places: torch.Tensor
    t: int
    limit: int

    def scores(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Products of queries (tokens, kv heads, m, size) with their rows' keys: (tokens, kv heads, m, limit)."""
        held = keys[: len(self.store.branches), :, : self.limit]
        spread = self._spread(queries)
        # For a single query a row, keys to the left are a quarter faster on a CPU.
        return self._gather((held @ spread.mT).mT if spread.shape[2] == 1 else spread @ held.mT)

    def mix(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Sums of the rows' values with weights (tokens, kv heads, m, limit): (tokens, kv heads, m, size)."""
        return self._gather(self._spread(weights) @ values[: len(self.store.branches), :, : self.limit])

    def _spread(self, tokens: torch.Tensor) -> torch.Tensor:
        """(tokens, kv heads, m, x) -> (slots, kv heads, t * m, x), with zeros where a slot has no token.

        Slots whose rows are not in this pass take part in the product: cheaper than to copy what the others hold.
        """
        slots = len(self.store.branches)
        spread = tokens.new_zeros(slots * self.t, *tokens.shape[1:]).index_copy_(0, self.places, tokens)
        return spread.unflatten(0, (slots, self.t)).transpose(1, 2).flatten(2, 3)

    def _gather(self, slots: torch.Tensor) -> torch.Tensor:
        """The way back."""
        return slots.unflatten(2, (self.t, -1)).transpose(1, 2).flatten(0, 1).index_select(0, self.places)


class _Layer(CacheLayerMixin):
    """One layer. transformers calls `update` with new keys and values, then attention "branches" with the result."""

    is_sliding = False

    def __init__(self, cache: "BranchedCache", number: int):
        super().__init__()
        self.cache, self.number = cache, number

    def lazy_initialization(self, key_states, value_states):
        """Stores make their tensors when first written."""

    def update(self, key_states, value_states, *args, **kwargs):
        """Store new keys and values, (1, kv heads, tokens, size); `attend` is handed the layer itself for both."""
        self.new = key_states[0], value_states[0]
        if self.cache.trunk:
            self.cache.trunk.keys.append(self.new[0].clone())
            self.cache.trunk.values.append(self.new[1].clone())
        for store, tokens, slots, positions in self.cache.writes:
            for mine, new in zip(store.layer(self.number, *self.new), self.new):
                mine[slots, :, positions] = new[:, tokens].transpose(0, 1)
        return self, self

    def attend(self, query: torch.Tensor, scaling: float, window: int | None) -> torch.Tensor:
        """Attention of queries (heads, tokens, size), each to what its row holds; (heads, tokens, size)."""
        query, cache = query * scaling, self.cache
        if cache.trunk:
            return self._one_row(query, *self.new, window)
        found = torch.empty_like(query)
        if cache.groups:
            found[:, : cache.short] = self._short_rows(query[:, : cache.short], window)
        for branch, place in cache.long:
            end = branch.length + place.stop - place.start
            both = [x[branch.slot, :, :end] for x in branch.store.layers[self.number]]
            if branch.visible:
                trunk = branch.trunk.keys[self.number], branch.trunk.values[self.number]
                both = [torch.cat([old[:, : branch.visible], x], 1) for old, x in zip(trunk, both)]
            found[:, place] = self._one_row(query[:, place], *both, window)
        return found

    def _one_row(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> torch.Tensor:
        """The last tokens of one row, (heads, new, size), over all its keys and values."""
        new, total, seen = query.shape[1], keys.shape[1], None
        if new < total or (window is not None and window < total):
            at = torch.arange(total, device=query.device)
            distance = at[-new:, None] - at
            seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        all_three = query[None], keys[None], values[None]
        return scaled_dot_product_attention(
            *all_three, attn_mask=seen, is_causal=seen is None, scale=1.0, enable_gqa=True
        )[0]

    def _short_rows(self, query: torch.Tensor, window: int | None) -> torch.Tensor:
        """All short rows: a product for every trunk, one for every store of branches, one softmax."""
        cache, number, kv = self.cache, self.number, len(self.new[0])
        heads, tokens, size = query.shape
        query = query.reshape(kv, -1, tokens, size).transpose(1, 2).contiguous()  # (kv heads, tokens, m, size)
        scores = query.new_empty(*query.shape[:3], cache.width)
        for trunk, place in cache.families:
            of_trunk = query[:, place].flatten(1, 2) @ trunk.keys[number].mT
            scores[:, place, :, : len(trunk.tokens)] = of_trunk.unflatten(1, (-1, query.shape[2]))
        for group in cache.groups:
            of_branches = group.scores(query[:, group.tokens].transpose(0, 1), group.store.layers[number][0])
            scores[:, group.tokens, :, cache.edge : cache.edge + group.limit] = of_branches.transpose(0, 1)
        weights = scores.masked_fill_(cache.hidden(window), -torch.inf).softmax(-1, dtype=torch.float32).to(query.dtype)
        found = torch.zeros_like(query)
        for trunk, place in cache.families:
            of_trunk = weights[:, place, :, : len(trunk.tokens)].flatten(1, 2) @ trunk.values[number]
            found[:, place] = of_trunk.unflatten(1, (-1, query.shape[2]))
        for group in cache.groups:
            mine = weights[:, group.tokens, :, cache.edge : cache.edge + group.limit].transpose(0, 1)
            found[:, group.tokens] += group.mix(mine, group.store.layers[number][1]).transpose(0, 1)
        return found.transpose(1, 2).reshape(heads, tokens, size)

    def get_mask_sizes(self, query_length):
        return query_length, 0

    def get_seq_length(self):
        return 0

    def get_max_length(self):
        return -1


class BranchedCache(Cache):
    """A transformers cache of trunks and branches. `Forest` says before each pass where its tokens belong.

    A pass has one row for transformers: the tokens of a trunk, or of all branches, one after the other, without padding.
    """

    def __init__(self, layers: int):
        super().__init__(layers=[_Layer(self, number) for number in range(layers)])

    def aim_at_trunk(self, trunk: Trunk):
        """The pass reads this trunk."""
        self.trunk, self.writes = trunk, []

    def aim_at_branches(self, branches: list[Branch], lengths: list[int], device: torch.device):
        """The pass adds `lengths[i]` tokens to `branches[i]`: short rows first, among them those of a trunk together."""
        self.trunk, self._hidden = None, {}
        ends = list(itertools.accumulate(lengths))
        rows = [(branch, slice(end - length, end)) for branch, end, length in zip(branches, ends, lengths)]
        self.short = sum(length for length in lengths if length <= FEW)
        short = [(branch, place) for branch, place in rows if place.stop <= self.short]
        self.long = rows[len(short) :]

        def numbers(values) -> torch.Tensor:
            return torch.tensor(list(values), device=device)

        def spread(rows: list[tuple[Branch, slice]]) -> list[tuple[Branch, int, int]]:
            """Every new token: its branch, its place in the pass and its number among the row's."""
            return [(b, i, i - place.start) for b, place in rows for i in range(place.start, place.stop)]

        self.writes, self.groups = [], []
        for store in dict.fromkeys(branch.store for branch in branches):
            mine = spread([row for row in rows if row[0].store is store])
            slots, positions = numbers(b.slot for b, *_ in mine), numbers(b.length + j for b, _, j in mine)
            self.writes.append((store, numbers(i for _, i, _ in mine), slots, positions))
            grouped = spread([row for row in short if row[0].store is store])
            if grouped:
                t, limit = 1 + max(j for *_, j in grouped), 1 + max(b.length + j for b, _, j in grouped)
                spots = numbers(b.slot * t + j for b, _, j in grouped)
                self.groups.append(_Group(store, numbers(i for _, i, _ in grouped), spots, t, limit))
        if not short:
            return
        self.families = []
        for trunk, family in itertools.groupby(short, lambda row: row[0].trunk):
            places = [place for _, place in family]
            if trunk:
                self.families.append((trunk, slice(places[0].start, places[-1].stop)))
        self.edge = max((len(trunk.tokens) for trunk, _ in self.families), default=0)
        self.width = self.edge + max(group.limit for group in self.groups)
        # Where every query and every key of its row stand in the conversation; a key behind the visible part of
        # the trunk stands behind every query.
        tokens = spread(short)
        visible = numbers(b.visible for b, *_ in tokens)[:, None]
        at = torch.arange(self.width, device=device)
        behind = torch.iinfo(torch.int64).max
        self.key_at = torch.where(at < visible, at, torch.where(at < self.edge, behind, at - self.edge + visible))
        self.query_at = numbers(b.visible + b.length + j for b, _, j in tokens)[:, None]

    def hidden(self, window: int | None) -> torch.Tensor:
        """Which keys a token of a short row must not see, (tokens, 1, width): later ones, and too early ones."""
        if window not in self._hidden:
            distance = self.query_at - self.key_at
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self._hidden[window] = hidden[:, None]
        return self._hidden[window]


def attend(module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, **unused):
    """What transformers calls for attention "branches": keys and values are the cache's layer."""
    if softcap is not None:
        raise NotImplementedError("rollouts do not know attention with capped scores (Gemma 2); take another model")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return key.attend(query[0], scaling, sliding_window).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register("branches", attend)


class Forest:
    """The trunks and branches in play, and the model that reads tokens onto them.

    Used as a context: within, the model's attention is "branches".
    """

    def __init__(self, causal):
        self.causal = causal
        self.device = causal.get_input_embeddings().weight.device
        self.cache = BranchedCache(causal.config.get_text_config().num_hidden_layers)
        self.stores: dict[int, _Store] = {}
        self.tokens_read = 0

    def __enter__(self):
        self._before = self.causal.config._attn_implementation
        self.causal.set_attn_implementation("branches")
        return self

    def __exit__(self, *error):
        self.causal.set_attn_implementation(self._before)

    def read_trunk(self, trunk: Trunk):
        """Read a whole trunk."""
        self.cache.aim_at_trunk(trunk)
        self._forward([trunk.tokens], [0], [0])

    def read(self, branches: list[Branch], tokens: list[list[int]], wanted: list[int]) -> torch.Tensor:
        """Put `tokens[i]` after what `branches[i]` holds; logits after each of the last `wanted[i]` of them.

        Returns (sum of `wanted`, vocab), branch after branch.
        """
        for branch, new in zip(branches, tokens):
            self._make_room(branch, branch.length + len(new))
        order = sorted(range(len(branches)), key=lambda i: (len(tokens[i]) > FEW, id(branches[i].trunk)))
        in_order = [branches[i] for i in order]
        self.cache.aim_at_branches(in_order, [len(tokens[i]) for i in order], self.device)
        ends = dict(zip(order, itertools.accumulate(len(tokens[i]) for i in order)))
        last = [place for i, count in enumerate(wanted) for place in range(ends[i] - count, ends[i])]
        starts = [branch.visible + branch.length for branch in in_order]
        logits = self._forward([tokens[i] for i in order], starts, last)
        for branch, new in zip(branches, tokens):
            branch.length += len(new)
        return logits

    def fork(self, branch: Branch, length: int) -> Branch:
        """A second branch with the first `length` tokens of one."""
        twin = Branch(branch.trunk, branch.visible, length)
        branch.store.add(twin, branch.store, branch.slot)
        return twin

    def drop(self, branch: Branch):
        """Free a branch's place."""
        branch.store.free(branch.slot)

    def _make_room(self, branch: Branch, length: int):
        source, slot = branch.store, branch.slot
        if source and length <= source.capacity:
            return
        capacity = SHORTEST
        while capacity < length:
            capacity *= 2
        self.stores.setdefault(capacity, _Store(capacity)).add(branch, source, slot)
        if source:
            source.free(slot)

    def _forward(self, tokens: list[list[int]], starts: list[int], wanted: list[int]) -> torch.Tensor:
        """Logits after the tokens at places `wanted`, (wanted, vocab), of lists of tokens one after the other.

        The first token of list i stands at position `starts[i]` of its conversation.
        """
        ids = list(itertools.chain(*tokens))
        positions = [start + j for new, start in zip(tokens, starts) for j in range(len(new))]
        self.tokens_read += len(ids)
        return self.causal(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            # Who sees what is the cache's business; a mask of four dimensions keeps transformers from making its own.
            attention_mask=torch.zeros(1, 1, 1, 1, device=self.device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(wanted, device=self.device),
        ).logits[0].float()
