"""The whole path with a small model of each family's architecture, random weights, in NF4, as with `--model FOLDER`."""

import csv
import gc
import re
from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from families import dressed
from transformers import AutoConfig, AutoModelForCausalLM

from ipr_lite.config import SCALES, TINY_BASE, Config
from ipr_lite.engine import merge as merging
from ipr_lite.engine.cache import Branch, Prefix, PrefixTree, check_attention
from ipr_lite.engine.merge import decoder
from ipr_lite.ipr import ipr
from ipr_lite.methods import policy_gradient
from ipr_lite.model import adapter_weights, add_adapters, load_base, load_tokenizer, set_adapter_weights
from ipr_lite.rollout import Rollouts as Plain
from ipr_lite.run import Run
from ipr_lite.study.generate import generate, play

WINDOW = 48
FAMILIES = {
    "qwen2": ("qwen2_5", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "llama": ("llama3_2", {}),
    "gemma2": ("gemma", {
        "head_dim": 16, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0,
        "tie_word_embeddings": False, "layer_types": ["sliding_attention", "full_attention"],
    }),
    "gemma3_text": ("gemma3", {
        "head_dim": 16, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"],
    }),
    "phi3": ("phi3", {"sliding_window": WINDOW, "pad_token_id": 0}),
}  # fmt: skip
LINEAR = {"phi3": 4}
"""Linear layers in a block: Phi-3's queries, keys and values are one, and gate and up; others have 7."""
CONFIG = Config(demonstrations=3, keep=0.5, sft_epochs=2, iterations=1, samples=1, updates=2, dev=1, test=1, showcase=1)
SHORT = replace(SCALES["tiny"], lora_rank=4, max_new_tokens=6)


def folder_of(family, path):
    """A model's folder as `save_pretrained` writes it."""
    chat, more = FAMILIES[family]
    tokenizer = dressed(load_tokenizer(str(TINY_BASE)), chat)
    torch.manual_seed(7)
    config = AutoConfig.for_model(
        family, **{
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "initializer_range": 0.2, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        } | more,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def quantized():
    """4-bit layers in memory that were made since `gc.freeze`."""
    return sum(type(thing) is Linear4bit for thing in gc.get_objects())


class Watched(Run):
    """A run that counts the 4-bit layers in memory whenever a progress bar is full, and after each stage."""

    def __init__(self, *args):
        super().__init__(*args, quiet=True)
        self.counts = {}

    def bar(self, what):
        def show(done, total):
            if done >= total:
                self.counts[f"in {what}"] = quantized()

        return show

    def stages(self):
        yield "sft", self.sft()
        for _, stage, made in ipr(self):
            yield stage, made
        yield "evaluate", self.metrics()


@pytest.fixture(scope="module", params=FAMILIES)
def finished(request, tmp_path_factory):
    """A run through all stages, its results by stage, and how often weights were made or read."""
    family, patch = request.param, pytest.MonkeyPatch()
    path = folder_of(family, tmp_path_factory.mktemp(family))
    gc.collect()
    gc.freeze()
    loads = []
    patch.setitem(SCALES, "tiny", SHORT)
    patch.setattr(merging, "MERGED_BELOW", 0)
    for name in ("from_pretrained", "from_config"):
        real = getattr(AutoModelForCausalLM, name)
        patch.setattr(
            AutoModelForCausalLM, name, lambda *a, real=real, name=name, **k: (loads.append(name), real(*a, **k))[1]
        )
    run = Watched(replace(CONFIG, model=str(path)), path / "run")
    results = {}
    for stage, result in run.stages():
        gc.collect()
        results[stage], run.counts[stage] = result, quantized()
    yield family, run, results, loads
    patch.undo()
    gc.unfreeze()


def test_every_stage_runs_over_one_base(finished):
    family, run, results, loads = finished
    assert loads == ["from_pretrained"], "weights were made a second time"
    layers = 2 * LINEAR.get(family, 7)
    assert set(run.counts.values()) == {layers}, run.counts
    assert {"in SFT", "in explore", "in train", "in evaluate base", "evaluate"} <= run.counts.keys()
    assert len(results["explore"]) >= 3 and results["score"]
    assert results["pairs"] and all(p.chosen_outcome > p.rejected_outcome for p in results["pairs"])
    moved = [key for key, weight in results["train"].items() if not torch.equal(weight, results["sft"][key])]
    assert len(moved) == len(results["sft"]) > 0
    assert {row["agent"] for row in results["evaluate"]} == {"base", "sft", "ipr-1", "ipr", "careful"}


def test_training_reads_what_the_model_itself_says(finished):
    """The first losses, against logits of the model's plain forward: the trainer's way loses nothing that a family adds."""
    family, run, results, _ = finished
    policy, causal = run.policy, run.policy.get_base_model()
    set_adapter_weights(policy, run.fresh, "default")
    policy.set_adapter("default")
    total = tokens = 0
    for trajectory in run.demonstrations():
        encoded = run.chat.encode(trajectory.messages)
        ids, mask = torch.tensor(encoded.input_ids), torch.tensor(encoded.agent_mask, dtype=torch.bool)[1:]
        assert len(ids) > 4 * WINDOW
        with torch.no_grad():
            logps = causal(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
            experience = policy_gradient.experience(run.chat, trajectory, [1.0] * trajectory.steps)
            torch.testing.assert_close(policy_gradient.read(policy, experience)[0], logps[mask], atol=1e-4, rtol=1e-4)
        total, tokens = total - logps[mask].sum().item(), tokens + mask.sum().item()
    first = next(csv.DictReader((run.folder / "sft_log.csv").open()))
    assert float(first["loss"]) == pytest.approx(total / tokens, rel=1e-4)
    row = next(csv.DictReader((run.folder / "iteration-1" / "train_log.csv").open()))
    assert float(row["margin"]) == pytest.approx(0, abs=1e-4), "the first round begins at its reference"


def test_branches_compute_what_the_plain_forward_computes(finished):
    """Logits behind a prefix and in two branches of it, one of which sees it in part, past every window."""
    family, run, results, _ = finished
    policy = decoder(run.policy, results["train"]).eval()
    causal = policy.get_base_model()
    one, other = (run.chat.encode(t.messages).input_ids for t in run.demonstrations()[:2])
    prefix, middle = Prefix(one[: 4 * WINDOW]), 3 * WINDOW
    tails = [one[4 * WINDOW :][:90], other[middle:][:90]]
    with torch.inference_mode():
        texts = one[: 4 * WINDOW] + tails[0], one[:middle] + tails[1]
        whole = [causal(input_ids=torch.tensor([ids])).logits[0] for ids in texts]
        with PrefixTree(causal, 1) as tree:
            tree.read_prefix(prefix)
            branches = [Branch(prefix, 4 * WINDOW), Branch(prefix, middle)]
            # A long piece, then short ones: they are computed in different ways.
            cuts = (0, 60), (60, 75), (75, 90)
            parts = [tree.read(branches, [tail[a:b] for tail in tails], [b - a] * 2) for a, b in cuts]
    found = [torch.cat([part.chunk(2)[i] for part in parts]) for i in (0, 1)]
    for mine, theirs in zip(found, whole):
        torch.testing.assert_close(mine, theirs[-90:].float(), atol=2e-3, rtol=1e-3)


def test_batched_rollouts_are_those_of_generate(finished):
    family, run, results, _ = finished
    policy = decoder(run.policy, results["train"])
    starts = [run.start(trajectory.task, 0) for trajectory in run.demonstrations()]
    write = generate(policy, run.chat, 0.0, SHORT.max_new_tokens)
    plain = play(
        [replace(e, env=e.env.clone()) for e in starts], write, run.chat, batch_size=1,
        max_new_tokens=SHORT.max_new_tokens, max_length=SHORT.max_length, agent="x",
    )  # fmt: skip
    batched = run.player(results["train"], 0.0, "x").play(starts)
    assert [t.messages for t in batched] == [t.messages for t in plain]
    settings = {"max_new_tokens": SHORT.max_new_tokens, "max_length": SHORT.max_length, "batch_size": 1, "agent": "x"}
    one_by_one = Plain(policy, run.chat, temperature=0.0, **settings)
    again = one_by_one.play([run.start(trajectory.task, 0) for trajectory in run.demonstrations()])
    assert [t.to_record() for t in again] == [t.to_record() for t in batched], "the plain rollouts of the root"
    if not policy.config.tie_word_embeddings:  # random weights that are tied repeat what they read
        assert len({action for t in batched for action in t.actions}) > 3, "it says the same everywhere"


def test_a_small_model_is_merged(tmp_path, monkeypatch):
    """The control: below the limit, rollouts run on a float copy, which computes the same also for Gemma 2."""
    path = folder_of("gemma2", tmp_path)
    policy = add_adapters(load_base(str(path)), SHORT, 0).eval()
    weights = {k: w + 0.05 * torch.randn_like(w) for k, w in adapter_weights(policy).items()}
    ids = torch.arange(100, 300)[None]
    monkeypatch.setattr(merging, "MERGED_BELOW", 50_000_000)
    assert decoder(policy, weights) is not policy
    monkeypatch.setattr(merging, "MERGED_BELOW", 0)
    for wanted in (weights, None):
        with torch.no_grad():
            whole, copy = decoder(policy, wanted)(ids).logits, merging.merged(policy, wanted)(ids).logits
        torch.testing.assert_close(copy, whole, atol=1e-3, rtol=1e-3)


PLAIN = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
REMEDY = (
    "; take one with full or sliding-window attention in all layers, such as Llama, Qwen2, Qwen3, Gemma 2, "
    "Gemma 3 (text) or Phi-3"
)
REFUSED = {
    "qwen3_next": (
        {"layer_types": ["linear_attention", "full_attention"], "num_experts": 2}, "layers of type linear_attention",
    ),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of type conv"),
    "gpt_oss": ({"num_local_experts": 2, "num_experts_per_tok": 1}, "attention with s_aux"),
    "bloom": ({"n_head": 2, "n_layer": 2}, "attention of a model's own making"),
    "deepseek_v3": (
        {
            "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
            "n_routed_experts": 2, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "num_key_value_heads": 2,
            "head_dim": 4,
        },
        "a use of cached keys other than attention",
    ),
    "phi3": (
        {"pad_token_id": 0, "original_max_position_embeddings": 16, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 16,
        }},
        "'longrope' positions beyond 16 tokens (an episode may have 32)",
    ),
    "gemma3_text": (
        {"use_bidirectional_attention": True, "layer_types": ["full_attention"] * 2},
        "attention with sight of what comes after",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_attention_that_rollouts_do_not_know_is_refused(kind):
    more, what = REFUSED[kind]
    causal = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **PLAIN | more))
    message = f"rollouts do not know {what}, which models of type {kind!r} have{REMEDY}"
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        check_attention(causal, 32)
        with torch.inference_mode(), PrefixTree(causal.eval(), 1) as tree:
            tree.read_prefix(Prefix([1, 2, 3]))


def test_a_model_that_torchs_attention_cannot_compute_is_refused(tmp_path):
    config = AutoConfig.for_model("gpt_oss", **PLAIN | REFUSED["gpt_oss"][0])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    message = f"attention that torch's own cannot compute, which models of type 'gpt_oss' have{REMEDY}"
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        load_base(str(tmp_path))
