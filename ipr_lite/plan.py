"""What a run will do, said before it starts, and what its pairs were."""

from __future__ import annotations

import json
import math
from statistics import fmean

from ipr_lite.model import pick_device


def plan(run) -> str:
    """What a run will do, in counts, and about how long it takes, before it starts."""
    c = run.config
    experts = run.demonstrations()
    starts = sum(t.steps for t in experts)
    # Of all steps, about this share differs in action and outcome (15 and 27 % in the default run's two
    # rounds) and is scored, on both sides.
    rollouts = round(starts * 0.2) * 2 * c.samples
    episodes = (3 + c.iterations) * (c.dev + c.test)
    sft_updates = math.ceil(c.sft_epochs * len(experts) / c.batch_size)
    updates = sft_updates + c.iterations * c.updates
    lines = [
        f"{c.env}, scale {c.scale}, {c.precision}, seed {c.seed}: {pick_device()[2]}",
        f"{len(experts)} demonstrations with {starts} steps, mean outcome "
        f"{fmean(t.reward for t in experts):.3f}",
        f"{c.iterations} iterations, each: {starts} explorations, about {rollouts} Monte Carlo "
        f"rollouts (N = {c.samples}), {c.updates} updates of {c.batch_size} pairs",
        f"{updates} updates and {episodes} evaluation episodes in all",
    ]
    if c.scale == "tiny":
        # Measured stage by stage on the default run, which took 6.6 minutes on two idle cores.
        seconds = 20 + 0.85 * sft_updates + 2.6 * c.iterations * c.updates
        seconds += c.iterations * (starts + rollouts) / 36 + episodes / 14
        lines.append(f"about {max(1, round(seconds / 60))} minutes on 2 CPU cores")
    return "\n".join(lines)


def pairs_line(run, iteration: int) -> str:
    """One line on an iteration's pairs."""
    path = run.file(iteration, "pair_counts.json")
    counts = json.loads(path.read_text(encoding="utf-8"))
    parts = [
        f"{kind} pairs: agent wins {c['win']}, ties {c['tie']}, loses {c['lose']}"
        for kind, c in counts.items()
    ]
    return f"iteration {iteration}: " + "; ".join(parts) + f", same action {counts['step']['same_action']}"
