"""PPO, and PPO on step rewards. A decision is one message of the agent; its return is

    PPO       the outcome of the episode, the same for every decision in it
    Step-PPO  the Monte Carlo step reward of the decision, by IPR's frozen scorer

That one line is all that process supervision changes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ipr_lite.methods.method import Method
from ipr_lite.methods.policy_gradient import Experience, experience, rounds
from ipr_lite.records import Trajectory
from ipr_lite.rollout import Player, stable_seed
from ipr_lite.run import Run, Weights
from ipr_lite.step_reward import monte_carlo, steps_of

PHASES = 4
"""Of a round: each collects episodes and trains on them, so that the data stay near the policy."""
SAMPLES = 1
"""Rollouts for one step reward of Step-PPO: it meets many actions, so noise averages out."""
RIDGE = 1.0


def train(run: Run, method: str, by_step: bool) -> list[str]:
    """The policy after every round."""
    return rounds(run, method, partial(collect, run, by_step), Baseline().advantages, PHASES)


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

    def advantages(self, episodes: list[Experience], states: list[Tensor]) -> Sequence[Tensor]:
        """Returns minus values, standardised over the phase, whose returns the baseline learns from after that."""
        returns, seen = torch.cat([torch.tensor(episode.returns) for episode in episodes]), torch.cat(states)
        advantages = returns - self.values(seen)
        self.add(seen, returns)
        return ((advantages - advantages.mean()) / (advantages.std() + 1e-6)).split([len(one) for one in states])

    def add(self, states: Tensor, returns: Tensor) -> None:
        """Remember what these states returned."""
        self.states.append(states)
        self.returns.append(returns)


def collect(
    run: Run, by_step: bool, weights: Weights, agent: str, env_steps: int, spent: dict[str, int]
) -> list[Experience]:
    """Sampled episodes on training tasks, drawn anew, for about `env_steps` actions, scoring included."""
    c, tasks = run.config, list({t.id: t.task for t in run.demonstrations()}.values())
    rng = random.Random(stable_seed(c.seed, agent))
    player, scorer = run.player(weights, 1.0, agent), run.player(run.sft(), 1.0, "scorer")
    used, played, found = 0, [], []
    while not found or used < env_steps:
        # What an episode costs is known once a few are played; the first guess is careful.
        each = used / len(played) if played else 40 if by_step else 10
        wanted = min(len(tasks), max(1, int((env_steps - used) / each)))
        fresh = player.play([run.start(task, rng.getrandbits(63)) for task in rng.sample(tasks, wanted)])
        fresh = [t for t in fresh if t.steps]
        returns = step_returns(run, fresh, scorer) if by_step else [[t.reward] * t.steps for t in fresh]
        played += fresh
        found += [experience(run.chat, t, r) for t, r in zip(fresh, returns, strict=True)]
        used = player.actions_taken + scorer.actions_taken
        if (env_steps - used) < 0.5 * used / max(len(played), 1):
            break
    spent["env_steps"] += used
    spent["tokens"] += player.tokens_written + scorer.tokens_written
    return found


def step_returns(run: Run, played: list[Trajectory], scorer: Player) -> list[list[float]]:
    """The Monte Carlo step reward of every decision of every episode."""
    steps = [step for trajectory in played for step in steps_of(run.env, trajectory, "agent")]
    rewards = iter(monte_carlo(steps, scorer, SAMPLES, stable_seed(run.config.seed, "step-ppo")))
    return [[next(rewards).reward_mc for _ in t.actions] for t in played]


PPO = Method("ppo", "policy gradient on outcomes", partial(train, method="ppo", by_step=False), "#999933", "<")
STEP_PPO = Method(
    "step-ppo", "policy gradient on step rewards", partial(train, method="step-ppo", by_step=True), "#44aa99", ">"
)
