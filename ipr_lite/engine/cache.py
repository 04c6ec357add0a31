"""A key-value cache as a prefix tree: a shared prefix for the prompts, a branch for what follows in each row.

Rollouts of one task begin with parts of the same conversation, and reading keys and values is what a token costs
on a small model. So a prompt is stored once, as a shared prefix, and read once for all branches of it; a branch sees
the first `visible` tokens of its prefix and holds only its own. `_Layer.attend` puts the two together: the same attention
as over one cache. Nothing is copied from token to token; a branch that outgrows its place moves to one twice as long.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from ipr_lite.engine.attention import attend, attend_plainly, join
from ipr_lite.model import unknown_attention

SHORTEST = 128
"""Tokens that the smallest place for a branch has room for."""
FEW = 17
"""Rows of a pass with up to so many new tokens are computed together, longer ones each by itself."""


def capacity_for(length: int) -> int:
    """Tokens that the place of a branch of this length has room for."""
    capacity = SHORTEST
    while capacity < length:
        capacity *= 2
    return capacity


@dataclass(eq=False)
class Prefix:
    """A prompt's tokens and, once read, their keys and values: one (kv heads, tokens, size) for every layer."""

    tokens: list[int]
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)


@dataclass(eq=False)
class Branch:
    """Tokens that follow the first `visible` of a prefix; the cache holds `length` of them, in slot `slot`."""

    prefix: Prefix | None = None
    visible: int = 0
    length: int = 0
    store: _Store | None = None
    slot: int = -1


class _Store:
    """Places of equal length: for every layer keys and values, (slots, kv heads, capacity, size)."""

    def __init__(self, capacity: int, most: int):
        self.capacity, self.most = capacity, most
        self.branches: list[Branch] = []
        self.layers: list[list[torch.Tensor]] = []

    def add(self, branch: Branch, source: _Store | None = None, slot: int = -1):
        """Give a branch the next slot, with the tokens that it holds in a slot of `source`."""
        branch.store, branch.slot = self, len(self.branches)
        self.branches.append(branch)
        for number, layer in enumerate(source.layers if source and branch.length else []):
            for mine, theirs in zip(self.layer(number, *layer), layer, strict=True):
                mine[branch.slot, :, : branch.length] = theirs[slot, :, : branch.length]

    def free(self, slot: int):
        """The last branch takes over a slot that gets free, so that those in use stay together."""
        mover, last = self.branches.pop(), len(self.branches)
        if not last:
            self.layers = []  # an empty store keeps no memory
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
            more = max(len(self.branches), min(self.most, max(16, 2 * slots))) - slots
            self.layers[number] = [pad(x, (0, 0, 0, 0, 0, 0, 0, more)) for x in self.layers[number]]
        return self.layers[number]


@dataclass
class _Part:
    """Queries of a pass and the keys that they look at: what a prefix shows them, or what their branches hold.

    at: where the queries stand among the keys, (rows, queries). behind: whether that is behind all of them.
    """

    at: torch.Tensor
    keys: int
    behind: bool
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, like: torch.Tensor, heads: int) -> torch.Tensor | None:
        """-inf on keys behind a query and on those `window` or more before it, else 0.

        (rows, 1, heads * queries, keys), with the dtype and device of `like`.
        """
        if window not in self.masks:
            mask = None
            if window is not None or not self.behind:
                ahead = self.at[..., None] - torch.arange(self.keys, device=self.at.device)
                hidden = ahead < 0 if window is None else (ahead < 0) | (ahead >= window)
                mask = like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
                mask = mask.repeat_interleave(heads, 1)[:, None]
            self.masks[window] = mask
        return self.masks[window]


