"""An episode to play, and the trajectory that it becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from ipr_lite.envs.base import TextEnv
from ipr_lite.trajectory import Message, Task, Trajectory


def stable_seed(*parts: object) -> int:
    """A 64-bit seed from what identifies a random choice, e.g. (run seed, task, step, sample).

    Unlike `hash`, it is the same in every process, so any rollout can be replayed alone.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


@dataclass
class Episode:
    """An episode to play on: `env` stands where `messages` (ending in an observation) say.

    `stop` is asked about the first message that the policy writes; where it says yes, the episode ends there.
    """

    env: TextEnv
    task: Task
    messages: list[Message]
    seed: int
    stop: Callable[[str], bool] | None = None


def played(
    episode: Episode, messages: list[Message], agent: str, reward: float = 0.0, success: bool = False,
    *, invalid: int, tokens: int, **extra,
) -> Trajectory:  # fmt: skip
    """The trajectory of an episode that has ended; `extra` as `Rollouts.play` says."""
    extra = {"terminated": False, "invalid": invalid, "tokens": tokens} | extra
    return Trajectory(episode.task, messages, float(reward), bool(success), agent, episode.seed, extra)
