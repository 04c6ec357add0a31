"""One base, many adapters; what a run saves loads in plain peft and transformers."""

import pytest
import torch
from families import dressed
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ipr_lite.chat import Chat
from ipr_lite.config import TINY_BASE, scale
from ipr_lite.engine.merge import merged, save_merged
from ipr_lite.model import (
    adapter_weights,
    add_adapters,
    load_adapter_weights,
    load_base,
    load_tokenizer,
    save_adapter,
    set_adapter_weights,
)


def noisy(policy, seed):
    """Weights of an adapter that does something."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value + 0.05 * torch.randn(value.shape, generator=generator)
        for key, value in adapter_weights(policy).items()
    }


@pytest.fixture(params=["nf4", "full"])
def policy(request):
    return add_adapters(load_base(str(TINY_BASE), request.param), scale("tiny"), 0)


@pytest.fixture()
def ids():
    tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
    text = "WebShop [SEP] Instruction: [SEP] i need a red lamp [SEP] Search"
    return tokenizer(text, return_tensors="pt")["input_ids"]


def logprobs(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits.log_softmax(-1)


def test_roles_are_switched_by_name_over_one_base(policy, ids):
    set_adapter_weights(policy, noisy(policy, 1), "sft")
    policy.eval()
    fresh = logprobs(policy, ids)
    policy.set_adapter("sft")
    other = logprobs(policy, ids)
    assert (fresh - other).abs().max() > 0.01
    policy.set_adapter("default")
    assert torch.equal(logprobs(policy, ids), fresh)
    bases = [n for n, _ in policy.named_parameters() if n.endswith("base_layer.weight")]
    assert len(bases) == 7 * policy.config.num_hidden_layers, "a second copy of the base"


def test_the_merged_copy_computes_what_the_adapter_computes(policy, ids):
    weights = noisy(policy, 2)
    set_adapter_weights(policy, weights, "default")
    policy.eval()
    assert torch.allclose(logprobs(policy, ids), logprobs(merged(policy, weights), ids), atol=1e-4)
    with policy.disable_adapter():
        assert torch.allclose(logprobs(policy, ids), logprobs(merged(policy, None), ids), atol=1e-4)


def test_a_saved_adapter_loads_in_plain_peft(policy, ids, tmp_path):
    weights = noisy(policy, 3)
    set_adapter_weights(policy, weights, "default")
    policy.eval()
    save_adapter(policy, tmp_path / "adapter")
    base = policy.get_base_model()
    quantization = getattr(base.config, "quantization_config", None)
    plain = AutoModelForCausalLM.from_pretrained(TINY_BASE, dtype=torch.float32, quantization_config=quantization)
    # Not `eval`, for which bitsandbytes computes in bfloat16 on some processors; there is no dropout.
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter").train()
    assert torch.allclose(logprobs(policy, ids), logprobs(loaded, ids), atol=1e-5)
    assert load_adapter_weights(tmp_path / "adapter").keys() == weights.keys()


def test_nf4_is_four_bits():
    base = load_base(str(TINY_BASE), "nf4")
    from bitsandbytes.nn import Linear4bit

    layers = [m for m in base.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 7 * base.config.num_hidden_layers
    assert all(layer.weight.quant_type == "nf4" for layer in layers)


def test_nf4_trains_after_it_was_read_on_every_processor(ids, monkeypatch):
    """bitsandbytes would repack the weights for processors with AVX512-BF16, and compute in bfloat16 from then on."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    policy = add_adapters(load_base(str(TINY_BASE), "nf4"), scale("tiny"), 0)
    in_training = policy.train()(input_ids=ids).logits
    read = policy.eval()(input_ids=ids).logits
    with torch.no_grad():
        again = policy(input_ids=ids).logits
    torch.testing.assert_close(read, in_training)
    torch.testing.assert_close(again, in_training)
    policy.train()(input_ids=ids, labels=ids).loss.backward()


@pytest.mark.parametrize("precision, model, error", [
    ("int3", str(TINY_BASE), "unknown precision 'int3'"),
    ("nf4", "no/such/../folder/", None),
])  # fmt: skip
def test_bad_requests(precision, model, error, tmp_path):
    if error:
        with pytest.raises(ValueError, match=error):
            load_base(model, precision)
    else:
        with pytest.raises(FileNotFoundError, match="config.json is missing"):
            load_base(str(tmp_path), precision)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="choose one of tiny, smol, small, consumer"):
        scale("huge")


@pytest.mark.parametrize("family", ["qwen3", "llama3", "gemma", "phi3"])
def test_a_merged_checkpoint_talks_as_it_was_trained(policy, family, tmp_path):
    """No thought, no date but the constant one, and a turn ends where training ended it, `eos_token` or not."""
    tokenizer = dressed(load_tokenizer(TINY_BASE), family)
    save_merged(policy, None, tokenizer, tmp_path)
    chat, written = Chat(tokenizer), AutoTokenizer.from_pretrained(tmp_path)
    assert (written.chat_template, Chat(written).constants) == (chat.template, {})
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == chat.end
