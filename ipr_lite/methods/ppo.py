"""PPO on an agent's own episodes, plainly: clipped policy gradient with a value baseline.

A decision is one message of the agent. Its return is

    PPO       the outcome of the episode, the same for every decision in it
    Step-PPO  the Monte Carlo step reward of the decision, by IPR's frozen scorer

and its advantage is the return minus a value predicted from the state before it. The loss is the clipped objective
(Schulman et al., 2017) per token, with the decision's advantage on each. That one line, the return, is all that
process supervision changes. There is no Kullback-Leibler term; each batch of episodes is read once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from ipr_lite.ipr import Run
from ipr_lite.lab import Weights
from ipr_lite.losses import ppo_loss
from ipr_lite.methods.baselines import round_budget
from ipr_lite.model import adapter_weights, set_adapter_weights
from ipr_lite.rollout import stable_seed
from ipr_lite.step_reward import monte_carlo, steps_of
from ipr_lite.trajectory import Trajectory

PHASES = 4
"""Of a round: each collects episodes and trains on them, so that the data stay near the policy."""
CLIP = 0.2
RIDGE = 1.0


@dataclass
class Experience:
    """An episode to learn from: its tokens, which decision (0, 1, ...; -1: none) wrote each, a return for each."""

    input_ids: list[int]
    decision: list[int]
    returns: list[float]


def ppo(run: Run) -> list[Weights]:
    """PPO with the outcome as return."""
    return _train(run, "ppo", by_step=False)


def step_ppo(run: Run) -> list[Weights]:
    """PPO with Monte Carlo step rewards as returns (`ppo_samples` rollouts each)."""
    return _train(run, "step-ppo", by_step=True)


METHODS = {"ppo": ppo, "step-ppo": step_ppo}


def _train(run: Run, method: str, by_step: bool) -> list[Weights]:
    """The policy after every round of as many updates and actions in the world as IPR's."""
    c, rounds, baseline = run.config, [], Baseline()
    # Before the policy is touched: these may train IPR's rounds.
    budgets = [round_budget(run, iteration)["env_steps"] for iteration in range(1, c.iterations + 1)]
    run.policy
    set_adapter_weights(run.policy, run.sft(), "default")
    parameters = [p for name, p in run.policy.named_parameters() if ".default." in name]
    optimizer = torch.optim.AdamW(parameters, lr=c.learning_rate or run.scale.learning_rate, weight_decay=0.0)
    for iteration, budget in enumerate(budgets, start=1):
        spent = {"env_steps": 0, "tokens": 0}
        updates = [c.updates // PHASES + (i < c.updates % PHASES) for i in range(PHASES)]
        bar = run.bar(method)
        for phase, count in enumerate(updates):
            now = adapter_weights(run.policy)
            share = round((budget - spent["env_steps"]) / (PHASES - phase))
            episodes = collect(run, now, f"{method}-{iteration}-{phase}", share, by_step, spent)
            learn(run.policy, episodes, baseline, optimizer, count, stable_seed(c.seed, method, iteration, phase))
            bar(phase + 1, PHASES)
        run.spend(f"{method}/{iteration}", updates=c.updates, **spent)
        rounds.append(adapter_weights(run.policy))
    return rounds


def collect(
    run: Run, weights: Weights, agent: str, env_steps: int, by_step: bool, spent: dict[str, int]
) -> list[Experience]:
    """Sampled episodes on training tasks, drawn anew, for about `env_steps` actions, scoring included."""
    c, tasks = run.config, [expert.task for expert in run.demonstrations()]
    rng = random.Random(stable_seed(c.seed, agent))
    player, scorer = run.player(weights, 1.0, agent), run.player(run.sft(), 1.0, "scorer")
    used, played, found = 0, [], []
    while not found or used < env_steps:
        # What an episode costs is known once a few are played; the first guess is careful.
        each = used / len(played) if played else 40 if by_step else 10
        wanted = min(len(tasks), max(1, int((env_steps - used) / each)))
        fresh = player.play([run.start(task, rng.getrandbits(63)) for task in rng.sample(tasks, wanted)])
        fresh = [t for t in fresh if t.steps]
        returns = [[t.reward] * t.steps for t in fresh]
        if by_step:
            returns = step_returns(run, fresh, scorer)
        played += fresh
        found += [_experience(run, t, r) for t, r in zip(fresh, returns)]
        used = player.actions_taken + scorer.actions_taken
        if (env_steps - used) < 0.5 * used / max(len(played), 1):
            break
    spent["env_steps"] += used
    spent["tokens"] += player.tokens_written + scorer.tokens_written
    return found


def step_returns(run: Run, played: list[Trajectory], scorer) -> list[list[float]]:
    """The Monte Carlo step reward of every decision of every episode."""
    steps = [step for trajectory in played for step in steps_of(run.env, trajectory, "agent")]
    rewards = iter(monte_carlo(steps, scorer, run.config.ppo_samples, stable_seed(run.config.seed, "step-ppo")))
    return [[next(rewards).reward_mc for _ in t.actions] for t in played]


def _experience(run: Run, trajectory: Trajectory, returns: list[float]) -> Experience:
    encoded = run.chat.encode(trajectory.messages)
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
        read = [_read(policy, episode) for episode in episodes]
    old = [logps for logps, _ in read]
    states = torch.cat([states for _, states in read])
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
            logps, _ = _read(policy, episodes[i])
            written = torch.tensor([d for d in episodes[i].decision if d >= 0])
            loss = ppo_loss(logps, old[i], of_episode[i][written], CLIP).sum() / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    return losses


def _read(policy, episode: Experience) -> tuple[Tensor, Tensor]:
    """Log-probabilities (tokens,) of what the agent wrote; the hidden states (decisions, width) it decided in."""
    base = policy.get_base_model()
    ids = torch.tensor([episode.input_ids], device=base.device)
    places = torch.tensor([i for i, d in enumerate(episode.decision) if d >= 0])
    # Position i - 1 predicts token i. The model's own forward knows what its logits go through (Gemma 2 caps them).
    read = base(input_ids=ids, use_cache=False, logits_to_keep=places - 1, output_hidden_states=True)
    hidden, logits = read.hidden_states[-1][0], read.logits[0].float()
    logps = F.log_softmax(logits, -1).gather(-1, ids[0, places, None])[:, 0]
    first = [i for i, d in enumerate(episode.decision) if d >= 0 and episode.decision[i - 1] != d]
    return logps, hidden[torch.tensor(first) - 1].detach().float()
