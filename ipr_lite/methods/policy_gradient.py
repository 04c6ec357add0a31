"""Policy gradients on an agent's own episodes, plainly: what PPO (`ppo.py`) and GRPO (`grpo.py`) share.

The loss is the clipped objective (Schulman et al., 2017) per token, with the advantage of its decision on each; where
advantages come from is all that the methods differ in. There is no Kullback-Leibler term; a batch is read once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from ipr_lite.chat import Chat
from ipr_lite.losses import ppo_loss
from ipr_lite.methods.explored import round_budget
from ipr_lite.model import adapter_weights, set_adapter_weights
from ipr_lite.records import Trajectory
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run

CLIP = 0.2
ACTIONS = 1000
"""In the world, a round, where the budget is the method's own."""


@dataclass
class Experience:
    """An episode to learn from: its tokens, which decision (0, 1, ...; -1: none) wrote each, and of each decision its
    return (PPO) or what that is above its group's (GRPO)."""

    input_ids: list[int]
    decision: list[int]
    returns: list[float]


def experience(chat: Chat, trajectory: Trajectory, returns: list[float]) -> Experience:
    """An episode with the return of each of its decisions."""
    encoded = chat.encode(trajectory.messages)
    decision, number = [], -1
    for by_agent, group in groupby(encoded.agent_mask):
        number += by_agent
        decision += [number if by_agent else -1] * len(list(group))
    return Experience(encoded.input_ids, decision, returns)


def rounds(run: Run, method: str, collect: Callable, advantages: Callable, phases: int, rate=1.0) -> list[str]:
    """The agents after every round of as many updates and actions in the world as IPR's, in so many phases. In each,
    `collect(weights, agent, env_steps, spent)` gives experience of the policy as it is, and
    `advantages(experience, states)` the advantages of each one's decisions. `rate`: in parts of IPR's learning rate.
    """
    c, phases = run.config, min(phases, run.config.updates)
    # Before the policy is touched: these may train IPR's rounds.
    budgets = [round_budget(run, number) or ACTIONS for number in range(1, c.iterations + 1)]
    agents = [f"{method}-{number}" for number in range(1, c.iterations + 1)]
    if all((run.folder / agent).exists() for agent in agents):
        return agents  # the optimiser goes on from round to round, so a part is made anew
    set_adapter_weights(run.policy, run.sft(), "default")
    parameters = [p for name, p in run.policy.named_parameters() if ".default." in name]
    optimizer = torch.optim.AdamW(parameters, lr=c.learning_rate or rate * run.scale.learning_rate, weight_decay=0.0)
    for number, (agent, budget) in enumerate(zip(agents, budgets, strict=True), start=1):
        spent = {"env_steps": 0, "tokens": 0}
        bar, losses = run.bar(method), []
        for phase in range(phases):
            count = c.updates // phases + (phase < c.updates % phases)
            share = round((budget - spent["env_steps"]) / (phases - phase))
            episodes = collect(adapter_weights(run.policy), f"{agent}-{phase}", share, spent)
            seed = stable_seed(c.seed, method, number, phase)
            losses += learn(run.policy, episodes, advantages, optimizer, count, seed)
            bar(phase + 1, phases)
        log = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
        weights = adapter_weights(run.policy)
        run.adapter(run.folder / agent, run.folder / f"{agent}_log.csv", lambda: (weights, log))
        run.spend(f"{method}/{number}", updates=c.updates, **spent)
    return agents


def learn(policy, episodes: list[Experience], advantages: Callable, optimizer, updates: int, seed: int) -> list[float]:
    """One phase: `updates` updates, which share the episodes among them. Returns their losses."""
    policy.set_adapter("default")
    policy.eval()
    with torch.no_grad():
        first = [read(policy, episode) for episode in episodes]
    old = [logps for logps, _ in first]
    of_episode = advantages(episodes, [states for _, states in first])
    order = list(range(len(episodes)))
    random.Random(seed).shuffle(order)
    losses = []
    for number in range(updates):
        batch = order[number::updates] or order
        tokens = sum(len(old[i]) for i in batch)
        total = 0.0
        for i in batch:
            logps, _ = read(policy, episodes[i])
            written = torch.tensor([d for d in episodes[i].decision if d >= 0])
            loss = ppo_loss(logps, old[i], of_episode[i][written].to(logps.device), CLIP).sum() / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    return losses


def read(policy, episode: Experience) -> tuple[Tensor, Tensor]:
    """Log-probabilities (tokens,) of what the agent wrote; the hidden states (decisions, width) it decided in."""
    base = policy.get_base_model()
    ids = torch.tensor([episode.input_ids], device=base.device)
    places = torch.tensor([i for i, d in enumerate(episode.decision) if d >= 0])
    # Position i - 1 predicts token i. The model's own forward knows what its logits go through (Gemma 2 caps them).
    out = base(input_ids=ids, use_cache=False, logits_to_keep=places - 1, output_hidden_states=True)
    hidden, logits = out.hidden_states[-1][0], out.logits[0].float()
    logps = F.log_softmax(logits, -1).gather(-1, ids[0, places, None])[:, 0]
    first = [i for i, d in enumerate(episode.decision) if d >= 0 and episode.decision[i - 1] != d]
    return logps, hidden[torch.tensor(first) - 1].detach().float().cpu()
