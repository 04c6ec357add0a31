"""An agent that chooses among the actions that its world admits, in place of writing freely (`--decode admissible`).

A small model knows better what to do than how to spell it. Whoever reads its results has to know that the world tells it, at
every step, all that can be done.
"""

from __future__ import annotations

import copy
import random

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from ipr_lite import rollout
from ipr_lite.records import Trajectory
from ipr_lite.rollout import Episode


class Rollouts(rollout.Rollouts):
    """As `rollout.Rollouts`, but a turn is one of the world's `admissible()` actions: the likeliest as a whole (temperature 0),
    or one drawn with probabilities in proportion to theirs."""

    def _play(self, episode: Episode) -> Trajectory:
        self._env = episode.env
        return super()._play(episode)

    def _write(self, unread: list[int], cache: DynamicCache, rng: random.Random) -> list[int]:
        actions = [self.chat.content(f"Action: {action}") + [self.chat.end] for action in self._env.admissible()]
        logps = self.log_probabilities(unread, cache, actions)
        chosen = actions[self._choose(logps, rng)]
        if len(chosen) > 1:
            self.model(
                input_ids=torch.tensor([chosen[:-1]], device=self.model.device), past_key_values=cache, use_cache=True
            )
        return chosen

    def log_probabilities(self, unread: list[int], cache: DynamicCache, actions: list[list[int]]) -> torch.Tensor:
        """log pi(action) of each, (actions,), after the history in `cache` and `unread`, which is read into it.

        All actions are one batch behind copies of the cache, padded on the right: what stands behind an action cannot
        change it.
        """
        device, longest = self.model.device, max(map(len, actions))
        ids = torch.tensor([action + [0] * (longest - len(action)) for action in actions], device=device)
        written = torch.tensor([[i < len(action) for i in range(longest)] for action in actions], device=device)
        history = torch.tensor([unread], device=device)
        first = self.model(input_ids=history, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        behind = copy.deepcopy(cache)
        behind.batch_repeat_interleave(len(actions))
        rest = self.model(input_ids=ids[:, :-1], past_key_values=behind, use_cache=True).logits
        logits = torch.cat([first.expand(len(actions), -1, -1), rest], dim=1).float()
        found = -F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        return (found * written).sum(1)
