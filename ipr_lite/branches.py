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
FEW = 24
"""Up to so many new tokens a row, all rows are computed together; with more, each by itself, without padding."""


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

    def add(self, branch: Branch, length: int, source: "_Store | None", slot: int):
        """Give a branch the next slot, with the first `length` tokens of a slot of `source`."""
        branch.store, branch.slot = self, len(self.branches)
        self.branches.append(branch)
        for number, layer in enumerate(source.layers if source and length else []):
            for mine, theirs in zip(self.layer(number, *layer), layer):
                mine[branch.slot, :, :length] = theirs[slot, :, :length]

    def remove(self, branch: Branch):
        """The last branch takes over the slot that gets free, so that those in use stay together."""
        mover = self.branches.pop()
        if mover is not branch:
            # A branch that holds nothing yet may have a slot that the tensors do not have yet.
            for tensor in itertools.chain(*self.layers) if mover.length else ():
                tensor[branch.slot, :, : mover.length] = tensor[mover.slot, :, : mover.length]
            self.branches[branch.slot] = mover
            mover.slot = branch.slot
        branch.store = None

    def layer(self, number: int, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        """Keys and values of a layer, shaped like these, with a slot for every branch."""
        if number == len(self.layers):
            self.layers.append([x.new_zeros(0, x.shape[1], self.capacity, x.shape[3]) for x in (keys, values)])
        slots = len(self.layers[number][0])
        if slots < len(self.branches):
            more = max(16, 2 * slots, len(self.branches)) - slots
            self.layers[number] = [pad(x, (0, 0, 0, 0, 0, 0, 0, more)) for x in self.layers[number]]
        return self.layers[number]


@dataclass
class _Group:
    """The rows of a pass whose branches lie in one store, their slots, and where each new token goes."""

    store: _Store
    rows: torch.Tensor
    slots: torch.Tensor
    limit: int
    tokens: tuple[torch.Tensor, torch.Tensor]
    places: tuple[torch.Tensor, torch.Tensor]

    def scores(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Products of queries (rows, kv heads, m, size) with their rows' keys: (rows, kv heads, m, limit)."""
        # Keys to the left: for a single query a quarter faster on a CPU.
        return (keys[: len(self.store.branches), :, : self.limit] @ self._spread(queries).mT).mT[self.slots]

    def mix(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Sums of the rows' values with weights (rows, kv heads, m, limit): (rows, kv heads, m, size)."""
        return (self._spread(weights) @ values[: len(self.store.branches), :, : self.limit])[self.slots]

    def _spread(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows where their slots are, zeros for rows not in this pass: cheaper than to copy what the others hold."""
        return rows.new_zeros(len(self.store.branches), *rows.shape[1:]).index_copy_(0, self.slots, rows)


class _Layer(CacheLayerMixin):
    """One layer. transformers calls `update` with new keys and values, then attention "branches" with the result."""

    is_sliding = False

    def __init__(self, cache: "BranchedCache", number: int):
        super().__init__()
        self.cache, self.number = cache, number

    def lazy_initialization(self, key_states, value_states):
        """Stores make their tensors when first written."""

    def update(self, key_states, value_states, *args, **kwargs):
        """Store new keys and values, (b, kv heads, t, size); `attend` is handed the layer itself for both."""
        self.new = key_states, value_states
        for trunk, row in self.cache.reading:
            for mine, new in zip((trunk.keys, trunk.values), self.new):
                mine.append(new[row, :, : len(trunk.tokens)].clone())
        for group in self.cache.groups:
            for mine, new in zip(group.store.layer(self.number, *self.new), self.new):
                mine[group.places[0], :, group.places[1]] = new.transpose(1, 2)[group.tokens]
        return self, self

    def attend(self, query: torch.Tensor, scaling: float, window: int | None) -> torch.Tensor:
        """Attention of queries (b, heads, t, size) to what their rows hold; (b, heads, t, size)."""
        cache, number = self.cache, self.number
        b, heads, t, size = query.shape
        if cache.reading:
            return self._causal(query, scaling, window)
        if t > FEW:
            return self._row_by_row(query, scaling, window)
        kv, edge = self.new[0].shape[1], cache.edge
        # Query heads that share a key head are rows of one matrix product: (kv heads, b, heads per key head * t, size).
        query = (query * scaling).reshape(b, kv, heads // kv * t, size).transpose(0, 1).contiguous()
        scores = query.new_empty(*query.shape[:3], cache.width)
        for trunk, rows in cache.families:
            trunk_scores = query[:, rows].flatten(1, 2) @ trunk.keys[number].mT
            scores[:, rows, :, : len(trunk.tokens)] = trunk_scores.unflatten(1, (-1, query.shape[2]))
        for group in cache.groups:
            branch_scores = group.scores(query[:, group.rows].transpose(0, 1), group.store.layers[number][0])
            scores[:, group.rows, :, edge : edge + group.limit] = branch_scores.transpose(0, 1)
        scores.unflatten(2, (-1, t)).masked_fill_(cache.hidden(window), -torch.inf)
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        found = torch.zeros_like(query)
        for trunk, rows in cache.families:
            trunk_found = weights[:, rows, :, : len(trunk.tokens)].flatten(1, 2) @ trunk.values[number]
            found[:, rows] = trunk_found.unflatten(1, (-1, query.shape[2]))
        for group in cache.groups:
            mine = weights[:, group.rows, :, edge : edge + group.limit].transpose(0, 1)
            found[:, group.rows] += group.mix(mine, group.store.layers[number][1]).transpose(0, 1)
        return found.transpose(0, 1).reshape(b, heads, t, size)

    def _row_by_row(self, query: torch.Tensor, scaling: float, window: int | None) -> torch.Tensor:
        """For many new tokens a row: each row by itself, over its trunk and branch side by side."""
        found, number = torch.empty_like(query), self.number
        query = query * scaling
        for row, (branch, new) in enumerate(self.cache.rows):
            seen, end = branch.visible, branch.length + new
            keys, values = (x[branch.slot, :, :end] for x in branch.store.layers[number])
            mine = query[row, :, :new].reshape(len(keys), -1, query.shape[3])
            scores = mine.new_empty(*mine.shape[:2], seen + end)
            torch.matmul(mine, keys.mT, out=scores[..., seen:])
            if seen:
                torch.matmul(mine, branch.trunk.keys[number][:, :seen].mT, out=scores[..., :seen])
            self.cache.mask(scores.unflatten(1, (-1, new)), window)
            weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
            mixed = weights[..., seen:] @ values
            if seen:
                mixed += weights[..., :seen] @ branch.trunk.values[number][:, :seen]
            found[row, :, :new] = mixed.reshape(-1, new, query.shape[3])
        return found

    def _causal(self, query: torch.Tensor, scaling: float, window: int | None) -> torch.Tensor:
        """Within trunks that are being read: everything they see is in this pass."""
        keys, values = self.new
        grouped = keys.shape[1] != query.shape[1]
        if window is None:
            return scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scaling, enable_gqa=grouped)
        at = torch.arange(query.shape[2], device=query.device)
        near = (at[:, None] >= at) & (at[:, None] - at < window)
        return scaled_dot_product_attention(query, keys, values, near, scale=scaling, enable_gqa=grouped)

    def get_mask_sizes(self, query_length):
        return self.cache.width, 0

    def get_seq_length(self):
        return self.cache.width

    def get_max_length(self):
        return -1


class BranchedCache(Cache):
    """A transformers cache of trunks and branches. `Forest` says before each pass what its rows are."""

    def __init__(self, layers: int):
        super().__init__(layers=[_Layer(self, number) for number in range(layers)])
        self.reading: list[tuple[Trunk, int]] = []
        self.groups: list[_Group] = []
        self.families: list[tuple[Trunk, slice]] = []
        self.width = 0

    def aim_at_trunks(self, trunks: list[Trunk]):
        """The pass reads these trunks, one a row."""
        self.reading = [(trunk, row) for row, trunk in enumerate(trunks)]
        self.groups, self.families, self.width = [], [], 0

    def aim_at_branches(self, branches: list[Branch], lengths: list[int], device: torch.device):
        """The pass adds `lengths[i]` tokens to `branches[i]`; those on one trunk are neighbours."""
        self.reading, self.groups, self.families, self._hidden = [], [], [], {}
        self.rows = list(zip(branches, lengths))
        by_store: dict[_Store, list[int]] = {}
        for row, branch in enumerate(branches):
            by_store.setdefault(branch.store, []).append(row)
        self.groups = [self._group(store, rows, device) for store, rows in by_store.items()]
        for trunk, family in itertools.groupby(range(len(branches)), lambda row: branches[row].trunk):
            family = list(family)
            if trunk:
                self.families.append((trunk, slice(family[0], family[-1] + 1)))
        self.edge = max((len(trunk.tokens) for trunk, _ in self.families), default=0)
        self.width = self.edge + max(group.limit for group in self.groups)
        # Where every key and every query of a row stands in its conversation; keys beyond the trunk's visible
        # part stand behind every query.
        visible = torch.tensor([branch.visible for branch in branches], device=device)[:, None]
        held = torch.tensor([branch.length for branch in branches], device=device)[:, None]
        at = torch.arange(self.width, device=device)
        beyond = torch.iinfo(torch.int64).max
        self.key_at = torch.where(at < visible, at, torch.where(at < self.edge, beyond, at - self.edge + visible))
        self.query_at = visible + held + torch.arange(max(lengths), device=device)

    @staticmethod
    def mask(scores: torch.Tensor, window: int | None):
        """Hide from the last tokens of a row, scores (..., new, all), what comes after them or is too long ago."""
        new, total = scores.shape[-2:]
        # Only among the new tokens does one come after another.
        later = torch.ones(new, new, dtype=torch.bool, device=scores.device).triu_(1)
        scores[..., total - new :].masked_fill_(later, -torch.inf)
        if window is not None and total > window:
            at = torch.arange(total, device=scores.device)
            scores.masked_fill_(at[-new:, None] - at >= window, -torch.inf)

    def _group(self, store: _Store, rows: list[int], device: torch.device) -> _Group:
        tokens = [(row, j) for row in rows for j in range(self.rows[row][1])]
        places = [(self.rows[row][0].slot, self.rows[row][0].length + j) for row, j in tokens]
        limit = 1 + max(place for _, place in places)
        slots = torch.tensor([self.rows[row][0].slot for row in rows], device=device)
        return _Group(
            store, torch.tensor(rows, device=device), slots, limit,
            tuple(torch.tensor(tokens, device=device).T), tuple(torch.tensor(places, device=device).T),
        )  # fmt: skip

    def hidden(self, window: int | None) -> torch.Tensor:
        """Which keys a query must not see, (b, 1, t, width): later ones, and those outside a sliding window."""
        if window not in self._hidden:
            distance = self.query_at[:, :, None] - self.key_at[:, None]
            # A padding query sees the last real one's keys and more, never nothing: no NaN arises.
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self._hidden[window] = hidden[:, None]
        return self._hidden[window]


def attend(module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, **unused):
    """What transformers calls for attention "branches": keys and values are the cache's layer."""
    if softcap is not None:
        raise NotImplementedError("rollouts do not know attention with capped scores (Gemma 2); take another model")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return key.attend(query, scaling, sliding_window).transpose(1, 2).contiguous(), None


AttentionInterface.register("branches", attend)


class Forest:
    """The trunks and branches in play, and the model that reads tokens onto them.

    Used as a context: within, the model's attention is "branches".
    """

    def __init__(self, causal):
        self.causal, self.backbone, self.head = causal, causal.base_model, causal.get_output_embeddings()
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

    def read_trunks(self, trunks: list[Trunk]):
        """Read whole trunks, in one pass."""
        ids, _ = self._lay_out([trunk.tokens for trunk in trunks])
        self.cache.aim_at_trunks(trunks)
        self._forward(ids, torch.arange(ids.shape[1], device=self.device).expand_as(ids))

    def read(self, branches: list[Branch], tokens: list[list[int]], wanted: list[int]) -> torch.Tensor:
        """Put `tokens[i]` after what `branches[i]` holds; logits after each of the last `wanted[i]` of them.

        Returns (sum of `wanted`, vocab), row after row.
        """
        for branch, new in zip(branches, tokens):
            self._make_room(branch, branch.length + len(new))
        order = sorted(range(len(branches)), key=lambda i: id(branches[i].trunk))
        ids, lengths = self._lay_out([tokens[i] for i in order])
        self.cache.aim_at_branches([branches[i] for i in order], lengths, self.device)
        hidden = self._forward(ids, self.cache.query_at)
        place = {i: row for row, i in enumerate(order)}
        chosen = [(place[i], j) for i, new in enumerate(tokens) for j in range(len(new) - wanted[i], len(new))]
        rows, positions = torch.tensor(chosen, device=self.device).T
        for branch, new in zip(branches, tokens):
            branch.length += len(new)
        return self.head(hidden[rows, positions]).float()

    def fork(self, branch: Branch, length: int) -> Branch:
        """A second branch with the first `length` tokens of one."""
        twin = Branch(branch.trunk, branch.visible, length)
        branch.store.add(twin, length, branch.store, branch.slot)
        return twin

    def drop(self, branch: Branch):
        """Free a branch's place."""
        if branch.store:
            branch.store.remove(branch)

    def _make_room(self, branch: Branch, length: int):
        if branch.store and length <= branch.store.capacity:
            return
        capacity = SHORTEST
        while capacity < length:
            capacity *= 2
        source, slot = branch.store, branch.slot
        store = self.stores.setdefault(capacity, _Store(capacity))
        if source:
            # The new place is filled before the old one is given away.
            store.add(moved := Branch(length=branch.length), branch.length, source, slot)
            source.remove(branch)
            branch.store, branch.slot = store, moved.slot
            store.branches[moved.slot] = branch
        else:
            store.add(branch, 0, None, -1)

    def _lay_out(self, tokens: list[list[int]]) -> tuple[torch.Tensor, list[int]]:
        """Token ids padded on the right, (b, t), and how many of each row are real."""
        lengths = [len(row) for row in tokens]
        width = max(lengths)
        self.tokens_read += sum(lengths)
        return torch.tensor([row + [0] * (width - len(row)) for row in tokens], device=self.device), lengths

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Who sees what is the cache's business; a mask of four dimensions keeps transformers from making its own.
        unused = torch.zeros(len(ids), 1, 1, 1, device=self.device)
        return self.backbone(
            input_ids=ids, attention_mask=unused, position_ids=positions, past_key_values=self.cache, use_cache=True
        ).last_hidden_state
