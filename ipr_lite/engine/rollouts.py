"""Batched multi-turn generation: many episodes at once, the key-value cache kept across turns.

An episode is an environment and the messages so far. Six things make a batch of them fast:

1. The cache lives as long as the episode. An observation is appended; no history is read twice (`cache.py`).
2. The conversation that several episodes begin with (those of all steps of one demonstration) is read once, as their
   shared prefix, and its keys and values are read once for all of them.
3. Samples of one step are one row of the batch until they differ: what they have in common is computed once. Each
   still draws its own tokens, so nothing is sampled otherwise than alone.
4. Rows that come to the same history join; what follows the demonstrator to the letter stays on the prefix.
5. Several tokens are read in one pass: draft tokens, kept as far as each sample draws them (`lookup.py`).
6. A finished episode leaves its row to a waiting one.

Every row of the batch holds one history and has its own length; `pending` are its tokens that the model has not read
yet: an observation at the start of a turn, one sampled token within it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from ipr_lite.chat import Chat
from ipr_lite.engine.cache import Branch, Prefix, PrefixTree, check_attention
from ipr_lite.engine.lookup import NGrams, accepted, longest_draft
from ipr_lite.envs.base import TextEnv
from ipr_lite.records import Message, Trajectory
from ipr_lite.rollout import Episode, played, take

TOKENS_A_PASS = 2048
"""About so many tokens are read in one pass: enough to keep a processor busy, few enough for its caches."""


@dataclass(eq=False)
class _Sample:
    """An episode in play, with its uniform numbers in [0, 1): number i decides on the i-th token it writes.

    `tokens` and `invalid` are what it has more of than its row, which it may have joined later.
    """

    episode: Episode
    order: int
    rng: random.Random
    numbers: list[float] = field(default_factory=list)
    tokens: int = 0
    invalid: int = 0

    def draw(self, place: int) -> float:
        while place >= len(self.numbers):
            self.numbers.append(self.rng.random())
        return self.numbers[place]


@dataclass(eq=False)
class _Row:
    """A row of the batch: the samples that have the same history, and the world as it is after it.

    `history` are all its tokens, `pending` those that the branch does not hold yet, `turn` those of the message being
    written. `follows`: all but the last are those of the prefix. `ended`: how the episode did. `joined`: a row that went
    on with these samples, and how many more tokens and invalid actions they have than it.
    """

    samples: list[_Sample]
    env: TextEnv
    messages: list[Message]
    branch: Branch
    history: list[int]
    pending: list[int]
    turn: list[int] = field(default_factory=list)
    follows: bool = False
    invalid: int = 0
    tokens: int = 0
    ended: tuple[float, bool, dict] | None = None
    joined: tuple[_Row, int, int] | None = None


def _shared(a: list[int], b: list[int]) -> int:
    """How many tokens two prompts have in common at the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _insert_prefix(rows: list[_Row]):
    """One shared prefix for these rows: the prompt that has most in common with the others', as far as each shares it.

    A row reads at least its prompt's last token itself, since that begins its first message.
    """
    rows.sort(key=lambda row: row.pending)
    # In sorted order, two prompts share what all neighbours between them share.
    between = [_shared(a.pending, b.pending) for a, b in itertools.pairwise(rows)]

    def shares(chosen: int) -> list[int]:
        left = itertools.accumulate(reversed(between[:chosen]), min)
        right = itertools.accumulate(between[chosen:], min)
        return [*reversed(list(left)), len(rows[chosen].pending), *right]

    best = max((shares(i) for i in range(len(rows))), key=sum)
    longest = max(range(len(rows)), key=best.__getitem__)
    if len(rows[longest].samples) == 1:
        # What only one sample would read of a prefix, it can as well read of its branch.
        best[longest] = max(shared for i, shared in enumerate(best) if i != longest)
    visible = [min(shared, len(row.pending) - 1) for shared, row in zip(best, rows, strict=True)]
    prefix = Prefix(rows[longest].pending[: max(visible)])
    for row, seen in zip(rows, visible, strict=True):
        row.branch, row.pending = Branch(prefix, seen), row.pending[seen:]
        row.follows = len(row.pending) == 1


