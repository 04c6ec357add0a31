"""A learned step reward model (paper section 5.4, Table 5): it predicts what Monte Carlo would estimate.

Data: the steps of the demonstrations and of episodes that the SFT policy samples on the same tasks, each with its Monte
Carlo step reward. Model: the frozen base with a LoRA adapter "reward" and a linear head that reads the last hidden
state at the end of an action, that is, (e_{t-1}, a_t); attention looks left, so one pass over an episode gives the
predictions of all its steps. Loss: the squared error. The paper regresses likewise, with all of Llama-2-7B, on 70,000
actions.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ipr_lite.chat import Chat
from ipr_lite.engine.folder import whole
from ipr_lite.jsonl import write_whole
from ipr_lite.model import adapter_weights, set_adapter_weights
from ipr_lite.records import StepReward
from ipr_lite.rollout import stable_seed
from ipr_lite.step_reward import ScoredStep, monte_carlo, steps_of
from ipr_lite.trajectory import Message, Trajectory, read_trajectories, write_trajectories

ADAPTER = "reward"
EPOCHS, BATCH, RATE = 4, 4, 2e-3
FIT_COLUMNS = ("scale", "setting", "seed", "steps", "mse", "mse_of_mean", "explained", "correlation")
HELD_OUT = 0.2
"""The share of tasks whose steps are not trained on."""


@dataclass
class RewardModel:
    """What `fit` has learned: an adapter's weights and a linear head."""

    weights: dict[str, Tensor]
    head: Tensor

    def predict(self, policy, chat: Chat, conversations: Sequence[Sequence[Message]]) -> list[list[float]]:
        """The predicted step reward of every action in each conversation."""
        set_adapter_weights(policy, self.weights, ADAPTER)
        with _adapter(policy), torch.inference_mode():
            return [_predictions(policy, self.head, *_encoded(chat, m)).tolist() for m in conversations]

    def save(self, folder: Path) -> None:
        """Write it as safetensors into a new folder."""
        folder.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in self.weights.items()}, folder / "adapter_model.safetensors")
        save_file({"head": self.head.contiguous()}, folder / "head.safetensors")

    @classmethod
    def load(cls, folder: Path) -> RewardModel:
        """Raises FileNotFoundError where `save` wrote nothing."""
        return cls(load_file(folder / "adapter_model.safetensors"), load_file(folder / "head.safetensors")["head"])


def labelled_episodes(run) -> list[Trajectory]:
    """The demonstrations and one sampled episode of the SFT policy on each of their tasks; `extra["step_rewards"]`
    holds the Monte Carlo step reward of every action. Made once a run, in reward-model-data.jsonl."""
    path = run.folder / "reward-model-data.jsonl"
    if not path.exists():
        from ipr_lite.methods.baselines import explored

        experts = run.demonstrations()
        sampled, spent = explored(run, run.sft(), "reward-model", 0)
        episodes = [*experts, *(t for t in sampled if t.steps)]
        who = {True: "agent", False: "expert"}
        steps = [s for episode in episodes for s in steps_of(run.env, episode, who[episode.agent == "reward-model"])]
        scorer = run.player(run.sft(), 1.0, "scorer")
        rewards = iter(monte_carlo(steps, scorer, run.config.samples, run.config.seed, run.bar("label")))
        for episode in episodes:
            episode.extra["step_rewards"] = [next(rewards).reward_mc for _ in episode.actions]
        run.spend(
            "reward-model/1",
            env_steps=spent["env_steps"] + scorer.actions_taken,
            tokens=spent["tokens"] + scorer.tokens_written,
        )
        write_trajectories(path, episodes)
    return read_trajectories(path)


