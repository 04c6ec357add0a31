"""One view of all methods (Gao et al., 2024, 2409.02795): each pushes log pi of every token, some up and some down.

    gradient = sum over tokens of   coefficient(token) * gradient of log pi(token)

The coefficient, minus the derivative of the method's own loss by the token's log-probability, is all that methods differ
in. Here it is measured, by automatic differentiation through the losses that train, on a demonstration and a group of
episodes of its task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ipr_lite.chat import Chat
from ipr_lite.config import Config
from ipr_lite.losses import dpo_loss, ipr_loss, ppo_loss, sft_loss
from ipr_lite.methods import grpo
from ipr_lite.methods.policy_gradient import experience
from ipr_lite.records import Pair, Trajectory

PAIRS_ALONE = "ipr, pairs alone"
"""IPR without its SFT term."""
METHODS = ("sft", "rft", "atlas", "eto", PAIRS_ALONE, "ipr", "ppo", "grpo", "gigpo")


def decisions(chat: Chat, trajectory: Trajectory) -> Tensor:
    """(tokens,): which decision (0, 1, ...) wrote each of the agent's tokens."""
    return torch.tensor([d for d in experience(chat, trajectory, []).decision if d >= 0])


def coefficients(
    chat: Chat, config: Config, demonstration: Trajectory, pairs: Sequence[Pair], critical: set[int],
    group: Sequence[Trajectory],
) -> dict[str, tuple[Tensor, Tensor]]:  # fmt: skip
    """By method: the coefficients of the demonstration's tokens, and of those of the group's first episode.

    At the start of a round, where the policy is the reference, so that all log-ratios are 0. `pairs`: the step pairs of
    this demonstration; `critical`: the steps that ATLaS keeps. The outcome pair is demonstration and episode; where they
    end alike, ETO and IPR have none. PPO's value is the mean outcome of the group.
    """
    episode, tokens = group[0], [decisions(chat, t) for t in (demonstration, group[0])]
    outcomes = [t.reward for t in group]
    difference = demonstration.reward - episode.reward
    advantages = {
        "ppo": [episode.reward - sum(outcomes) / len(outcomes)] * episode.steps,
        "grpo": grpo.grpo(group)[0],
        "gigpo": grpo.gigpo(group)[0],
    }

    def sft(demo: Tensor, own: Tensor) -> Tensor:
        return sft_loss(demo.sum()[None], torch.tensor([len(demo)]), per="token")

    def rft(demo: Tensor, own: Tensor) -> Tensor:
        sides = [demo, own] if episode.success or episode.reward > demonstration.reward else [demo]
        sums, lengths = torch.stack([side.sum() for side in sides]), torch.tensor([len(side) for side in sides])
        return sft_loss(sums, lengths, per="token")

    def critical_alone(demo: Tensor, own: Tensor) -> Tensor:
        kept = demo[torch.isin(tokens[0] + 1, torch.tensor(sorted(critical)))]
        return sft_loss(kept.sum()[None], torch.tensor([len(kept)]), per="token")

    def sides_of(demo: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        both = demo.sum()[None], own.sum()[None]
        return both if difference > 0 else both[::-1]

    def eto(demo: Tensor, own: Tensor) -> Tensor:
        return dpo_loss(*sides_of(demo, own), torch.zeros(1), torch.zeros(1), config.beta).sum() * (difference != 0)

    def ipr(demo: Tensor, own: Tensor, w_sft: float = config.w_sft) -> Tensor:
        rows = [(*sides_of(demo, own), True, len(demo))] if difference else []
        for pair in pairs:
            suffix, other = demo[tokens[0] + 1 >= pair.step].sum()[None], torch.zeros(1)
            won = pair.chosen == demonstration.suffix(pair.step)
            rows.append((*((suffix, other) if won else (other, suffix)), False, 1))
        if not rows:
            return demo.sum() * 0
        chosen, rejected, outcome, lengths = zip(*rows, strict=True)
        none = torch.zeros(len(rows))
        return ipr_loss(
            torch.cat(chosen), torch.cat(rejected), none, none, torch.tensor(outcome), torch.tensor(lengths),
            config.beta, config.w_outcome, config.w_step, w_sft, config.sft_on, config.sft_per,
        ).total  # fmt: skip

    def gradient(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda demo, own: ppo_loss(own, own.detach(), torch.tensor(advantages[name])[tokens[1]]).mean()

    losses = {
        "sft": sft,
        "rft": rft,
        "atlas": critical_alone,
        "eto": eto,
        "ipr": ipr,
        PAIRS_ALONE: partial(ipr, w_sft=0.0),
    }
    return {name: pushes(losses.get(name) or gradient(name), *map(len, tokens)) for name in METHODS}


def pushes(loss: Callable[[Tensor, Tensor], Tensor], *lengths: int) -> tuple[Tensor, ...]:
    """Minus the loss's derivative by the log-probability of each token, where policy and reference are equal."""
    logps = [torch.zeros(length, requires_grad=True) for length in lengths]
    found = torch.autograd.grad(loss(*logps), logps, allow_unused=True)
    return tuple(torch.zeros(n) if g is None else -g for g, n in zip(found, lengths, strict=True))
