"""What a run will do, said before it starts, and what its pairs were."""

from __future__ import annotations

import json
import math
from statistics import fmean

from ipr_lite.model import pick_device

SCORED = {"shop": 0.1, "sql": 0.15, "house": 0.02, "all": 0.1}
"""About the share of steps that differ in action and outcome, which are scored, on both sides."""

SECONDS = {
    "shop": (0.9, 3.4, 0.05, 0.06, 0.15),
    "sql": (0.6, 3.9, 0.08, 0.14, 0.12),
    "house": (1.4, 5.4, 0.06, 0.5, 0.3),
    "all": (1.0, 4.2, 0.06, 0.2, 0.2),
}
"""Of an SFT update, an update on pairs, an exploration, a Monte Carlo rollout and an evaluation episode, on one core
beside another busy one; measured in the comparisons' runs (all: their mean)."""

TWO_CORES = 0.6
"""The share of that time that two idle cores need for the default run."""


def plan(run) -> str:
    """What a run will do, in counts, and about how long it takes, before it starts."""
    c = run.config
    experts = run.demonstrations()
    starts = sum(t.steps for t in experts)
    kind = c.env.partition("-")[0]
    rollouts = round(starts * SCORED[kind]) * 2 * c.samples
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
        sft, update, start, rollout, episode = SECONDS[kind]
        seconds = 20 + sft * sft_updates + update * c.iterations * c.updates + episode * episodes
        seconds += c.iterations * (start * starts + rollout * rollouts)
        lines.append(f"about {max(1, round(TWO_CORES * seconds / 60))} minutes on 2 CPU cores")
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