def reward_model(run) -> RewardModel:
    """The run's reward model, trained when first asked for; reward_model.json tells how well it fits."""
    folder = run.folder / "reward-model"
    if not folder.exists():
        episodes = labelled_episodes(run)
        tasks = sorted({t.id for t in episodes})
        random.Random(stable_seed(run.config.seed, "reward-model")).shuffle(tasks)
        held_out = set(tasks[: math.ceil(HELD_OUT * len(tasks))])
        run.policy
        seen = [t for t in episodes if t.id not in held_out]
        model = fit(run.policy, run.chat, run.fresh, seen, run.config.seed, run.bar("reward model"))
        unseen = [t for t in episodes if t.id in held_out]
        predicted = model.predict(run.policy, run.chat, [t.messages for t in unseen])
        facts = fit_quality([p for ps in predicted for p in ps], [r for t in unseen for r in t.extra["step_rewards"]])
        write_whole(run.folder / "reward_model.json", json.dumps(facts, indent=1) + "\n")
        whole(folder, model.save)
    return RewardModel.load(folder)


def fit(
    policy, chat: Chat, fresh: dict[str, Tensor], episodes: Sequence[Trajectory], seed: int, progress=None
) -> RewardModel:
    """Train an adapter, from the weights `fresh`, and a head on episodes with `extra["step_rewards"]`.

    The policy's other adapters stay as they are.
    """
    set_adapter_weights(policy, fresh, ADAPTER)
    labels = [torch.tensor(t.extra["step_rewards"]) for t in episodes]
    encoded = [_encoded(chat, t.messages) for t in episodes]
    head = nn.Linear(policy.get_base_model().config.hidden_size, 1).to(policy.device)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, torch.cat(labels).mean().item())
    with _adapter(policy):
        parameters = [p for name, p in policy.named_parameters() if f".{ADAPTER}." in name]
        optimizer = torch.optim.AdamW([*parameters, *head.parameters()], lr=RATE, weight_decay=0.01)
        batches = _batches(len(episodes), seed)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        for number, batch in enumerate(batches, start=1):
            count = sum(len(labels[i]) for i in batch)
            for i in batch:
                flat = torch.cat([head.weight[0], head.bias])
                error = _predictions(policy, flat, *encoded[i]) - labels[i].to(policy.device)
                (error.square().sum() / count).backward()
            torch.nn.utils.clip_grad_norm_([*parameters, *head.parameters()], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if progress:
                progress(number, len(batches))
    flat = torch.cat([head.weight[0], head.bias]).detach().cpu()
    return RewardModel(adapter_weights(policy, ADAPTER), flat)


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


def predicted_step_rewards(run, steps: Sequence[ScoredStep]) -> list[StepReward]:
    """Step rewards by the reward model, in place of Monte Carlo; the outcome itself where the action ended the episode."""
    model = reward_model(run)
    run.policy
    found = model.predict(run.policy, run.chat, [step.messages[:-1] for step in steps])
    return [s.rewarded(s.outcome if s.terminal else values[-1]) for s, values in zip(steps, found)]


def trajectory_scores(run, played: Sequence[Trajectory]) -> list[float]:
    """What the reward model thinks of the last action of each episode; equal episodes are read once."""
    model = reward_model(run)
    run.policy
    known: dict[tuple, float] = {}
    for trajectory in played:
        key = (trajectory.id, *trajectory.actions)
        if trajectory.steps and key not in known:
            known[key] = model.predict(run.policy, run.chat, [trajectory.messages])[0][-1]
    return [known.get((t.id, *t.actions), -math.inf) for t in played]


@contextmanager
def _adapter(policy):
    """The reward adapter active within, the policy's own after."""
    policy.set_adapter(ADAPTER)
    policy.eval()
    try:
        yield
    finally:
        policy.set_adapter("default")


def _encoded(chat: Chat, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and where each of its actions ends."""
    encoded = chat.encode(list(messages))
    mask = [*encoded.agent_mask, 0]
    return encoded.input_ids, [i for i in range(len(encoded.input_ids)) if mask[i] and not mask[i + 1]]


def _predictions(policy, head: Tensor, input_ids: list[int], ends: list[int]) -> Tensor:
    base = policy.get_base_model()
    hidden = base.model(input_ids=torch.tensor([input_ids], device=base.device), use_cache=False).last_hidden_state[0]
    head = head.to(hidden.device)
    return hidden[torch.tensor(ends)].float() @ head[:-1] + head[-1]


def _batches(count: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    batches = []
    for _ in range(EPOCHS):
        order = rng.sample(range(count), count)
        batches += [order[start : start + BATCH] for start in range(0, count, BATCH)]
    return batches
