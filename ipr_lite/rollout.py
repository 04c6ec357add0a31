"""Batched multi-turn generation: many episodes at once, the key-value cache kept across turns.

An episode is an environment and the messages so far. Three things make a batch of them fast:

1. The cache lives as long as the episode. An observation is appended to it; no history is ever
   encoded twice (`branches.py`).
2. Episodes that begin with the same prompt (samples of one step) share its keys and values, and
   prompts that begin alike (steps of one expert trajectory) share the forward pass over it.
3. A finished episode leaves its row to a waiting one.

Every row of the batch holds one episode and has its own length; `pending` are its tokens that the
model has not read yet: an observation at the start of a turn, one sampled token within it.
"""

from __future__ import annotations

import hashlib
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ipr_lite.branches import BranchedCache, branching
from ipr_lite.chat import Chat
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


@dataclass(eq=False)
class _Trunk:
    """A prompt in play without its last token, which every row on it reads itself: its logits begin the turn."""

    prompt: list[int]
    slot: int
    length: int = 0
    rows: int = 0


@dataclass(eq=False)
class _Row:
    """An episode in row `slot` of the batch. Its branch holds `length` tokens, `pending` are still to be read."""

    episode: Episode
    messages: list[Message]
    prompt: list[int]
    rng: random.Random
    order: int
    pending: list[int] = field(default_factory=list)
    trunk: _Trunk | None = None
    slot: int = -1
    length: int = 0
    turn: list[int] = field(default_factory=list)
    invalid: int = 0
    tokens: int = 0


