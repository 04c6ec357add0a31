"""Batched multi-turn generation: many episodes at once, the key-value cache kept across turns.

An episode is an environment and the messages so far. Three things make a batch of them fast:

1. The cache lives as long as the episode. An observation is appended to it; no history is ever
   encoded twice. The cache is preallocated, so that nothing is copied when it gains a token.
2. Episodes that begin with the same tokens (samples of one step, steps of one expert trajectory)
   share the forward pass over what they have in common.
3. A finished episode leaves its row to a waiting one.

Every row of the batch holds one episode and has its own length; `pending` are its tokens that the
model has not read yet: an observation at the start of a turn, one sampled token within it.
"""

from __future__ import annotations

import hashlib
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

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
class _Row:
    """An episode in row `slot` of the batch. `length` tokens are in the cache, `pending` are still to be read."""

    episode: Episode
    messages: list[Message]
    prompt: list[int]
    pending: list[int]
    rng: random.Random
    order: int
    slot: int = -1
    length: int = 0
    turn: list[int] = field(default_factory=list)
    invalid: int = 0
    tokens: int = 0


class _RowLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, heads, capacity, head size), written at given places."""

    is_sliding = False

    def __init__(self, cache: "RowCache"):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states, value_states):
        _, heads, _, size = key_states.shape
        shape = (self.cache.rows, heads, self.cache.capacity, size)
        self.keys = torch.zeros(shape, dtype=key_states.dtype, device=key_states.device)
        self.values = torch.zeros_like(self.keys)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, positions, limit = self.cache.rows_in_use, self.cache.positions, self.cache.limit
        self.keys[rows[:, None], :, positions] = key_states.transpose(1, 2)
        self.values[rows[:, None], :, positions] = value_states.transpose(1, 2)
        if self.cache.contiguous:
            return self.keys[: len(rows), :, :limit], self.values[: len(rows), :, :limit]
        return self.keys[rows, :, :limit], self.values[rows, :, :limit]

    def grow(self, capacity: int):
        if self.is_initialized:
            pad = (0, 0, 0, capacity - self.keys.shape[2])
            self.keys = torch.nn.functional.pad(self.keys, pad)
            self.values = torch.nn.functional.pad(self.values, pad)

    def copy_row(self, source: int, target: int, length: int):
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def get_mask_sizes(self, query_length):
        return self.cache.limit, 0

    def get_seq_length(self):
        return self.cache.limit

    def get_max_length(self):
        return self.cache.capacity


class RowCache(Cache):
    """A transformers cache whose rows have lengths of their own.

    `capacity` (tokens a row) doubles when a row outgrows it. Before each forward pass, `aim` says
    which rows the batch stands for and at which positions its tokens belong.
    """

    def __init__(self, layers: int, rows: int, capacity: int):
        self.rows, self.capacity = rows, capacity
        super().__init__(layers=[_RowLayer(self) for _ in range(layers)])

    def aim(self, rows: torch.Tensor, positions: torch.Tensor, limit: int, contiguous: bool):
        """Rows (b,), positions (b, t) of the new tokens, and how many positions to attend over."""
        while limit > self.capacity:
            self.capacity *= 2
            for layer in self.layers:
                layer.grow(self.capacity)
        self.rows_in_use, self.positions = rows, positions
        self.limit, self.contiguous = limit, contiguous

    def copy_row(self, source: int, target: int, length: int):
        """Give row `target` the first `length` tokens of row `source`."""
        for layer in self.layers:
            layer.copy_row(source, target, length)


class _Batch:
    """The rows in play (row i of the cache holds `rows[i]`), and the forward pass over them."""

    def __init__(self, model, size: int, capacity: int):
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.backbone, self.head = causal.base_model, causal.get_output_embeddings()
        self.device = causal.get_input_embeddings().weight.device
        layers = causal.config.get_text_config().num_hidden_layers
        self.cache = RowCache(layers, size, capacity)
        self.rows: list[_Row] = []

    def read(self, rows: list[_Row], tokens: list[list[int]]) -> torch.Tensor:
        """Put `tokens[i]` after what `rows[i]` holds; (b, vocab) logits after each last token.

        Shorter lists are padded. The padding lies where the row's next tokens will go, and until
        then no query position reaches that far, so it is never attended to.
        """
        width = max(map(len, tokens))
        indices = [row.slot for row in rows]
        ids = torch.tensor([t + [0] * (width - len(t)) for t in tokens], device=self.device)
        starts = torch.tensor([row.length for row in rows], device=self.device)
        positions = starts[:, None] + torch.arange(width, device=self.device)
        limit = max(row.length for row in rows) + width
        contiguous = indices == list(range(len(rows)))
        self.cache.aim(torch.tensor(indices, device=self.device), positions, limit, contiguous)
        mask = torch.arange(limit, device=self.device) <= positions[:, :, None]
        hidden = self.backbone(
            input_ids=ids,
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        last = torch.tensor([len(t) - 1 for t in tokens], device=self.device)
        return self.head(hidden[torch.arange(len(rows), device=self.device), last]).float()

    def add(self, row: _Row):
        row.slot = len(self.rows)
        self.rows.append(row)

    def remove(self, row: _Row):
        """Free a row; the last one moves into its place, so that the rows in play stay together."""
        mover = self.rows.pop()
        if mover is not row:
            self.cache.copy_row(mover.slot, row.slot, mover.length)
            self.rows[row.slot] = mover
            mover.slot = row.slot
        row.slot = -1


def _shared(a: list[int], b: list[int]) -> int:
    """How many tokens two prompts have in common at the start."""
    if a[: len(b)] == b:
        return len(b)
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


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
            row = _Row(
                episode, list(episode.messages), prompt, prompt, random.Random(episode.seed), order
            )
            if len(prompt) + self.max_new_tokens > self.max_length:
                self._finish(row, 0.0, False, overflow=True)
            else:
                waiting.append(row)
        # Neighbours share prompts; the longest of a family comes first and is read for them all.
        waiting.sort(key=lambda row: row.prompt)
        self.batch = _Batch(self.model, min(self.batch_size, len(waiting)), 512)
        while waiting or self.batch.rows:
            self._admit(waiting)
            self._advance()
            if progress:
                progress(sum(t is not None for t in self.finished), len(episodes))
        return self.finished

    def _admit(self, waiting: list[_Row]):
        """Fill free rows; a prompt that begins like one in play takes over its cache."""
        batch, free = self.batch, self.batch_size - len(self.batch.rows)
        # A few free rows are worth waiting for more: prompts of one family then arrive together.
        if not waiting or (batch.rows and free < min(len(waiting), self.batch_size // 4)):
            return
        arriving = [waiting.pop() for _ in range(min(free, len(waiting)))]
        first: dict[str, _Row] = {}
        for row in arriving:
            if not any(r.episode.task.id == row.episode.task.id for r in batch.rows):
                first.setdefault(row.episode.task.id, row)
            batch.add(row)
        if first:
            self._read_pending(list(first.values()))
        for row in arriving:
            if row.length or row.slot < 0:
                continue
            family = [
                r for r in batch.rows if r.length and r.episode.task.id == row.episode.task.id
            ]
            if family:
                source = max(family, key=lambda r: _shared(r.prompt, row.prompt))
                # The last token is read again: its logits begin the turn.
                shared = min(
                    _shared(source.prompt, row.prompt), source.length, len(row.prompt) - 1
                )
                batch.cache.copy_row(source.slot, row.slot, shared)
                row.length, row.pending = shared, row.prompt[shared:]

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

    def _read_pending(self, rows: list[_Row], most_tokens: int = 8192):
        """Read long pending lists, at most about `most_tokens` a pass, less than half of them padding."""
        rows = sorted(rows, key=lambda row: (len(row.pending), row.length))
        while rows:
            chunk = [rows.pop()]
            width = len(chunk[0].pending)
            while rows and 2 * len(rows[-1].pending) > width and (len(chunk) + 1) * width <= most_tokens:
                chunk.append(rows.pop())
            logits = self.batch.read(chunk, [row.pending for row in chunk])
            self._extend(chunk, logits)

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
        if row.length + len(row.pending) + self.max_new_tokens > self.max_length:
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
