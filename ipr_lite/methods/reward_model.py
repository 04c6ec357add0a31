"""A learned step reward model (paper section 5.4, Table 5): it predicts what Monte Carlo would estimate.

Data: `learned_rewards.py`. Model: the frozen base with a LoRA adapter "reward" and a linear head that reads the last hidden
state at the end of an action, (e_{t-1}, a_t); attention looks left, so one pass over an episode gives all its predictions.
Loss: the squared error, or an `Example`'s own. The paper regresses likewise, all of Llama-2-7B, on 70,000 actions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ipr_lite.chat import Chat
from ipr_lite.model import adapter_weights, set_adapter_weights
from ipr_lite.records import Message

ADAPTER = "reward"
EPOCHS, BATCH, RATE = 4, 4, 2e-3


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


@dataclass
class Example:
    """Conversations that are judged together, and the sum of `count` errors that the predictions for their actions,
    (actions,) for each conversation, make."""

    conversations: Sequence[Sequence[Message]]
    count: int
    error: Callable[[list[Tensor]], Tensor]


def fit(
    policy, chat: Chat, fresh: dict[str, Tensor], examples: Sequence[Example], mean: float, seed: int, progress=None
) -> RewardModel:
    """Train an adapter, from the weights `fresh`, and a head that says `mean` of everything at first.

    The policy's other adapters stay as they are.
    """
    rng = random.Random(seed)
    set_adapter_weights(policy, fresh, ADAPTER)
    encoded = [[_encoded(chat, messages) for messages in example.conversations] for example in examples]
    head = nn.Linear(policy.get_base_model().config.hidden_size, 1).to(policy.device)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, mean)
    with _adapter(policy):
        parameters = [p for name, p in policy.named_parameters() if f".{ADAPTER}." in name]
        optimizer = torch.optim.AdamW([*parameters, *head.parameters()], lr=RATE, weight_decay=0.01)
        orders = [rng.sample(range(len(examples)), len(examples)) for _ in range(EPOCHS)]
        batches = [order[start : start + BATCH] for order in orders for start in range(0, len(order), BATCH)]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        for number, batch in enumerate(batches, start=1):
            count = sum(examples[i].count for i in batch)
            for i in batch:
                flat = torch.cat([head.weight[0], head.bias])
                predicted = [_predictions(policy, flat, *one) for one in encoded[i]]
                (examples[i].error(predicted) / count).backward()
            torch.nn.utils.clip_grad_norm_([*parameters, *head.parameters()], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if progress:
                progress(number, len(batches))
    flat = torch.cat([head.weight[0], head.bias]).detach().cpu()
    return RewardModel(adapter_weights(policy, ADAPTER), flat)


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