class _Batch:
    """The trunks and rows in play (slot i of the cache holds item i), and the forward passes over them."""

    def __init__(self, causal, size: int):
        self.backbone, self.head = causal.base_model, causal.get_output_embeddings()
        self.device = causal.get_input_embeddings().weight.device
        self.cache = BranchedCache(causal.config.get_text_config().num_hidden_layers, size)
        self.rows: list[_Row] = []
        self.trunks: list[_Trunk] = []

    def read_trunks(self, trunks: list[_Trunk]):
        """Read what the trunks do not hold yet."""
        tokens = [trunk.prompt[trunk.length :] for trunk in trunks]
        starts, slots = [trunk.length for trunk in trunks], [trunk.slot for trunk in trunks]
        ids, positions, limit = self._lay_out(tokens, starts)
        self.cache.aim_at_trunks(torch.tensor(slots, device=self.device), positions, limit)
        self._forward(ids, positions, self._up_to(positions, limit))
        for trunk in trunks:
            trunk.length = len(trunk.prompt)

    def read(self, rows: list[_Row], tokens: list[list[int]]) -> torch.Tensor:
        """Put `tokens[i]` after what `rows[i]` holds; (b, vocab) logits after each last token.

        Shorter lists are padded. The padding lies where the row's next tokens will go, and until
        then no query position reaches that far, so it is never attended to.
        """
        ids, places, limit = self._lay_out(tokens, [row.length for row in rows])
        trunks = torch.tensor([row.trunk.length for row in rows], device=self.device)
        furthest = max(row.trunk.length for row in rows)
        slots = torch.tensor([row.slot for row in rows], device=self.device)
        self.cache.aim_at_branches(slots, places, limit, [row.trunk.slot for row in rows], furthest)
        in_trunk = self._up_to(trunks[:, None].expand_as(places) - 1, furthest)
        hidden = self._forward(ids, trunks[:, None] + places, torch.cat([in_trunk, self._up_to(places, limit)], -1))
        last = torch.tensor([len(t) - 1 for t in tokens], device=self.device)
        return self.head(hidden[torch.arange(len(rows), device=self.device), last]).float()

    def _lay_out(self, tokens: list[list[int]], starts: list[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Padded ids (b, t), their positions (b, t), and how many positions there are then."""
        width = max(map(len, tokens))
        ids = torch.tensor([t + [0] * (width - len(t)) for t in tokens], device=self.device)
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(width, device=self.device)
        return ids, positions, max(starts) + width

    def _up_to(self, last: torch.Tensor, limit: int) -> torch.Tensor:
        """Whether positions 0 to `limit` lie up to `last` (b, t): (b, t, limit)."""
        return torch.arange(limit, device=self.device) <= last[:, :, None]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(seen.shape, device=self.device).masked_fill_(~seen, -torch.inf)[:, None]
        return self.backbone(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        ).last_hidden_state

    def add(self, row: _Row):
        row.slot = len(self.rows)
        self.rows.append(row)
        row.trunk.rows += 1

    def remove(self, row: _Row):
        """Free a row, and its trunk after the last one."""
        self._fill(self.rows, row, "branches")
        row.trunk.rows -= 1
        if not row.trunk.rows:
            self._fill(self.trunks, row.trunk, "trunks")

    def _fill(self, items: list, gone, kind: str):
        """The last item moves into the freed slot, so that those in play stay together."""
        mover = items.pop()
        if mover is not gone:
            self.cache.copy(kind, mover.slot, gone.slot, mover.length)
            items[gone.slot] = mover
            mover.slot = gone.slot


def _shared(a: list[int], b: list[int]) -> int:
    """How many tokens two prompts have in common at the start."""
    if a[: len(b)] == b:
        return len(b)
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _alike(items: list, width: Callable, most_tokens: int = 8192) -> Iterator[list]:
    """Items in chunks of similar width: less than half of a chunk is padding, and it has about `most_tokens`."""
    items = sorted(items, key=width)
    while items:
        chunk = [items.pop()]
        widest = width(chunk[0])
        while items and 2 * width(items[-1]) > widest and (len(chunk) + 1) * widest <= most_tokens:
            chunk.append(items.pop())
        yield chunk


class Rollouts:
    """Plays episodes with one policy.

    model: a causal LM of transformers or a PeftModel with the wanted adapter active.
    temperature: 0 is greedy. max_new_tokens: of one turn; max_length: of one episode, in tokens.
    batch_size: rows in play at once.
    """

    def __init__(
        self,
        model,
        chat: Chat,
        *,
        temperature: float,
        max_new_tokens: int,
        max_length: int,
        batch_size: int,
        agent: str,
    ):
        self.model, self.chat, self.agent = model, chat, agent
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.max_length, self.batch_size = max_length, batch_size
        self.actions_taken = self.tokens_written = 0

    @torch.inference_mode()
    def play(
        self, episodes: list[Episode], progress: Callable[[int, int], None] | None = None
    ) -> list[Trajectory]:
        """Play every episode to its end; trajectories in the order of `episodes`.

        `extra` of a trajectory holds `invalid` (actions the world did not accept), `tokens`
        (generated), `terminated`, and, where it applies, `overflow` (the next observation did not
        fit `max_length`: reward 0), `stopped` (by the episode's `stop`: reward 0) or `error` (the
        environment raised: reward 0, traceback kept).
        """
        self.model.eval()
        waiting = []
        self.finished: list[Trajectory | None] = [None] * len(episodes)
        for order, episode in enumerate(episodes):
            prompt = self.chat.prompt(episode.messages)
            row = _Row(episode, list(episode.messages), prompt, random.Random(episode.seed), order)
            if len(prompt) + self.max_new_tokens > self.max_length:
                self._finish(row, 0.0, False, overflow=True)
            else:
                waiting.append(row)
        # Neighbours share prompts; the longest of a family comes first and is read for them all.
        waiting.sort(key=lambda row: row.prompt)
        causal = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        with branching(causal):
            self.batch = _Batch(causal, min(self.batch_size, len(waiting)))
            while waiting or self.batch.rows:
                self._admit(waiting)
                self._advance()
                if progress:
                    progress(sum(t is not None for t in self.finished), len(episodes))
        return self.finished

    def _admit(self, waiting: list[_Row]):
        """Fill free rows: each on the trunk of its prompt, new ones read for what no trunk in play holds."""
        batch, free = self.batch, self.batch_size - len(self.batch.rows)
        # A few free rows are worth waiting for more: prompts of one family then arrive together.
        if not waiting or (batch.rows and free < min(len(waiting), self.batch_size // 4)):
            return
        known = {tuple(trunk.prompt): trunk for trunk in batch.trunks}
        new: list[_Trunk] = []
        for row in [waiting.pop() for _ in range(min(free, len(waiting)))]:
            prompt = row.prompt[:-1]
            row.trunk = known.get(tuple(prompt))
            if row.trunk is None:
                row.trunk = known[tuple(prompt)] = _Trunk(prompt, len(batch.trunks))
                batch.trunks.append(row.trunk)
                new.append(row.trunk)
            batch.add(row)
            row.pending = row.prompt[-1:]
        # Prompts arrive sorted, so those that begin alike are neighbours: one is read first, for all of them.
        first = [t for before, t in zip([None, *new], new) if not before or _shared(before.prompt, t.prompt) < 64]
        self._read_trunks(first)
        rest = [trunk for trunk in new if trunk not in first]
        for trunk in rest:
            source = max(first, key=lambda t: _shared(t.prompt, trunk.prompt))
            trunk.length = min(_shared(source.prompt, trunk.prompt), len(trunk.prompt) - 1)
            batch.cache.copy("trunks", source.slot, trunk.slot, trunk.length)
        self._read_trunks(rest)

    def _advance(self):
        """One forward pass: over the new observations when enough have come together, else one
        token for every row that is writing."""
        rows = self.batch.rows
        reading = [row for row in rows if len(row.pending) > 1]
        if len(reading) == len(rows) or len(reading) >= max(1, len(rows) // 4):
            self._read_pending(reading)
            return
        # Rows that wait for others read a token that their observation will overwrite.
        logits = self.batch.read(rows, [row.pending[:1] for row in rows])
        keep = [i for i, row in enumerate(rows) if len(row.pending) == 1]
        self._extend([rows[i] for i in keep], logits[keep])

    def _read_trunks(self, trunks: list[_Trunk]):
        for chunk in _alike(trunks, lambda trunk: len(trunk.prompt) - trunk.length):
            self.batch.read_trunks(chunk)

    def _read_pending(self, rows: list[_Row]):
        """Read observations."""
        for chunk in _alike(rows, lambda row: len(row.pending)):
            self._extend(chunk, self.batch.read(chunk, [row.pending for row in chunk]))

    def _extend(self, rows: list[_Row], logits: torch.Tensor):
        """Choose every row's next token; a row that ends its turn acts in its world."""
        # All lengths first: a row that is removed below moves another one's cache.
        for row in rows:
            row.length += len(row.pending)
        for row, token in zip(rows, self._choose(rows, logits)):
            row.pending = [token]
            row.turn.append(token)
            row.tokens += 1
            if token == self.chat.end or len(row.turn) >= self.max_new_tokens:
                self._act(row)

    def _choose(self, rows: list[_Row], logits: torch.Tensor) -> list[int]:
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        # Inverse transform sampling: a row's draw depends on its own generator alone, not on
        # which other rows share the batch.
        cumulative = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        draws = torch.tensor([[row.rng.random()] for row in rows], device=logits.device)
        draws = draws.double() * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, draws, right=True)[:, 0]
        return chosen.clamp(max=logits.shape[-1] - 1).tolist()

    def _act(self, row: _Row):
        """Hand the finished message to the world; take in its answer or end the episode."""
        message = self.chat.text([t for t in row.turn if t != self.chat.end])
        row.messages.append({"role": "assistant", "content": message})
        ended = row.turn[-1] == self.chat.end
        row.turn = []
        if row.episode.stop and len(row.messages) == len(row.episode.messages) + 1 and row.episode.stop(message):
            self._remove(row, 0.0, False, stopped=True)
            return
        try:
            observation, reward, terminated, truncated, info = row.episode.env.step(message)
        except Exception:
            self._remove(row, 0.0, False, error=traceback.format_exc())
            return
        row.invalid += bool(info["invalid"])
        if terminated or truncated:
            self._remove(row, reward, info["success"], terminated=terminated)
            return
        # A turn that was cut off is closed, so that the history reads as the template writes it.
        closing = [] if ended else [self.chat.end]
        row.pending = row.pending + closing + self.chat.observation(observation)
        row.messages.append({"role": "user", "content": observation})
        if row.trunk.length + row.length + len(row.pending) + self.max_new_tokens > self.max_length:
            self._remove(row, 0.0, False, overflow=True)

    def _remove(self, row: _Row, reward: float, success: bool, **extra):
        self.batch.remove(row)
        self._finish(row, reward, success, **extra)

    def _finish(self, row: _Row, reward: float, success: bool, **extra):
        self.actions_taken += sum(m["role"] == "assistant" for m in row.messages[len(row.episode.messages):])
        self.tokens_written += row.tokens
        extra = {"terminated": False, "invalid": row.invalid, "tokens": row.tokens} | extra
        self.finished[row.order] = Trajectory(
            row.episode.task,
            row.messages,
            float(reward),
            bool(success),
            self.agent,
            row.episode.seed,
            extra,
        )