class _Layer(CacheLayerMixin):
    """One layer. transformers calls `update` with new keys and values, then attention "branches" with the result."""

    is_sliding = False

    def __init__(self, cache: BranchedCache, number: int):
        super().__init__()
        self.cache, self.number = cache, number

    def lazy_initialization(self, key_states, value_states):
        """Stores make their tensors when first written."""

    def update(self, key_states, value_states, *args, **kwargs):
        """Store new keys and values, (1, kv heads, tokens, size); `attend` is handed the layer itself for both."""
        self.new = key_states[0], value_states[0]
        if self.cache.prefix:
            self.cache.prefix.keys.append(self.new[0].clone())
            self.cache.prefix.values.append(self.new[1].clone())
        for store, tokens, slots, positions in self.cache.writes:
            for mine, new in zip(store.layer(self.number, *self.new), self.new, strict=True):
                mine[slots, :, positions] = new[:, tokens].transpose(0, 1)
        return self, self

    def attend(self, query: torch.Tensor, scale: float, window: int | None, cap: float | None) -> torch.Tensor:
        """Attention of queries (heads, tokens, size), each to what its row holds; (heads, tokens, size)."""
        cache, kv = self.cache, len(self.new[0])
        if cache.prefix:
            return self._attend_in_prefix(query, scale, window, cap)
        heads, tokens, size = query.shape
        m = heads // kv
        # Heads that share keys are as good as more queries: (kv heads, tokens, m, size).
        query = query.reshape(kv, m, tokens, size).transpose(1, 2)
        shown, own = torch.zeros_like(query), torch.empty_like(query)
        shown_total, own_total = query.new_full(query.shape[:3], -torch.inf), query.new_empty(query.shape[:3])

        # Stage 1: to the prefixes, once for all rows that see the same of one.
        def see(part: _Part, place: slice, keys: torch.Tensor, values: torch.Tensor, found, total):
            mask = part.mask(window, query, m)
            one, sums = attend(query[:, place].flatten(1, 2)[None], keys[None], values[None], mask, scale, cap)
            found[:, place], total[:, place] = one[0].unflatten(1, (-1, m)), sums[0].unflatten(1, (-1, m))

        for part, place, prefix in cache.views:
            keys, values = prefix.keys[self.number], prefix.values[self.number]
            see(part, place, keys[:, : part.keys], values[:, : part.keys], shown, shown_total)
        # Stage 2: to what the branches hold, long rows each by itself, the short ones of a store together.
        for part, place, branch in cache.long:
            keys, values = (x[branch.slot, :, : part.keys] for x in branch.store.layers[self.number])
            see(part, place, keys, values, own, own_total)
        for part, store, tokens_of, spots, fill in cache.groups:
            slots, t = part.at.shape
            keys, values = (x[:slots, :, : part.keys] for x in store.layers[self.number])
            spread = query[:, fill].unflatten(1, (slots, t)).transpose(0, 1).flatten(2, 3)
            one, sums = attend(spread, keys, values, part.mask(window, query, m), scale, cap)
            one, sums = (x.unflatten(2, (t, m)).transpose(0, 1).flatten(1, 2)[:, spots] for x in (one, sums))
            own[:, tokens_of], own_total[:, tokens_of] = one, sums
        # Stage 3: one attention from the two.
        found = join(shown, shown_total, own, own_total) if cache.views else own
        return found.transpose(1, 2).reshape(heads, tokens, size)

    def _attend_in_prefix(
        self, query: torch.Tensor, scale: float, window: int | None, cap: float | None
    ) -> torch.Tensor:
        """The tokens of a prefix, each to those up to it."""
        (keys, values), seen = self.new, None
        length = keys.shape[1]
        if cap is not None or (window is not None and window < length):
            seen = _Part(torch.arange(length, device=query.device)[None], length, False).mask(window, query, 1)
        if cap is not None:
            keys, values = (x.repeat_interleave(len(query) // len(x), 0) for x in (keys, values))
            return attend_plainly(query[None], keys[None], values[None], seen, scale, cap)[0][0]
        all_three = query[None], keys[None], values[None]
        return scaled_dot_product_attention(
            *all_three, attn_mask=seen, is_causal=seen is None, scale=scale, enable_gqa=True
        )[0]

    def get_mask_sizes(self, query_length):
        return query_length, 0

    def get_seq_length(self):
        return 0

    def get_max_length(self):
        return -1


class BranchedCache(Cache):
    """A transformers cache of prefixes and branches. `PrefixTree` says before each pass where its tokens belong.

    A pass has one row for transformers: the tokens of a prefix, or of all branches, one after the other, without padding.
    """

    def __init__(self, layers: int):
        super().__init__(layers=[_Layer(self, number) for number in range(layers)])

    def aim_at_prefix(self, prefix: Prefix):
        """The pass reads this prefix."""
        self.prefix, self.writes = prefix, []

    def aim_at_branches(self, branches: list[Branch], lengths: list[int], device: torch.device) -> torch.Tensor:
        """The pass adds `lengths[i]` tokens to `branches[i]`; branches that see the same of a prefix come together.

        Returns where the tokens stand in their conversations.
        """
        self.prefix = None
        ends = list(itertools.accumulate(lengths))
        places = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]

        def numbers(values) -> torch.Tensor:
            return torch.tensor(list(values), device=device)

        # Stage 1: of every token, its row, its number among the row's new ones, and where it stands in its branch.
        row = torch.repeat_interleave(torch.arange(len(branches), device=device), numbers(lengths))
        number = torch.arange(ends[-1], device=device) - numbers(place.start for place in places)[row]
        at = numbers(b.length for b in branches)[row] + number
        slot = numbers(b.slot for b in branches)[row]
        self.views, self.long, self.writes, self.groups = [], [], [], []
        # Stage 2: what the rows see of their prefixes.
        families = itertools.groupby(zip(branches, places, strict=True), lambda r: (r[0].prefix, r[0].visible))
        for (prefix, visible), family in families:
            family = list(family)
            if visible:
                place = slice(family[0][1].start, family[-1][1].stop)
                self.views.append((_Part(at[None, place] + visible, visible, True), place, prefix))
        # Stage 3: where each store writes, and what its rows see of it.
        by_store: dict[_Store, list[int]] = {}
        for i, branch in enumerate(branches):
            by_store.setdefault(branch.store, []).append(i)
        for store, mine in by_store.items():
            tokens = numbers(j for i in mine for j in range(places[i].start, places[i].stop))
            self.writes.append((store, tokens, slot[tokens], at[tokens]))
            short = [i for i in mine if lengths[i] <= FEW]
            for i in set(mine) - set(short):
                part = _Part(at[None, places[i]], branches[i].length + lengths[i], False)
                self.long.append((part, places[i], branches[i]))
            if not short:
                continue
            if len(short) < len(mine):
                tokens = numbers(j for i in short for j in range(places[i].start, places[i].stop))
            # The short rows of a store are read together, as (slots, t). Slots whose rows are not in this pass take
            # part, with any token: cheaper than to copy what the others hold.
            slots, t = len(store.branches), max(lengths[i] for i in short)
            spots = slot[tokens] * t + number[tokens]
            fill = torch.zeros(slots * t, dtype=torch.int64, device=device).index_copy_(0, spots, tokens)
            reach = torch.zeros_like(fill).index_copy_(0, spots, at[tokens])
            limit = max(branches[i].length + lengths[i] for i in short)
            part = _Part(reach.unflatten(0, (slots, t)), limit, False)
            self.groups.append((part, store, tokens, spots, fill))
        return at + numbers(b.visible for b in branches)[row]


def _branches(module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, **unused):
    """What transformers calls for attention "branches": keys and values are the cache's layer."""
    strange = [name for name, value in unused.items() if isinstance(value, torch.Tensor) and name != "position_ids"]
    if strange or not getattr(module, "is_causal", True):
        raise unknown_attention(module.config, f"attention with {', '.join(strange) or 'sight of what comes after'}")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return key.attend(query[0], scaling, sliding_window, softcap).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register("branches", _branches)


def check_attention(causal, max_length: int):
    """Raises NotImplementedError for a model whose attention rollouts would get wrong, as far as its config tells."""
    config = causal.config.get_text_config()
    strange = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if strange:
        raise unknown_attention(config, f"layers of type {', '.join(sorted(strange))}")
    if not causal._supports_attention_backend:
        raise unknown_attention(config, "attention of a model's own making")
    rope = getattr(config, "rope_parameters", None) or {}
    # Gemma 3 has them by the kind of layer.
    for parameters in (rope, *rope.values()):
        kind = parameters.get("rope_type") if isinstance(parameters, dict) else None
        if kind not in ("longrope", "dynamic"):
            continue
        limit = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        if max_length > limit:
            # One long row would turn all others of its pass.
            what = f"{kind!r} positions beyond {limit} tokens (an episode may have {max_length})"
            raise unknown_attention(config, what)


class PrefixTree:
    """The shared prefixes and branches in play, and the model that reads tokens onto them.

    Used as a context: within, the model's attention is "branches". most: branches that there may be at once.
    """

    def __init__(self, causal, most: int):
        self.causal, self.most = causal, most
        self.device = causal.get_input_embeddings().weight.device
        self.cache = BranchedCache(causal.config.get_text_config().num_hidden_layers)
        self.stores: dict[int, _Store] = {}
        self.tokens_read = self.passes = 0

    def __enter__(self):
        self._before = self.causal.config._attn_implementation
        self.causal.set_attn_implementation("branches")
        return self

    def __exit__(self, *error):
        self.causal.set_attn_implementation(self._before)

    def read_prefix(self, prefix: Prefix):
        """Read a whole prefix."""
        self.cache.aim_at_prefix(prefix)
        self._forward(prefix.tokens, torch.arange(len(prefix.tokens), device=self.device), [0])

    def read(self, branches: list[Branch], tokens: list[list[int]], wanted: list[int]) -> torch.Tensor:
        """Put `tokens[i]` after what `branches[i]` holds; logits after each of the last `wanted[i]` of them.

        Returns (sum of `wanted`, vocab), branch after branch.
        """
        for branch, new in zip(branches, tokens, strict=True):
            self._make_room(branch, branch.length + len(new))
        order = sorted(range(len(branches)), key=lambda i: (id(branches[i].prefix), branches[i].visible))
        in_order = [branches[i] for i in order]
        positions = self.cache.aim_at_branches(in_order, [len(tokens[i]) for i in order], self.device)
        ends = dict(zip(order, itertools.accumulate(len(tokens[i]) for i in order), strict=True))
        last = [place for i, count in enumerate(wanted) for place in range(ends[i] - count, ends[i])]
        logits = self._forward([token for i in order for token in tokens[i]], positions, last)
        for branch, new in zip(branches, tokens, strict=True):
            branch.length += len(new)
        return logits

    def fork(self, branch: Branch, length: int) -> Branch:
        """A second branch with the first `length` tokens of one."""
        twin = Branch(branch.prefix, branch.visible, length)
        branch.store.add(twin, branch.store, branch.slot)
        return twin

    def drop(self, branch: Branch):
        """Free a branch's place."""
        branch.store.free(branch.slot)

    def _make_room(self, branch: Branch, length: int):
        source, slot = branch.store, branch.slot
        if source and length <= source.capacity:
            return
        capacity = capacity_for(length)
        self.stores.setdefault(capacity, _Store(capacity, self.most)).add(branch, source, slot)
        if source:
            source.free(slot)

    def _forward(self, tokens: list[int], positions: torch.Tensor, wanted: list[int]) -> torch.Tensor:
        """Logits after the tokens at places `wanted`, (wanted, vocab); `positions` are those in their conversations."""
        self.tokens_read += len(tokens)
        self.passes += 1
        for layer in self.cache.layers:
            layer.new = None
        try:
            output = self.causal(
                input_ids=torch.tensor([tokens], device=self.device),
                position_ids=positions[None],
                # Who sees what is the cache's business; a mask of four dimensions keeps transformers from making one.
                attention_mask=torch.zeros(1, 1, 1, 1, device=self.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=torch.tensor(wanted, device=self.device),
            )
        except AttributeError as error:
            if isinstance(error.obj, _Layer):
                raise unknown_attention(self.causal.config, "a use of cached keys other than attention") from error
            raise
        if any(layer.new is None for layer in self.cache.layers):
            raise unknown_attention(self.causal.config, "layers without keys and values of their own")
        return output.logits[0].float()
