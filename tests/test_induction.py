"""The base's hand-written start: it copies before any training."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ipr_lite.make.induction import start_with_induction

LENGTH = 100


@pytest.fixture(scope="module")
def repeated():
    torch.manual_seed(0)
    return torch.randint(0, 500, (4, LENGTH)).repeat(1, 2)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def seen(model, ids):
    """The loss on the second half, and the two heads' attention where it should be."""
    out = model(input_ids=ids, output_attentions=True)
    loss = torch.nn.functional.cross_entropy(out.logits[:, LENGTH:-1].flatten(0, 1), ids[:, LENGTH + 1 :].flatten())
    later = torch.arange(1, 2 * LENGTH)
    second = torch.arange(LENGTH, 2 * LENGTH - 1)
    previous = out.attentions[0][:, 0, later, later - 1].mean()
    induction = out.attentions[1][:, 0, second, second - LENGTH + 1].mean()
    return loss.item(), previous.item(), induction.item()


def test_random_strings_are_copied_without_training(repeated):
    plain, started = llama(), llama()
    start_with_induction(started)
    loss, previous, induction = seen(started, repeated)
    assert previous > 0.9
    assert induction > 0.3
    untouched, _, by_chance = seen(plain, repeated)
    assert loss < untouched - 1.5
    assert by_chance < 0.02


def test_nothing_is_copied_where_nothing_repeats(repeated):
    model = llama()
    start_with_induction(model)
    torch.manual_seed(1)
    fresh = torch.stack([torch.randperm(500)[: 2 * LENGTH] for _ in range(4)])
    assert seen(model, fresh)[0] > seen(model, repeated)[0] + 1
