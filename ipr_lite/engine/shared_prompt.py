"""Rows that begin alike, read as one row in which what they share stands once.

The two sides of a pair share its prompt, and pairs of one demonstration share more. Cut where they part, rows are a
tree of pieces; the model reads all pieces one after the other, without padding. A token's place in its own row goes
into the model as its position, and attention lets each piece see itself and the pieces before it in its rows: what
comes out is what every row alone would give, and so are the gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AttentionInterface

from ipr_lite import train
from ipr_lite.chat import Encoded
from ipr_lite.engine.attention import attend_plainly
from ipr_lite.engine.cache import check_attention
from ipr_lite.model import unknown_attention
from ipr_lite.train import Read

ONE_PRODUCT_BELOW = 50_000_000
"""Parameters up to which training multiplies by base and adapter in one; above, the gradient of the sum costs more than it saves."""


@dataclass
class Piece:
    """Tokens that the same rows share; the pieces before them in those rows, by number; where in the rows they begin."""

    tokens: list[int]
    before: list[int]
    start: int
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, like: Tensor) -> Tensor:
        """-inf on keys behind a token and on those `window` or more before it, else 0: (tokens, start + tokens)."""
        if window not in self.masks:
            end = self.start + len(self.tokens)
            ahead = torch.arange(self.start, end)[:, None] - torch.arange(end)
            hidden = ahead < 0 if window is None else (ahead < 0) | (ahead >= window)
            self.masks[window] = like.new_zeros(hidden.shape).masked_fill_(hidden.to(like.device), -torch.inf)
        return self.masks[window]


def cut(rows: list[list[int]]) -> tuple[list[Piece], list[list[int]]]:
    """The pieces of these rows, and for every row the numbers of its own, from first to last."""
    pieces, path = [], [[] for _ in rows]

    def grow(members: list[int], start: int, before: list[int]) -> None:
        members = sorted((i for i in members if len(rows[i]) > start), key=lambda i: rows[i][start])
        for _, family in itertools.groupby(members, lambda i: rows[i][start]):
            family = list(family)
            first, last = (edge(rows[i][start:] for i in family) for edge in (min, max))
            shorter = min(len(first), len(last))
            alike = next((n for n in range(shorter) if first[n] != last[n]), shorter)
            number = len(pieces)
            pieces.append(Piece(first[:alike], before, start))
            for i in family:
                path[i].append(number)
            grow(family, start + alike, [*before, number])

    grow(list(range(len(rows))), 0, [])
    return pieces, path


def log_probabilities(policy: PeftModel, rows: list[Encoded]) -> Tensor:
    """As `train.log_probabilities`, within `reading`."""
    pieces, path = cut([row.input_ids for row in rows])
    ends = list(itertools.accumulate(len(piece.tokens) for piece in pieces))
    places, targets, counts = [], [], []
    for row, numbers in zip(rows, path, strict=True):
        where = [place for n in numbers for place in range(ends[n] - len(pieces[n].tokens), ends[n])]
        labels = [i for i, mine in enumerate(row.agent_mask) if mine]
        places += [where[i - 1] for i in labels]
        targets += [row.input_ids[i] for i in labels]
        counts.append(len(labels))

    def numbers(values: list) -> Tensor:
        return torch.tensor(values, device=policy.device)

    logits = policy(
        input_ids=numbers([[token for piece in pieces for token in piece.tokens]]),
        position_ids=numbers([[piece.start + i for piece in pieces for i in range(len(piece.tokens))]]),
        # Who sees what is in the pieces; a mask of four dimensions keeps transformers from making one.
        attention_mask=torch.zeros(1, 1, 1, 1, device=policy.device),
        use_cache=False,
        logits_to_keep=numbers(places),
        pieces=pieces,
    ).logits[0]
    found = -F.cross_entropy(logits.float(), numbers(targets), reduction="none")
    return torch.stack([part.sum() for part in found.split(counts)])


def _attention(
    module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, pieces=(), **more
):
    """What transformers calls for attention "pieces", with (1, heads, tokens, size) each."""
    if isinstance(more.get("s_aux"), Tensor) or not getattr(module, "is_causal", True):
        raise unknown_attention(module.config, "attention with s_aux or sight of what comes after")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths, found = [len(piece.tokens) for piece in pieces], []
    if softcap is not None:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    keys, values = key.split(lengths, 2), value.split(lengths, 2)
    for n, (piece, own) in enumerate(zip(pieces, query.split(lengths, 2), strict=True)):
        k, v = (torch.cat([parts[i] for i in [*piece.before, n]], 2) for parts in (keys, values))
        window = sliding_window if sliding_window is not None and sliding_window < k.shape[2] else None
        if softcap is not None:
            found.append(attend_plainly(own, k, v, piece.mask(window, own), scaling, softcap)[0])
            continue
        plain = window is None and not piece.start
        mask = None if plain else piece.mask(window, own)
        found.append(F.scaled_dot_product_attention(own, k, v, mask, is_causal=plain, scale=scaling, enable_gqa=True))
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register("pieces", _attention)


@contextmanager
def reading(policy: PeftModel, longest: int) -> Iterator[Read]:
    """A `Reading` by `log_probabilities`, or of each row alone where the model has attention that is not known here."""
    causal = policy.get_base_model()
    try:
        check_attention(causal, longest)
    except NotImplementedError:
        yield train.log_probabilities
        return
    before = causal.config._attn_implementation
    causal.set_attn_implementation("pieces")
    # In half precision the sum would swallow what an adapter adds; a copy of a large model would not fit.
    small = causal.dtype == torch.float32 and sum(p.numel() for p in causal.parameters()) < ONE_PRODUCT_BELOW
    layers = [module for module in causal.modules() if isinstance(module, LoraLayer)] if small else []
    try:
        for layer in layers:
            layer.forward = _one_product(layer)
        yield log_probabilities
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        causal.set_attn_implementation(before)


@torch.no_grad()
def _one_product(layer: LoraLayer) -> Callable[[Tensor], Tensor]:
    """x (W + s B A) in place of x W + s (x B) A: one product, with weights that are unpacked from 4 bits once."""
    base = layer.get_base_layer()
    # What a layer computes is read off its own output on the identity matrix, as in `model.merged`.
    weight = base(torch.eye(base.in_features, device=base.weight.device)).T
    weight = (weight if base.bias is None else weight - base.bias[:, None]).contiguous()

    def forward(x: Tensor) -> Tensor:
        (name,) = layer.active_adapters
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        return F.linear(x, torch.addmm(weight, b, a, alpha=layer.scaling[name]), base.bias)

    return forward
