"""The memory that a plan expects, against what torch's profiler sees while real updates and rollouts run."""

import json
from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn import Params4bit
from transformers import Qwen2Config

from ipr_lite.__main__ import main
from ipr_lite.config import SCALES
from ipr_lite.engine.memory import ADAPTERS, expected, shape, without_weights
from ipr_lite.model import adapter_weights, add_adapters, load_base, load_tokenizer, set_adapter_weights
from ipr_lite.study.measure import jobs, random_model

LENGTH = 768
SCALE = replace(SCALES["small"], max_length=LENGTH, max_new_tokens=32, rollout_batch=4)


@pytest.fixture(scope="module")
def config():
    return Qwen2Config(
        hidden_size=512, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2, intermediate_size=1408,
        vocab_size=8192, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    torch.manual_seed(0)
    return random_model(config, tmp_path_factory.mktemp("model"))


def policy_of(folder):
    policy = add_adapters(load_base(folder), SCALE, 0)
    set_adapter_weights(policy, adapter_weights(policy), "explorer")
    return policy


def stored(policy) -> int:
    """Bytes of parameters and of the scales of 4-bit weights."""
    total = sum(p.numel() * p.element_size() for p in policy.parameters())
    for p in policy.parameters():
        if isinstance(p, Params4bit):
            state = p.quant_state
            total += state.absmax.numel() + 4 * state.state2.absmax.numel()
    return total


def peaks(trace: list[dict]) -> dict[str, int]:
    """Of every marked job: the most bytes that were allocated at once, beyond those at its start. (By the allocator's own
    running total: the profiler drops events whose time a step of the machine's clock moved out of its window.)"""
    totals = sorted((e["ts"], e["args"]["Total Allocated"]) for e in trace if e.get("name") == "[memory]")
    found = {}
    for job in (e for e in trace if e.get("name", "").startswith("job ") and e.get("ph") == "X"):
        before = [total for time, total in totals if time < job["ts"]]
        during = [total for time, total in totals if job["ts"] <= time <= job["ts"] + job["dur"]]
        found[job["name"].removeprefix("job ")] = max(during) - (before[-1] if before else 0)
    return found


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    """Peak bytes of each stage: what is stored before it, and what torch's profiler sees on top. (One session of the
    profiler: a second one in the same process misses events.)"""
    place, policy = tmp_path_factory.mktemp("trace"), policy_of(folder)
    set_adapter_weights(policy, adapter_weights(policy), "sft")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        for name, job in jobs(policy, load_tokenizer(folder), SCALE, 2):
            with torch.profiler.record_function(f"job {name}"):
                job()
    seen.export_chrome_trace(str(place / "trace.json"))
    trace = json.loads((place / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    return {name: stored(policy) + peak for name, peak in peaks(trace).items()}


@pytest.mark.parametrize("stage", ["sft", "train", "rollouts"])
def test_the_plan_is_within_15_percent(stage, config, measured):
    parts = expected(config, SCALE, "nf4", torch.float32, batch_size=2, device="cpu")[stage]
    if stage != "train":  # the policy of this test has three adapters from the start
        parts["adapters"] *= 3 / len(ADAPTERS[stage])
    if stage == "rollouts":  # and acts itself, where one of its size would be merged
        count = shape(without_weights(config, SCALE, torch.float32))
        parts["weights"] -= 4 * (count.linear + count.rest)
    assert sum(parts.values()) == pytest.approx(measured[stage], rel=0.15)


def test_checkpointing_and_length_turn_activations_down(config):
    def need(**changed):
        return expected(config, replace(SCALE, **changed), batch_size=2)["train"]["activations"]

    assert need(gradient_checkpointing=False) > 2 * need() > 3 * need(max_length=LENGTH // 4)


def test_adapters_are_counted_as_they_are_stored(config, folder):
    policy = add_adapters(load_base(folder), SCALE, 0)
    mine = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert shape(without_weights(config, SCALE, torch.float32)).lora == mine


def test_what_is_measured_is_said(folder, capsys):
    options = ["--max-length", "256", "--rollout-batch", "2", "--micro-batch", "1", "--batch-size", "2"]
    assert main(["plan", "--device", "cpu", "--model", folder, *options, "--measure"]) == 0
    said = capsys.readouterr().out.split("measured: ")[1]
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["sft", "rollouts", "train"]
    assert "1,024 tokens" in said and "peak only on CUDA" in said
