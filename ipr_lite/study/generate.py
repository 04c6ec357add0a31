"""Rollouts with transformers' own `generate`: the plain version of `rollout.py`, and what `bench` measures it against.

Every turn, the whole history of an episode is encoded again; nothing is kept from one turn to the next. Three ways to
write the turns of a batch: `generate` with a batch of one is the reference implementation's way (one episode at a time),
with more it is the usual way, and `generate_continuously` leaves the batching to transformers' server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from ipr_lite.chat import Chat
from ipr_lite.records import Message, Trajectory
from ipr_lite.rollout import Episode, played

Write = Callable[[list[list[int]]], list[list[int]]]
"""Histories in tokens -> for each the tokens of the next message, its end token included."""


def generate(model, chat: Chat, temperature: float, max_new_tokens: int) -> Write:
    """All messages of a batch in one call of `generate`: histories padded on the left, done when the last is."""
    settings = _settings(chat, temperature, max_new_tokens)

    def write(histories: list[list[int]]) -> list[list[int]]:
        width = max(map(len, histories))
        padded = [[settings.pad_token_id] * (width - len(ids)) + ids for ids in histories]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in histories]
        input_ids, attention_mask = (torch.tensor(x, device=model.device) for x in (padded, mask))
        written = model.generate(input_ids=input_ids, attention_mask=attention_mask, generation_config=settings)
        return [_message(ids, chat.end) for ids in written[:, width:].tolist()]

    return write


def generate_continuously(model, chat: Chat, temperature: float, max_new_tokens: int) -> Write:
    """The messages by transformers' continuous batching: what is finished makes room for what waits."""
    settings = _settings(chat, temperature, max_new_tokens)
    # By default its paged cache takes six tenths of a laptop's memory.
    pages = ContinuousBatchingConfig(max_memory_percent=0.1)

    def write(histories: list[list[int]]) -> list[list[int]]:
        before = model.config._attn_implementation
        try:
            found = model.generate_batch(
                histories, generation_config=settings, continuous_batching_config=pages, warmup=False
            )
        finally:
            model.set_attn_implementation(before)
        answers = sorted(found.values(), key=lambda answer: int(answer.request_id.rpartition("_")[2]))
        for answer in answers:
            if answer.error:
                raise RuntimeError(f"continuous batching failed: {answer.error}")
        return [_message(answer.generated_tokens, chat.end) for answer in answers]

    return write


def play(
    episodes: list[Episode],
    write: Write,
    chat: Chat,
    *,
    batch_size: int,
    max_new_tokens: int,
    max_length: int,
    agent: str,
) -> list[Trajectory]:
    """Play every episode to its end, turn after turn; trajectories in the order of `episodes`.

    In each turn those still in play are written in batches of similar length. `extra` is that of `Rollouts.play`,
    except that an error of the world is raised. Seeds are not used: draws depend on torch's generator.
    """
    playing = [_Talk(order, episode, chat.prompt(episode.messages)) for order, episode in enumerate(episodes)]
    finished: dict[int, Trajectory] = {}
    while playing:
        playing.sort(key=lambda talk: len(talk.history))
        written: list[list[int]] = []
        for start in range(0, len(playing), batch_size):
            written += write([talk.history for talk in playing[start : start + batch_size]])
        for talk, tokens in zip(playing, written, strict=True):
            end = _step(talk, tokens, chat, max_length - max_new_tokens)
            if end:
                reward, success, extra = end
                messages = talk.episode.messages + talk.said
                finished[talk.order] = played(
                    talk.episode, messages, agent, reward, success, invalid=talk.invalid, tokens=talk.tokens, **extra
                )
        playing = [talk for talk in playing if talk.order not in finished]
    return [finished[order] for order in range(len(episodes))]


@dataclass
class _Talk:
    """An episode in play; `history` is all of it in tokens, up to where the agent begins to write."""

    order: int
    episode: Episode
    history: list[int]
    said: list[Message] = field(default_factory=list)
    invalid: int = 0
    tokens: int = 0


def _step(talk: _Talk, tokens: list[int], chat: Chat, room: int) -> tuple[float, bool, dict] | None:
    """Hand a message to the world; how the episode ended (reward, success, extra), or None."""
    message = chat.text([token for token in tokens if token != chat.end])
    talk.said.append({"role": "assistant", "content": message})
    talk.tokens += len(tokens)
    observation, reward, terminated, truncated, info = talk.episode.env.step(message)
    talk.invalid += bool(info["invalid"])
    if terminated or truncated:
        return reward, info["success"], {"terminated": terminated}
    closing = [] if tokens[-1] == chat.end else [chat.end]
    talk.history = talk.history + tokens + closing + chat.observation(observation)
    talk.said.append({"role": "user", "content": observation})
    return (0.0, False, {"overflow": True}) if len(talk.history) > room else None


def _settings(chat: Chat, temperature: float, max_new_tokens: int) -> GenerationConfig:
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=chat.end, pad_token_id=chat.tokenizer.pad_token_id,
        use_cache=True, **sampled,
    )  # fmt: skip


def _message(ids: list[int], end: int) -> list[int]:
    """What was written up to the end token; what follows it is padding."""
    return ids[: ids.index(end) + 1] if end in ids else ids
