"""What the stages really take: a few updates and rollouts of full length, for `plan --measure`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ipr_lite import envs
from ipr_lite.chat import Chat, Encoded, EncodedPair
from ipr_lite.engine.cache import capacity_for
from ipr_lite.engine.memory import AGENT_SHARE, config_of
from ipr_lite.engine.rollouts import Rollouts
from ipr_lite.engine.trl import train_preferences, train_sft
from ipr_lite.model import (
    TINY_BASE,
    Scale,
    adapter_weights,
    add_adapters,
    load_base,
    load_tokenizer,
    pick_device,
    set_adapter_weights,
)
from ipr_lite.rollout import Episode
from ipr_lite.train import PreferenceSettings, TrainSettings


@dataclass(frozen=True)
class Measured:
    """One stage: its seconds, the tokens that the model read, and the peak in bytes (None where there is no CUDA)."""

    seconds: float
    tokens: int
    peak: int | None


def jobs(policy, tokenizer, scale: Scale, batch_size: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """A stage's name and its work, which returns the tokens it read: two updates of each training with rows of full
    length, and rollouts whose histories grow into the longest places of the cache."""
    length, settings = scale.max_length, {
        "batch_size": batch_size, "micro_batch_size": scale.micro_batch,
        "gradient_checkpointing": scale.gradient_checkpointing, "max_length": scale.max_length,
    }  # fmt: skip
    agent = math.ceil(AGENT_SHARE * length)
    tokens = [5 + i % 1000 for i in range(length)]
    example = Encoded(tokens, [0] * (length - agent) + [1] * agent)
    side, mask = tokens[-agent:], [1] * agent
    pair = EncodedPair(tokens[:-agent], side, side[::-1], mask, mask, "step")

    def sft() -> int:
        train_sft(policy, tokenizer, [example] * 2 * batch_size, TrainSettings(max_steps=2, **settings))
        return 2 * batch_size * length

    def rollouts() -> int:
        begin = capacity_for(length) // 2 - 24
        player = Rollouts(
            policy, Chat(tokenizer), temperature=1.0, max_new_tokens=scale.max_new_tokens,
            max_length=min(length, begin + 3 * scale.max_new_tokens), batch_size=scale.rollout_batch,
            agent="any", share=False,
        )  # fmt: skip
        player.play(_episodes(player, scale.rollout_batch, begin))
        return player.tokens_read

    def train() -> int:
        set_adapter_weights(policy, adapter_weights(policy), "sft")
        train_preferences(policy, tokenizer, [pair] * 2 * batch_size, PreferenceSettings(updates=2, **settings))
        return 2 * batch_size * 2 * length

    yield "sft", sft
    yield "rollouts", rollouts
    yield "train", train


def _episodes(player: Rollouts, number: int, tokens: int) -> list[Episode]:
    """Episodes of the shop whose first observation is filled up to about so many tokens."""
    env, found = envs.make("shop"), []
    for seed, task in enumerate(envs.tasks("shop", "train")[:number]):
        observation, _ = env.reset(options={"task": task})
        short, long = (len(player.chat.prompt(env.messages(observation + " tea" * n, task))) for n in (0, 100))
        messages = env.messages(observation + " tea" * (100 * (tokens - short) // (long - short)), task)
        found.append(Episode(env.clone(), task, messages, seed))
    return found


def random_model(config: PreTrainedConfig, folder: Path) -> str:
    """Write a model with random weights in bfloat16, and the tiny base's tokenizer: it takes what a real one takes."""
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    load_tokenizer(str(TINY_BASE)).save_pretrained(folder)
    return str(folder)


def measure(scale: Scale, precision: str, batch_size: int) -> dict[str, Measured]:
    """Every stage once, on the device at hand."""
    tokenizer, cuda, found = load_tokenizer(scale.model), torch.cuda.is_available(), {}
    policy = add_adapters(load_base(scale.model, precision, scale.attention), scale, seed=0)
    set_adapter_weights(policy, adapter_weights(policy), "explorer")
    for stage, work in jobs(policy, tokenizer, scale, batch_size):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        tokens = work()
        if cuda:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if cuda else None
        found[stage] = Measured(time.perf_counter() - start, tokens, peak)
    return found


def measured_table(scale: Scale, precision: str, batch_size: int, random: bool = False) -> str:
    """`measure` as lines; `random`: with random weights, which lie in a temporary folder meanwhile."""
    with TemporaryDirectory() as folder:
        if random:
            scale = replace(scale, model=random_model(config_of(scale.model), Path(folder)))
        found = measure(scale, precision, batch_size)
    lines = [f"measured: {pick_device()[2]}{', random weights' if random else ''}"]
    for stage, one in found.items():
        peak = "peak only on CUDA" if one.peak is None else f"peak {one.peak / 2**30:.2f} GiB"
        rate = one.tokens / one.seconds
        lines.append(f"{stage:<10}{one.seconds:8.1f} s  {one.tokens:9,} tokens  {rate:9,.0f} a second  {peak}")
    return "\n".join(lines)
