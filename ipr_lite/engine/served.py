"""Rollouts on a server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, `transformers serve`.

The same episodes as in `rollout.py`, but the messages come over the network: a turn is a request, many are under way at
once, and the worlds are stepped here. The policy is what the server calls `model`. What the server draws is its own: the
distribution is that of `Rollouts`, the tokens are not. Finished episodes go to a journal, so that nothing is asked twice.
"""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import openai

from ipr_lite.chat import Chat
from ipr_lite.jsonl import read_as
from ipr_lite.rollout import Episode, played, stable_seed
from ipr_lite.trajectory import Message, Trajectory

PLAIN_SAMPLING = (
    {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    {"generation_config": json.dumps({"do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0})},
    {},
)
"""How to ask for the plain softmax, where a server would cut its tail or penalize words unasked: vLLM, SGLang and llama.cpp
know the first, `transformers serve` the second. One that refuses the fields of one is asked with the next."""

TOO_LONG = ("context length", "context_length", "context size", "context window", "maximum model length")
"""What servers call a history that does not fit."""

NO_ANSWER = (AttributeError, IndexError, TypeError, ValueError)
"""How the client fails on a page that is no answer at all."""


class ServerError(RuntimeError):
    """The server cannot be reached, lacks the model or refuses a request; the message ends with the remedy."""


class ServedRollouts:
    """Plays episodes with the policy that the server at `url` calls `model`; counts as `Rollouts` does.

    chat: of the same base, to count tokens. temperature, max_new_tokens, max_length, agent: as in `Rollouts`.
    batch_size: episodes in play, and requests under way, at once. adapter: a folder that the server is asked to load under
    the name `model` where it does not serve it yet. journal: a file for finished episodes; what it holds is not played
    again. retries: of one request, with growing pauses, where the server is busy, fails or is away.
    """

    def __init__(
        self,
        url: str,
        model: str,
        chat: Chat,
        *,
        temperature: float,
        max_new_tokens: int,
        max_length: int,
        batch_size: int,
        agent: str,
        adapter: Path | None = None,
        journal: Path | None = None,
        retries: int = 8,
    ):
        self.url, self.model, self.chat, self.agent = url.rstrip("/"), model, chat, agent
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.max_length, self.batch_size = max_length, batch_size
        self.adapter, self.journal = adapter, journal
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(base_url=self.url, api_key=key, max_retries=retries)
        self.sampling = 0
        self.actions_taken = self.tokens_written = 0

    def play(self, episodes: list[Episode], progress: Callable[[int, int], None] | None = None) -> list[Trajectory]:
        """Play every episode to its end; trajectories in the order of `episodes`, with the `extra` of `Rollouts.play`.

        Greedily, one history is asked about once, however many episodes share it. Raises ServerError; the journal then
        holds what is finished.
        """
        known = read_journal(self.journal)
        talks = [_Talk(episode, self._key(episode), list(episode.messages)) for episode in episodes]
        for talk in talks:
            talk.trajectory = known.get(talk.key)
        waiting = [talk for talk in talks if talk.trajectory is None][::-1]
        if waiting:
            self._find_model()
        self.asked: dict[tuple, Future] = {}
        self.playing: dict[Future, list[_Talk]] = {}
        self.pool = ThreadPoolExecutor(self.batch_size)
        try:
            while waiting or self.playing:
                while waiting and sum(map(len, self.playing.values())) < self.batch_size:
                    self._go_on(waiting.pop())
                # Worlds are stepped in this thread alone: SQLite's connections belong to the thread that made them.
                for future in wait(self.playing, return_when=FIRST_COMPLETED).done:
                    for talk in self.playing.pop(future):
                        self._take(talk, future.result())
                if progress:
                    progress(sum(talk.trajectory is not None for talk in talks), len(talks))
        finally:
            self.pool.shutdown(wait=False, cancel_futures=True)
        for talk in talks:
            said = talk.trajectory.messages[len(talk.episode.messages) :]
            self.actions_taken += sum(message["role"] == "assistant" for message in said)
            self.tokens_written += talk.trajectory.extra["tokens"]
        return [talk.trajectory for talk in talks]

    def _key(self, episode: Episode) -> str:
        """What an episode's line in the journal is found by."""
        said = [message["content"] for message in episode.messages]
        settings = self.model, self.temperature, self.max_new_tokens, self.max_length
        return f"{stable_seed(settings, episode.task.env, episode.task.id, said, episode.seed):016x}"

    def _go_on(self, talk: _Talk):
        """Ask for the next message of an episode, or end it where its history is too long."""
        if len(self.chat.prompt(talk.messages)) + self.max_new_tokens > self.max_length:
            return self._end(talk, overflow=True)
        history = tuple(message["content"] for message in talk.messages)
        future = self.asked.get(history)
        if future is None:
            seed = stable_seed(talk.episode.seed, talk.episode.task.id, len(history)) % 2**31
            future = self.pool.submit(self._ask, list(talk.messages), seed)
            if self.temperature == 0:
                self.asked[history] = future
        self.playing.setdefault(future, []).append(talk)

    def _take(self, talk: _Talk, answer: tuple[str, int] | None):
        """Hand a message to the world, and go on or end; None: the history did not fit the server's context."""
        if answer is None:
            return self._end(talk, overflow=True)
        message, tokens = answer
        stop, first = talk.episode.stop, len(talk.messages) == len(talk.episode.messages)
        talk.messages.append({"role": "assistant", "content": message})
        talk.tokens += tokens
        if stop and first and stop(message):
            return self._end(talk, stopped=True)
        try:
            observation, reward, terminated, truncated, info = talk.episode.env.step(message)
        except Exception:
            return self._end(talk, error=traceback.format_exc())
        talk.invalid += bool(info["invalid"])
        if terminated or truncated:
            return self._end(talk, reward, info["success"], terminated=terminated)
        talk.messages.append({"role": "user", "content": observation})
        self._go_on(talk)

    def _end(self, talk: _Talk, reward: float = 0.0, success: bool = False, **extra):
        talk.trajectory = played(
            talk.episode, talk.messages, self.agent, reward, success, invalid=talk.invalid, tokens=talk.tokens, **extra
        )
        if self.journal:
            _append(self.journal, talk.key, talk.trajectory)

    def _ask(self, messages: list[Message], seed: int) -> tuple[str, int] | None:
        """The next message and its number of tokens; None where the server says that the history does not fit."""
        drawn = {"seed": seed} if self.temperature > 0 else {}
        for number, sampling in enumerate(PLAIN_SAMPLING):
            if number < self.sampling:
                continue
            try:
                answer = self.client.chat.completions.create(
                    model=self.model, messages=messages, temperature=self.temperature, top_p=1.0,
                    max_tokens=self.max_new_tokens, extra_body=sampling, **drawn,
                )  # fmt: skip
                said = answer.choices[0].message.content
                break
            except NO_ANSWER:
                raise self._stranger() from None
            except openai.APIError as error:
                told = _told(error)
                refused = getattr(error, "status_code", None) in (400, 422)
                if refused and any(words in told.lower() for words in TOO_LONG):
                    return None
                if not (refused and any(field in told for field in sampling)):
                    raise self._error(error) from None
                self.sampling = max(self.sampling, number + 1)
                if not PLAIN_SAMPLING[self.sampling]:
                    warnings.warn(
                        f"{self.url} takes no top_k: if it cuts the tail by itself, rollouts are another policy's"
                    )
        # Half a surrogate pair, which JSON can spell, is in no UTF-8 file.
        text = (said or "").encode("utf-8", "replace").decode("utf-8")
        tokens = answer.usage.completion_tokens if answer.usage else len(self.chat.content(text)) + 1
        return text, tokens

    def _find_model(self):
        """See that the server has the model, or have it load it. Raises ServerError."""
        once = self.client.with_options(max_retries=1)
        try:
            names = [model.id for model in once.models.list()]
        except openai.InternalServerError:
            names = []  # transformers serve fails to list where nothing was ever fetched from the hub
        except openai.APIError as error:
            raise self._error(error) from None
        except NO_ANSWER:
            raise self._stranger() from None
        if self.model in names:
            return
        try:
            if self.adapter:  # vLLM
                path = str(Path(self.adapter).resolve())
                once.post("/load_lora_adapter", cast_to=str, body={"lora_name": self.model, "lora_path": path})
            else:  # transformers serve, which streams how the loading goes
                root = self.url.removesuffix("/v1")
                told = once.post(root + "/load_model", cast_to=str, body={"model": self.model})
                if '"status": "error"' in told:
                    raise ServerError(self._lacks(names, told.rpartition("data:")[2]))
        except openai.APIError as error:
            raise ServerError(self._lacks(names, _told(error))) from None

    def _lacks(self, names: list[str], told: str) -> str:
        listed = ", ".join(_line(name, 60) for name in names[:8]) or "nothing"
        if self.adapter:
            remedy = (
                "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or, for another server, "
                "write a checkpoint with `python -m ipr_lite merge` and say with --served what it is served as"
            )
        else:
            remedy = "correct --served or --model, or start a server that has it"
        return f"the server at {self.url} has no model {self.model!r}, it lists {listed} ({_line(told)}); {remedy}"

    def _stranger(self) -> ServerError:
        return ServerError(
            f"what answers at {self.url} does not speak OpenAI's API; give the --url of a server, up to its /v1"
        )

    def _error(self, error: openai.APIError) -> ServerError:
        """What went wrong, in one line that ends with the remedy."""
        status = getattr(error, "status_code", None)
        if status is None:
            return ServerError(
                f"no answer from {self.url} ({_line(_told(error))}); start the server there, or correct --url"
            )
        if status in (401, 403):
            remedy = "set OPENAI_API_KEY to the server's key"
        elif status == 429 or status >= 500:
            remedy = "see its log, start it anew, and give the same command again: finished episodes are kept"
        elif status == 404:
            remedy = "give the --url up to its /v1, of a server that takes chat completions"
        else:
            remedy = "its log says more"
        return ServerError(
            f"the server at {self.url}, model {self.model!r}: HTTP {status}: {_line(_told(error))}; {remedy}"
        )


@dataclass
class _Talk:
    """An episode in play, with its key in the journal."""

    episode: Episode
    key: str
    messages: list[Message]
    invalid: int = 0
    tokens: int = 0
    trajectory: Trajectory | None = None


def read_journal(path: Path | None) -> dict[str, Trajectory]:
    """Finished episodes by their keys; a last line that was not written whole is cut off. Raises DataError."""
    if path is None or not path.exists():
        return {}
    written = path.read_bytes()
    lines = written[: written.rfind(b"\n") + 1]
    if lines != written:
        path.write_bytes(lines)
    return dict(read_as(path, lambda record: (record.pop("key", ""), Trajectory.from_record(record))))


def _append(path: Path, key: str, trajectory: Trajectory):
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"key": key, **trajectory.to_record()}, allow_nan=False) + "\n"
    with open(path, "a", encoding="utf-8", newline="\n") as handle:
        handle.write(line)


def _told(error: openai.APIError) -> str:
    """A server's own words, which the client's text may leave out; of a broken connection, the cause."""
    return error.response.text if isinstance(error, openai.APIStatusError) else str(error.__cause__ or error)


def _line(text: str, most: int = 300) -> str:
    """A server's words on one line, without what a terminal would obey."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())[:most]
