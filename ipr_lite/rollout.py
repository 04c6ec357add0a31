"""Rollouts, plainly: one episode after the other, one token after the other.

`engine/rollouts.py` plays the same episodes as one batch, with the same signature and the same result.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import DynamicCache

from ipr_lite.chat import Chat
from ipr_lite.envs.base import TextEnv
from ipr_lite.records import Message, Task, Trajectory

Progress = Callable[[int, int], None]
"""Told how many are done, of how many."""


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


class Player(Protocol):
    """Whoever plays episodes, here or on a server.

    It counts the actions taken, the tokens written, and the episodes that ended for want of room (`overflowed`).
    """

    actions_taken: int
    tokens_written: int
    overflowed: int

    def play(self, episodes: list[Episode], progress: Progress | None = None) -> list[Trajectory]:
        """Every episode to its end, in the order given."""


def states_along(env: TextEnv, demonstration: Trajectory) -> list[TextEnv]:
    """Copies of the world before each step of a demonstration: item t-1 stands before step t.

    Raises ValueError where the world answers otherwise than the trajectory says: the data and the
    environment do not belong together, and every reward computed from them would be wrong.
    """
    observation, _ = env.reset(options={"task": demonstration.task})
    states = []
    for number, step in enumerate(demonstration.as_steps(), start=1):
        if observation != demonstration.prefix(number)[-1]["content"]:
            raise ValueError(
                f"demonstration {demonstration.key}: the world's observation before step {number} "
                "differs from the recorded one; replay or regenerate the demonstrations"
            )
        states.append(env.clone())
        observation, *_ = env.step(step.action)
    return states


class WorldError(RuntimeError):
    """A world failed: no reward can be told, so no pair may be made of the episode."""


def take(env: TextEnv, task: Task, step: int, message: str) -> tuple[str, float, bool, bool, dict]:
    """`env.step(message)`. Raises WorldError with the task, the step and the message where the world fails."""
    try:
        return env.step(message)
    except Exception as error:
        raise WorldError(
            f"the world {task.env!r} failed in task {task.id}, step {step}, on {message[:200]!r} "
            f"({type(error).__name__}: {error}); it must answer every message"
        ) from error


def played(
    episode: Episode,
    messages: list[Message],
    agent: str,
    reward: float = 0.0,
    success: bool = False,
    *,
    invalid: int,
    tokens: int,
    **extra,
) -> Trajectory:
    """The trajectory of an episode that has ended; `extra` as `Rollouts.play` says."""
    extra = {"terminated": False, "invalid": invalid, "tokens": tokens} | extra
    return Trajectory(episode.task, messages, float(reward), bool(success), agent, episode.seed, extra)


class Rollouts:
    """Plays episodes with one policy.

    model: a causal LM of transformers, or a PeftModel with the wanted adapter active. temperature: 0 is greedy.
    max_new_tokens: of one turn; max_length: of one episode, in tokens. batch_size: not used here.
    """

    def __init__(
        self,
        model,
        chat: Chat,
        *,
        temperature: float,
        max_new_tokens: int,
        max_length: int,
        batch_size: int = 1,
        agent: str,
    ):
        self.model, self.chat, self.agent, self.temperature = model, chat, agent, temperature
        self.max_new_tokens, self.max_length = max_new_tokens, max_length
        self.actions_taken = self.tokens_written = self.overflowed = 0

    @torch.inference_mode()
    def play(self, episodes: list[Episode], progress: Progress | None = None) -> list[Trajectory]:
        """Play every episode to its end; trajectories in the order of `episodes`.

        `extra` of a trajectory holds `invalid` (actions the world did not accept), `tokens` (generated), `terminated`,
        and, where it applies, `overflow` (history plus `max_new_tokens` would pass `max_length`: reward 0) or
        `stopped` (by the episode's `stop`: reward 0). Raises WorldError where a world fails.
        """
        self.model.eval()
        finished = []
        for episode in episodes:
            finished.append(self._play(episode))
            if progress:
                progress(len(finished), len(episodes))
        return finished

    def _play(self, episode: Episode) -> Trajectory:
        messages, rng, cache = list(episode.messages), random.Random(episode.seed), DynamicCache()
        before = sum(message["role"] == "assistant" for message in messages)
        invalid = tokens = steps = 0

        def ended(reward: float = 0.0, success: bool = False, **extra) -> Trajectory:
            self.actions_taken += steps
            self.tokens_written += tokens
            self.overflowed += bool(extra.get("overflow"))
            return played(episode, messages, self.agent, reward, success, invalid=invalid, tokens=tokens, **extra)

        unread = self.chat.prompt(messages)
        length = len(unread)
        while length + self.max_new_tokens <= self.max_length:
            written = self._write(unread, cache, rng)
            tokens, steps = tokens + len(written), steps + 1
            message = self.chat.text([token for token in written if token != self.chat.end])
            messages.append({"role": "assistant", "content": message})
            if steps == 1 and episode.stop and episode.stop(message):
                return ended(stopped=True)
            answer = take(episode.env, episode.task, before + steps, message)
            observation, reward, terminated, truncated, info = answer
            invalid += bool(info["invalid"])
            if terminated or truncated:
                return ended(reward, info["success"], terminated=terminated)
            messages.append({"role": "user", "content": observation})
            # A turn that was cut off is closed, so that the history reads as the template writes it.
            closing = [] if written[-1] == self.chat.end else [self.chat.end]
            observed = closing + self.chat.observation(observation)
            unread = written[-1:] + observed
            length += len(written) + len(observed)
        return ended(overflow=True)

    def _write(self, unread: list[int], cache: DynamicCache, rng: random.Random) -> list[int]:
        """One turn: read what is new, then write tokens up to the end token or the turn's limit. `cache` then holds every token but the
        last written."""
        written: list[int] = []
        while not written or (written[-1] != self.chat.end and len(written) < self.max_new_tokens):
            ids = torch.tensor([unread], device=self.model.device)
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            written.append(self._choose(logits.float(), rng))
            unread = written[-1:]
        return written

    def _choose(self, logits: torch.Tensor, rng: random.Random) -> int:
        """The likeliest token, or one drawn by inverse transform sampling: the episode's next uniform number decides."""
        if self.temperature == 0:
            return int(logits.argmax())
        cumulative = (logits / self.temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
        drawn = torch.searchsorted(cumulative, rng.random() * cumulative[-1:], right=True)
        return min(int(drawn), len(logits) - 1)
