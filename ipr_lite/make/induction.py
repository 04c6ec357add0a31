"""A Llama that copies before it has learnt anything: an induction head, written by hand.

An agent must repeat what its context shows, such as a product's id. Models do this with two heads
(Olsson et al. 2022, "In-context Learning and Induction Heads"): a head of the first layer notes at
every position which token came before it; a head of the second layer, at a token that was seen
before, attends to the position whose note is that token, and so to what came next. Large models
find the pair by themselves. Ours, with under a million parameters and minutes of training, did not
(book/log.md), so both heads start where training would have to bring them; nothing is frozen.
"""

from __future__ import annotations

import math

import torch
from transformers import LlamaForCausalLM

EMBEDDING_SCALE = 0.1
"""Standard deviation of an embedding at the start: above the noise of the other heads (0.02)."""
PREVIOUS_SCORE = 60.0
"""Squared length, for each frequency used, of the biases that make a head look one token back."""
FAST = 0.05
"""Radians a token: frequencies of the rotary embedding above this tell neighbours apart."""


@torch.no_grad()
def start_with_induction(model: LlamaForCausalLM, seed: int = 0) -> None:
    """Write a previous-token head into layer 0 and an induction head into layer 1, both head 0.

    The model needs two layers or more and biases in its attention (`attention_bias=True`); a large
    `rope_theta` leaves most of a head's dimensions free of position, to compare tokens by.
    """
    config = model.config
    width, head = config.hidden_size, config.head_dim
    generator = torch.Generator().manual_seed(seed)

    def directions() -> torch.Tensor:
        """(head, width): orthonormal rows at random, one way to read or write a token."""
        return torch.linalg.qr(torch.randn(width, width, generator=generator))[0][:head]

    token, note, copied = directions(), directions(), directions()
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(0, EMBEDDING_SCALE, generator=generator)

    # Layer 0: constant query and key, so that the score depends on the distance alone. Rotated by
    # their positions they are aligned where the key stands one before the query.
    previous = model.model.layers[0].self_attn
    half = head // 2
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    length = math.sqrt(PREVIOUS_SCORE) * (frequency > FAST)
    previous.k_proj.bias[:head] = torch.cat([length, torch.zeros(half)])
    previous.q_proj.bias[:head] = torch.cat([length * frequency.cos(), -length * frequency.sin()])
    previous.q_proj.weight[:head] *= 0.1
    previous.k_proj.weight[:head] *= 0.1
    previous.v_proj.weight[:head] = token
    previous.o_proj.weight[:, :head] = EMBEDDING_SCALE * note.T

    # Layer 1: the query is this token, the key the noted one; what it finds is added to the stream,
    # from where the tied embeddings read it as the next token.
    induction = model.model.layers[1].self_attn
    induction.q_proj.weight[:head] = 2 * token
    induction.k_proj.weight[:head] = 2 * note
    induction.v_proj.weight[:head] = copied
    induction.o_proj.weight[:, :head] = 4 * EMBEDDING_SCALE * copied.T
