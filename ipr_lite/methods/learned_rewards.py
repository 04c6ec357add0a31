"""Step rewards by the learned model, in place of Monte Carlo: its data, its training within a run, its verdicts.

Data: the steps of the demonstrations and of episodes that the SFT policy samples on the same tasks, each with its Monte
Carlo step reward.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ipr_lite.engine.folder import fill_atomically
from ipr_lite.methods.reward_model import Example, RewardModel, fit
from ipr_lite.records import StepReward, Trajectory, read_trajectories, write_atomically, write_trajectories
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run
from ipr_lite.step_reward import ScoredStep, monte_carlo, steps_of

FIT_COLUMNS = ("scale", "setting", "seed", "steps", "mse", "mse_of_mean", "explained", "correlation")
HELD_OUT = 0.2
"""The share of tasks whose steps are not trained on."""


def labelled_episodes(run: Run) -> list[Trajectory]:
    """The demonstrations and one sampled episode of the SFT policy on each of their tasks; `extra["step_rewards"]`
    holds the Monte Carlo step reward of every action. Made once a run, in reward-model-data.jsonl."""

    def labelled():
        demonstrations = run.demonstrations()
        player = run.player(run.sft(), 1.0, "reward-model")
        tasks = {t.id: t.task for t in demonstrations}.values()
        starts = [run.start(task, stable_seed(run.config.seed, "reward-model", 0, task.id)) for task in tasks]
        sampled = [t for t in player.play(starts, run.bar("sample")) if t.steps]
        by_who = [("demonstrator", t) for t in demonstrations] + [("agent", t) for t in sampled]
        steps = [step for who, episode in by_who for step in steps_of(run.env, episode, who)]
        scorer = run.player(run.sft(), 1.0, "scorer")
        rewards = iter(monte_carlo(steps, scorer, run.config.samples, run.config.seed, run.bar("label")))
        for _, episode in by_who:
            episode.extra["step_rewards"] = [next(rewards).reward_mc for _ in episode.actions]
        run.spend(
            "reward-model/1",
            env_steps=player.actions_taken + scorer.actions_taken,
            tokens=player.tokens_written + scorer.tokens_written,
        )
        return [episode for _, episode in by_who]

    path = run.folder / "reward-model-data.jsonl"
    return run.keep(path, labelled, read_trajectories, write_trajectories)


def reward_model(run: Run) -> RewardModel:
    """The run's reward model, trained when first asked for; reward_model.json tells how well it fits."""
    folder = run.folder / "reward-model"
    if not folder.exists():
        episodes = labelled_episodes(run)
        tasks = sorted({t.id for t in episodes})
        random.Random(stable_seed(run.config.seed, "reward-model")).shuffle(tasks)
        held_out = set(tasks[: math.ceil(HELD_OUT * len(tasks))])
        seen = [t for t in episodes if t.id not in held_out]
        mean = torch.tensor([r for t in seen for r in t.extra["step_rewards"]]).mean().item()
        model = fit(run.policy, run.chat, run.fresh, regression(seen), mean, run.config.seed, run.bar("reward model"))
        unseen = [t for t in episodes if t.id in held_out]
        predicted = model.predict(run.policy, run.chat, [t.messages for t in unseen])
        facts = fit_quality([p for ps in predicted for p in ps], [r for t in unseen for r in t.extra["step_rewards"]])
        write_atomically(run.folder / "reward_model.json", json.dumps(facts, indent=1) + "\n")
        fill_atomically(folder, model.save)
    return RewardModel.load(folder)


def regression(episodes: Sequence[Trajectory]) -> list[Example]:
    """The squared error on every step, its label in `extra["step_rewards"]`."""
    labels = [torch.tensor(t.extra["step_rewards"]) for t in episodes]

    def of(label: Tensor) -> Callable[[list[Tensor]], Tensor]:
        return lambda predicted: (predicted[0] - label.to(predicted[0].device)).square().sum()

    return [Example([t.messages], len(label), of(label)) for t, label in zip(episodes, labels, strict=True)]


def predicted_step_rewards(run: Run, steps: Sequence[ScoredStep]) -> list[StepReward]:
    """Step rewards by the reward model, in place of Monte Carlo; the outcome itself where the action ended the episode."""
    model = reward_model(run)
    found = model.predict(run.policy, run.chat, [step.messages[:-1] for step in steps])
    return [s.rewarded(s.outcome if s.terminal else values[-1]) for s, values in zip(steps, found, strict=True)]


def last_scores(run: Run, model: RewardModel, played: Sequence[Trajectory]) -> list[float]:
    """What a reward model thinks of the last action of each episode; equal episodes are read once."""
    known: dict[tuple, float] = {}
    for trajectory in played:
        key = (trajectory.id, *trajectory.actions)
        if trajectory.steps and key not in known:
            known[key] = model.predict(run.policy, run.chat, [trajectory.messages])[0][-1]
    return [known.get((t.id, *t.actions), -math.inf) for t in played]


def fit_quality(predicted: Sequence[float], labels: Sequence[float]) -> dict[str, float]:
    """On held-out steps: mean squared error, that of always saying their mean, the share explained (R squared),
    Pearson's correlation, and how many steps. Labels are Monte Carlo estimates, so their noise counts as error."""
    x, y = torch.tensor(predicted, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    error, spread = (x - y).square().mean().item(), (y - y.mean()).square().mean().item()
    correlation = torch.corrcoef(torch.stack([x, y]))[0, 1].item()
    return {
        "mse": error,
        "mse_of_mean": spread,
        "explained": 1 - error / spread,
        "correlation": correlation,
        "steps": len(labels),
    }
