"""What to do when memory runs out: the settings that would help most, in order, and how to go on with them."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from ipr_lite.config import Config, Scale
from ipr_lite.engine.memory import config_of, expected
from ipr_lite.model import pick_device

FRAGMENTS = "PYTORCH_ALLOC_CONF=expandable_segments:True"
"""An environment variable by which torch takes memory from CUDA in pieces that it can join again."""


class OutOfMemory(RuntimeError):
    """A stage needed more memory than there was; the message says what would help."""


def remedies(stage: str, scale: Scale, batch_size: int) -> list[tuple[str, dict]]:
    """Up to three settings, first those that change no result: what to write, and what it changes of the scale.

    stage: one of `memory.STAGES`.
    """
    found = []
    if stage == "rollouts":
        for part in (2, 4):
            if scale.rollout_batch >= part:
                fewer = scale.rollout_batch // part
                found.append((f"--rollout-batch {fewer}", {"rollout_batch": fewer}))
    else:
        if scale.micro_batch != 1 and batch_size > 1:
            found.append(("--micro-batch 1", {"micro_batch": 1}))
        if not scale.gradient_checkpointing:
            found.append(("--gradient-checkpointing", {"gradient_checkpointing": True}))
    found.append((FRAGMENTS, {}))
    for part in (0.75, 0.5):
        shorter = int(scale.max_length * part)
        found.append((f"--max-length {shorter}", {"max_length": shorter}))
    return found[:3]


def advice(stage: str, scale: Scale, precision: str, batch_size: int) -> str:
    """The remedies, one a line, each with what the stage is expected to need with it and with those before it."""
    device, dtype, _ = pick_device()
    config = config_of(scale.model)

    def need(scale: Scale) -> str:
        parts = expected(config, scale, precision, dtype, batch_size, device=device.type, stages=(stage,))[stage]
        return f"{sum(parts.values()) / 2**30:.1f} GiB"

    lines = [
        f"{stage} ran out of memory; expected were {need(scale)} (`python -m ipr_lite plan` shows the parts). "
        "What helps, in order:"
    ]
    for number, (text, changed) in enumerate(remedies(stage, scale, batch_size), 1):
        scale = replace(scale, **changed)
        what = f"{need(scale)} expected" if changed else "before the command: less is lost between pieces"
        lines.append(f"  {number}. {text} ({what})")
    lines.append("The same command with these goes on from the last finished stage.")
    return "\n".join(lines)


def ran_out(error: RuntimeError) -> bool:
    """Whether this is how torch says that a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def with_advice(stage: str, run):
    """Of a function that a run calls: where it runs out of memory, it raises OutOfMemory, which says what would help."""

    def decorate(function):
        @functools.wraps(function)
        def guarded(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except RuntimeError as error:
                if not ran_out(error):
                    raise
                config: Config = run.config
                raise OutOfMemory(advice(stage, run.scale, config.precision, config.batch_size)) from error

        return guarded

    return decorate