class Rollouts:
    """Plays episodes with one policy.

    model: a causal LM of transformers or a PeftModel with the wanted adapter active.
    temperature: 0 is greedy. max_new_tokens: of one turn; max_length: of one episode, in tokens.
    batch_size: episodes in play at once. share: off, every episode is a row with a prompt of its own; draft:
    off, a pass reads no token that is not certain. Both change the time alone (and, as a batch does, the last bits of
    float32: a draw on the very border of two tokens may fall on the other side).

    Raises NotImplementedError for a model whose attention is not that of `cache.py`.
    Counts what it did: `actions_taken` and `tokens_written` by the episodes, `tokens_read` by the model in `passes`.
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
        share: bool = True,
        draft: bool = True,
    ):
        self.model, self.chat, self.agent = model, chat, agent
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.max_length, self.batch_size = max_length, batch_size
        self.share, self.draft = share, draft
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        check_attention(self.causal, max_length)
        self.actions_taken = self.tokens_written = self.overflowed = self.tokens_read = self.passes = 0

    @torch.inference_mode()
    def play(self, episodes: list[Episode], progress: Callable[[int, int], None] | None = None) -> list[Trajectory]:
        """Play every episode to its end; trajectories in the order of `episodes`.

        `extra` of a trajectory holds `invalid` (actions the world did not accept), `tokens`
        (generated), `terminated`, and, where it applies, `overflow` (the next observation did not
        fit `max_length`: reward 0) or `stopped` (by the episode's `stop`: reward 0). Raises WorldError where
        a world fails.
        """
        self.model.eval()
        self.finished: list[Trajectory | None] = [None] * len(episodes)
        self.rows: list[_Row] = []
        self.turns: dict[object, tuple[_Row, int, int]] = {}
        self.ngrams = NGrams()
        waiting = self._waiting(episodes)
        with PrefixTree(self.causal, self.batch_size) as self.tree:
            while waiting or self.rows:
                self._admit(waiting)
                self._advance()
                if progress:
                    progress(sum(t is not None for t in self.finished), len(episodes))
        self.tokens_read += self.tree.tokens_read
        self.passes += self.tree.passes
        return self.finished

    def _waiting(self, episodes: list[Episode]) -> list[_Row]:
        """The rows that episodes begin in, neighbours on one prefix; what is too long is finished at once."""
        # Stage 1: samples of one history are one row, up to the size of a batch.
        together: dict[object, list[_Sample]] = {}
        for order, episode in enumerate(episodes):
            said = tuple(message["content"] for message in episode.messages)
            key = (episode.task.env, episode.task.id, said, episode.stop) if self.share else order
            together.setdefault(key, []).append(_Sample(episode, order, random.Random(episode.seed)))
        # Stage 2: the rows by task, since those of one task begin alike.
        by_task: dict[object, list[_Row]] = {}
        for samples in together.values():
            first = samples[0].episode
            prompt = self.chat.prompt(first.messages)
            for start in range(0, len(samples), self.batch_size):
                part = samples[start : start + self.batch_size]
                row = _Row(part, part[0].episode.env, list(first.messages), Branch(), list(prompt), prompt)
                if len(prompt) + self.max_new_tokens > self.max_length:
                    self._finish(row, 0.0, False, overflow=True)
                else:
                    self.turns.setdefault(self._place(row), (row, 0, 0))
                    by_task.setdefault((first.task.env, first.task.id), []).append(row)
        # Stage 3: a shared prefix for each task.
        if self.share:
            # What is alone in its task shares the system prompt with all others that are.
            alone = [task for task, rows in by_task.items() if sum(len(row.samples) for row in rows) == 1]
            if len(alone) > 1:
                by_task[None] = [row for task in alone for row in by_task.pop(task)]
            for rows in by_task.values():
                if sum(len(row.samples) for row in rows) > 1:
                    _insert_prefix(rows)
        return [row for rows in by_task.values() for row in rows][::-1]

    def _admit(self, waiting: list[_Row]):
        """Fill the batch, and read the prefixes and prompts of those that enter."""
        free = self.batch_size - sum(len(row.samples) for row in self.rows)
        # A few free places are worth waiting for more: then several prompts are read together.
        if not waiting or (self.rows and free < self.batch_size // 4):
            return
        prefixes: dict[Prefix, None] = {}
        while waiting and (len(waiting[-1].samples) <= free or not self.rows):
            row = waiting.pop()
            free -= len(row.samples)
            self.rows.append(row)
            if row.branch.visible and not row.branch.prefix.keys:
                prefixes[row.branch.prefix] = None
            self._learn(row, len(row.pending))
        for prefix in prefixes:
            self.ngrams.learn(prefix.tokens, len(prefix.tokens))
            self.tree.read_prefix(prefix)

    def _advance(self):
        """One pass: the next token of every row that is writing, and observations as far as there is room.

        Then all choose their next tokens; a row that ends its turn acts in its world.
        """
        # Stage 1: the rows that fit into the pass, and a draft for each.
        rows = sorted(self.rows, key=lambda row: len(row.pending))
        ends = itertools.accumulate(len(row.pending) for row in rows)
        rows = [row for row, end in zip(rows, ends, strict=True) if end <= max(TOKENS_A_PASS, len(rows[0].pending))]
        most = longest_draft(len(rows)) if self.draft else 0
        drafts = [
            self.ngrams.draft(row.history, min(most, self.max_new_tokens - len(row.turn) - 1), self.chat.end)
            for row in rows
        ]
        # Stage 2: the model reads pending and draft tokens; each row keeps what it would have written alone.
        tokens = [row.pending + draft for row, draft in zip(rows, drafts, strict=True)]
        logits = self.tree.read([row.branch for row in rows], tokens, [1 + len(draft) for draft in drafts])
        written = []
        for row, draft, chosen in zip(rows, drafts, self._choose(rows, drafts, logits), strict=True):
            held = row.branch.length - len(draft)
            (first, message), *others = accepted(draft, chosen, range(len(row.samples)))
            samples = row.samples
            for group, text in others:
                written.append((self._split(row, [samples[i] for i in group], held + len(text) - 1), text))
            row.samples = [samples[i] for i in first]
            row.branch.length = held + len(message) - 1
            written.append((row, message))
        # Stage 3: what is written is what the next pass reads; a message that is complete goes to the world.
        for row, message in written:
            row.pending = message[-1:]
            row.turn += message
            row.tokens += len(message)
            self._saw(row, message)
            if row.turn[-1] == self.chat.end or len(row.turn) >= self.max_new_tokens:
                self._act(row)

    def _choose(self, rows: list[_Row], drafts: list[list[int]], logits: torch.Tensor) -> list[list[list[int]]]:
        """For every row, after its pending tokens and after each drafted one: the token that each sample draws."""
        places = [(row, place) for row, draft in zip(rows, drafts, strict=True) for place in range(len(draft) + 1)]
        if self.temperature == 0:
            likeliest = logits.argmax(-1).tolist()
            tokens = [[token] * len(row.samples) for (row, _), token in zip(places, likeliest, strict=True)]
        else:
            # Inverse transform sampling: a draw depends on the sample's own numbers alone, not on
            # what else is in the batch.
            cumulative = (logits / self.temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
            widest = max(len(row.samples) for row in rows)
            draws = [
                [s.draw(row.tokens + s.tokens + place) for s in row.samples] + [0.0] * (widest - len(row.samples))
                for row, place in places
            ]
            draws = torch.tensor(draws, dtype=torch.float64, device=logits.device) * cumulative[:, -1:]
            tokens = torch.searchsorted(cumulative, draws, right=True).clamp(max=logits.shape[-1] - 1).tolist()
        chosen = iter(tokens)
        return [[next(chosen) for _ in range(len(draft) + 1)] for draft in drafts]

    def _split(self, row: _Row, samples: list[_Sample], length: int) -> _Row:
        """A row of their own for samples that wrote something else than the others of their row."""
        twin = replace(
            row, samples=samples, env=row.env.clone(), messages=list(row.messages), turn=list(row.turn),
            history=list(row.history), branch=self.tree.fork(row.branch, length),
        )  # fmt: skip
        self.rows.append(twin)
        return twin

    def _saw(self, row: _Row, tokens: list[int]):
        """The row's history goes on with these tokens."""
        if row.follows:
            # The very last token may stand behind the prefix: it is read again anyway.
            ahead = row.branch.prefix.tokens[len(row.history) :]
            row.follows = len(tokens) <= len(ahead) + 1 and all(a == b for a, b in zip(ahead, tokens, strict=False))
        row.history += tokens
        self._learn(row, len(tokens))

    def _learn(self, row: _Row, new: int):
        if self.draft:
            self.ngrams.learn(row.history, new)

    def _act(self, row: _Row):
        """Hand the finished message to the world; take in its answer or end the episode."""
        message = self.chat.text([t for t in row.turn if t != self.chat.end])
        row.messages.append({"role": "assistant", "content": message})
        ended = row.turn[-1] == self.chat.end
        row.turn = []
        if not self._go_on(row, message):
            return
        step = sum(m["role"] == "assistant" for m in row.messages)
        task = row.samples[0].episode.task
        observation, reward, terminated, truncated, info = take(row.env, task, step, message)
        row.invalid += bool(info["invalid"])
        if terminated or truncated:
            self._remove(row, reward, info["success"], terminated=terminated)
            return
        # A turn that was cut off is closed, so that the history reads as the template writes it.
        closing = [] if ended else [self.chat.end]
        answer = closing + self.chat.observation(observation)
        row.pending = row.pending + answer
        self._saw(row, answer)
        row.messages.append({"role": "user", "content": observation})
        if len(row.history) + self.max_new_tokens > self.max_length:
            self._remove(row, 0.0, False, overflow=True)
        elif self._join(row):
            self.rows.remove(row)
            self.tree.drop(row.branch)
        elif row.follows:
            # It did as the demonstrator, to the letter: the prefix holds all of its history.
            row.branch.length, row.branch.visible = 0, len(row.history) - 1
            row.pending = row.pending[-1:]

    def _go_on(self, row: _Row, message: str) -> bool:
        """End the samples that stop at this message, their first; whether any is left."""
        first = len(row.messages) - 1
        starts = [(sample, sample.episode) for sample in row.samples]
        stopping = [s for s, start in starts if start.stop and len(start.messages) == first and start.stop(message)]
        if stopping:
            going = [sample for sample in row.samples if sample not in stopping]
            row.samples = stopping
            self._finish(row, 0.0, False, stopped=True)
            row.samples = going
        if row.samples:
            return True
        self.rows.remove(row)
        self.tree.drop(row.branch)
        return False

    def _join(self, row: _Row) -> bool:
        """At the start of a turn: join the row that has, or had, the same history, and will write the same.

        Greedily that is any such row, even one that is done; samples draw anew, so theirs must not have begun its turn.
        """
        if not self.share:
            return False
        key = self._place(row)
        other, tokens, invalid = self.turns.setdefault(key, (row, row.tokens, row.invalid))
        while other.joined:
            other, more_tokens, more_invalid = other.joined
            tokens, invalid = tokens - more_tokens, invalid - more_invalid
        begun = other.turn or len(other.messages) > len(row.messages)
        stopped = not other.samples
        if other is row or stopped or (begun and self.temperature > 0):
            self.turns[key] = (row, row.tokens, row.invalid)
            return False
        row.joined = other, row.tokens - tokens, row.invalid - invalid
        for sample in row.samples:
            sample.tokens += row.joined[1]
            sample.invalid += row.joined[2]
        if other.ended:
            reward, success, extra = other.ended
            self._finish(replace(other, samples=row.samples), reward, success, **extra)
        else:
            other.samples = other.samples + row.samples
        return True

    def _place(self, row: _Row) -> tuple:
        """What a row's history is told by: equal messages make equal worlds, equal tokens equal policies."""
        task = row.samples[0].episode.task
        return task.env, task.id, tuple(message["content"] for message in row.messages), tuple(row.history)

    def _remove(self, row: _Row, reward: float, success: bool, **extra):
        row.ended = reward, success, extra
        self.rows.remove(row)
        self.tree.drop(row.branch)
        self._finish(row, reward, success, **extra)

    def _finish(self, row: _Row, reward: float, success: bool, **extra):
        for sample in row.samples:
            episode, tokens = sample.episode, row.tokens + sample.tokens
            self.actions_taken += sum(m["role"] == "assistant" for m in row.messages[len(episode.messages) :])
            self.tokens_written += tokens
            self.overflowed += bool(extra.get("overflow"))
            self.finished[sample.order] = played(
                episode, list(row.messages), self.agent, reward, success,
                invalid=row.invalid + sample.invalid, tokens=tokens, **extra,
            )  # fmt: skip
