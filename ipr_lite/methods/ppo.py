"""PPO, and PPO on step rewards. A decision is one message of the agent; its return is

    PPO       the outcome of the episode, the same for every decision in it
    Step-PPO  the Monte Carlo step reward of the decision, by IPR's frozen scorer

That one line is all that process supervision changes.
"""

from __future__ import annotations

import random
from functools import partial

import torch

from ipr_lite.methods.explored import round_budget
from ipr_lite.methods.method import Method
from ipr_lite.methods.policy_gradient import Baseline, Experience, experience, learn
from ipr_lite.model import adapter_weights, set_adapter_weights
from ipr_lite.records import Trajectory
from ipr_lite.rollout import Player, stable_seed
from ipr_lite.run import Run, Weights
from ipr_lite.step_reward import monte_carlo, steps_of

PHASES = 4
"""Of a round: each collects episodes and trains on them, so that the data stay near the policy."""
SAMPLES = 1
"""Rollouts for one step reward of Step-PPO: it meets many actions, so noise averages out."""
ACTIONS = 1000
"""In the world, a round, where the budget is the method's own."""


def train(run: Run, method: str, by_step: bool) -> list[str]:
    """The policy after every round of as many updates and actions in the world as IPR's."""
    c, baseline = run.config, Baseline()
    # Before the policy is touched: these may train IPR's rounds.
    budgets = [round_budget(run, number) or ACTIONS for number in range(1, c.iterations + 1)]
    agents = [f"{method}-{number}" for number in range(1, c.iterations + 1)]
    if all((run.folder / agent).exists() for agent in agents):
        return agents  # the optimiser and the baseline go on from round to round, so a part is made anew
    set_adapter_weights(run.policy, run.sft(), "default")
    parameters = [p for name, p in run.policy.named_parameters() if ".default." in name]
    optimizer = torch.optim.AdamW(parameters, lr=c.learning_rate or run.scale.learning_rate, weight_decay=0.0)
    for number, (agent, budget) in enumerate(zip(agents, budgets, strict=True), start=1):
        spent = {"env_steps": 0, "tokens": 0}
        updates = [c.updates // PHASES + (i < c.updates % PHASES) for i in range(PHASES)]
        bar, losses = run.bar(method), []
        for phase, count in enumerate(updates):
            now = adapter_weights(run.policy)
            share = round((budget - spent["env_steps"]) / (PHASES - phase))
            episodes = collect(run, now, f"{agent}-{phase}", share, by_step, spent)
            losses += learn(
                run.policy, episodes, baseline, optimizer, count, stable_seed(c.seed, method, number, phase)
            )
            bar(phase + 1, PHASES)
        log = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
        weights = adapter_weights(run.policy)
        run.adapter(run.folder / agent, run.folder / f"{agent}_log.csv", lambda: (weights, log))
        run.spend(f"{method}/{number}", updates=c.updates, **spent)
    return agents


def collect(
    run: Run, weights: Weights, agent: str, env_steps: int, by_step: bool, spent: dict[str, int]
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
