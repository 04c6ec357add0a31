"""What a run will do, said before it starts, and what its pairs were."""

from __future__ import annotations

import json
import math
import time
from statistics import fmean

import torch

from ipr_lite import envs
from ipr_lite.chat import Encoded
from ipr_lite.config import Scale
from ipr_lite.engine.memory import config_of, expected
from ipr_lite.engine.out_of_memory import remedies
from ipr_lite.model import pick_device, portable
from ipr_lite.train import log_probabilities

TWO_CORES = 0.6
"""The share of that time that two idle cores need for the default run."""


SHORT, PASS = 256, 128
"""Tokens of an update and of a pass that a machine is measured with."""
READ = {"explore": 2.3, "prompt": 1.0, "rollout": 0.32, "episode": 0.9}
"""Tokens that rollouts read, for each token of the demonstrations (`episode`: of their mean), as a run in the shop had
them: prompts once, then what is written, drafted and answered."""
PAIR = 2.1
"""Tokens of a pair trained on, its history read once, and of the reference, for each token of a mean demonstration."""

CARDS = (8, 12, 16, 24)
"""GiB of consumers' graphics cards."""

CUDA_TAKES = 1.0
"""GiB of a card that CUDA itself and what shows the screen take, at most about."""


def memory_plan(scale: Scale, precision: str, batch_size: int, device: str) -> str:
    """A table of the peak that each stage is expected to reach, by part, and of the cards that it fits on.

    device: "cuda" (16 bits) or "cpu" (float32). Nothing of the model is loaded but its configuration.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    found = expected(config_of(scale.model), scale, precision, dtype, batch_size, device=device)
    parts = ("weights", "adapters", "optimizer", "cache", "activations")
    lines = [
        f"{portable(scale.model)}, {precision}, {'16 bits' if device == 'cuda' else 'float32'} on {device}: "
        f"episodes of {scale.max_length} tokens, LoRA rank {scale.lora_rank}",
        f"GiB       {''.join(f'{part:>12}' for part in parts)}{'in all':>12}",
    ]
    for stage, mine in found.items():
        sizes = [mine.get(part, 0) / 2**30 for part in parts]
        lines.append(f"{stage:<10}" + "".join(f"{size:12.2f}" for size in (*sizes, sum(sizes))))
    lines += [
        f"sft, train: {scale.micro_batch or 'up to 4'} at once, "
        f"{'with' if scale.gradient_checkpointing else 'without'} gradient checkpointing; "
        f"rollouts: {scale.rollout_batch} episodes in play",
        "Counted from the configuration, checked on the CPU against torch's profiler, not measured on a card.",
    ]
    if device == "cuda":
        lines += [_fits(found, scale, batch_size, card) for card in CARDS]
    return "\n".join(lines)


def _fits(found: dict[str, dict[str, int]], scale: Scale, batch_size: int, card: int) -> str:
    """Whether the stages fit on a card, and what to turn down first where one does not."""
    over = [stage for stage, parts in found.items() if sum(parts.values()) / 2**30 > card - CUDA_TAKES]
    if not over:
        return f"{card:>2} GB card: fits"
    first = {next(text for text, changed in remedies(stage, scale, batch_size) if changed) for stage in over}
    settings = " ".join(sorted(first))
    return f"{card:>2} GB card: too small for {', '.join(over)}; turn down {settings} and plan again, or take a smaller model"


def plan(run) -> str:
    """What a run will do, in counts, and about how long it takes, before it starts."""
    c = run.config
    demonstrations = run.demonstrations()
    starts = sum(t.steps for t in demonstrations)
    world = envs.world(c.env)
    rollouts = round(starts * world.scored) * 2 * c.samples
    episodes = (3 + c.iterations) * (c.dev + c.test)
    sft_updates = math.ceil(c.sft_epochs * len(demonstrations) / c.batch_size)
    updates = sft_updates + c.iterations * c.updates
    lines = [
        f"{c.env}, scale {c.scale}, {c.precision}, seed {c.seed}: {pick_device()[2]}",
        f"{len(demonstrations)} demonstrations with {starts} steps, mean outcome {fmean(t.reward for t in demonstrations):.3f}",
        f"{c.iterations} iterations, each: {starts} explorations, about {rollouts} Monte Carlo "
        f"rollouts (N = {c.samples}), {c.updates} updates of {c.batch_size} pairs",
        f"{updates} updates and {episodes} evaluation episodes in all",
    ]
    if c.scale == "tiny":
        sft, update, start, rollout, episode = world.seconds
        seconds = 20 + sft * sft_updates + update * c.iterations * c.updates + episode * episodes
        seconds += c.iterations * (start * starts + rollout * rollouts)
        lines.append(f"about {max(1, round(TWO_CORES * seconds / 60))} minutes on 2 CPU cores")
    elif c.scale == "smol" and c.backend == "local":
        trained, read = pace(run)
        minutes = {stage: round(seconds / 60) for stage, seconds in seconds_of(run, trained, read).items()}
        parts = ", ".join(f"{stage} {n}" for stage, n in minutes.items())
        lines.append(
            f"about {sum(minutes.values())} minutes here ({parts}), at {trained:.0f} tokens a second in training and "
            f"{read:.0f} in rollouts, as just measured"
        )
    return "\n".join(lines)


def pace(run) -> tuple[float, float]:
    """Tokens a second of this machine, from a few seconds of each: trained on (forward and backward), read in rollouts."""
    row = run.chat.encode(run.demonstrations()[0].messages)
    row, rates = Encoded(row.input_ids[:SHORT], row.agent_mask[:SHORT]), []
    ids = torch.tensor([row.input_ids[:PASS]], device=run.policy.device)

    def train():
        log_probabilities(run.policy, [row]).sum().backward()
        run.policy.zero_grad()

    def read():
        with torch.inference_mode():
            run.policy(input_ids=ids, use_cache=False, logits_to_keep=1)

    for work, tokens in ((train, SHORT), (read, PASS)):
        work()  # what is done once is not counted
        start = time.perf_counter()
        work()
        rates.append(tokens / (time.perf_counter() - start))
    return rates[0], rates[1]


def seconds_of(run, trained: float, read: float) -> dict[str, float]:
    """Seconds of each kind of stage, all rounds together, at so many tokens a second."""
    c, demonstrations = run.config, run.demonstrations()
    tokens = sum(len(run.chat.encode(t.messages).input_ids) for t in demonstrations)
    mean = tokens / len(demonstrations)
    return {
        "sft": c.sft_epochs * tokens / trained,
        "explore": c.iterations * READ["explore"] * tokens / read,
        "score": c.iterations * (READ["prompt"] + READ["rollout"] * c.samples) * tokens / read,
        "train": c.iterations * c.updates * c.batch_size * PAIR * mean / trained,
        "evaluate": (2 + c.iterations) * (c.dev + c.test) * READ["episode"] * mean / read,
    }


def pairs_line(run, iteration: int) -> str:
    """One line on an iteration's pairs."""
    path = run.file(iteration, "pair_counts.json")
    counts = json.loads(path.read_text(encoding="utf-8"))
    parts = [f"{kind} pairs: agent wins {c['win']}, ties {c['tie']}, loses {c['lose']}" for kind, c in counts.items()]
    return f"iteration {iteration}: " + "; ".join(parts) + f", same action {counts['step']['same_action']}"
