"""Policy gradients on an agent's own episodes, plainly: PPO's clipped loss, with a value baseline.

The loss is the clipped objective (Schulman et al., 2017) per token, with the decision's advantage on each: its return
minus a value predicted from the state before it. There is no Kullback-Leibler term; each batch of episodes is read once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from ipr_lite.chat import Chat
from ipr_lite.losses import ppo_loss
from ipr_lite.records import Trajectory

CLIP = 0.2
RIDGE = 1.0


@dataclass
class Experience:
    """An episode to learn from: its tokens, which decision (0, 1, ...; -1: none) wrote each, a return for each."""

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


class Baseline:
    """The value of a state: linear in the policy's last hidden state, fitted by least squares (ridge) to the returns
    of all earlier phases. Any function of the state alone leaves the gradient unbiased; this one needs no rate."""

    def __init__(self):
        self.states: list[Tensor] = []
        self.returns: list[Tensor] = []

    def values(self, states: Tensor) -> Tensor:
        """(decisions,) values of (decisions, width) states; 0 before anything was seen."""
        if not self.states:
            return torch.zeros(len(states))
        x, y = torch.cat(self.states), torch.cat(self.returns)
        mean, middle = x.mean(0), y.mean()
        x = x - mean
        weights = torch.linalg.solve(
            x.T @ x + RIDGE * len(x) * x.var(0).mean() * torch.eye(x.shape[1]), x.T @ (y - middle)
        )
        return (states - mean) @ weights + middle

    def add(self, states: Tensor, returns: Tensor) -> None:
        """Remember what these states returned."""
        self.states.append(states)
        self.returns.append(returns)


def learn(policy, episodes: list[Experience], baseline: Baseline, optimizer, updates: int, seed: int) -> list[float]:
    """One phase: `updates` updates, which share the episodes among them. Returns their losses."""
    policy.set_adapter("default")
    policy.eval()
    with torch.no_grad():
        first = [read(policy, episode) for episode in episodes]
    old = [logps for logps, _ in first]
    states = torch.cat([states for _, states in first])
    returns = torch.cat([torch.tensor(episode.returns) for episode in episodes])
    advantages = returns - baseline.values(states)
    baseline.add(states, returns)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
    of_episode = advantages.split([len(episode.returns) for episode in episodes])
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
