"""Rollouts on a server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, `transformers serve`.

The same episodes as in `rollout.py`, but the messages come over the network: a turn is a request, many are under way at
once, and the worlds are stepped here. The policy is what the server calls `model`. What the server draws is its own: the
distribution is that of `Rollouts`, the tokens are not. Finished episodes go to a journal, so that nothing is asked twice.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

import openai

from ipr_lite.chat import Chat
from ipr_lite.engine.answers import ServerError, api_key, busy, json_object, read_answer, remedy_of, status_of, too_long
from ipr_lite.engine.safe_text import one_line
from ipr_lite.records import Message, Trajectory, read_as
from ipr_lite.rollout import Episode, played, stable_seed

SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""How to ask for the plain softmax, where a server would cut its tail or penalize words unasked."""
AS_CONFIG = {"generation_config": json.dumps({"do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0})}
"""The same for `transformers serve`, which refuses SAMPLING."""
MERGE = "serve a checkpoint that `python -m ipr_lite merge` writes"


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
        self.max_length, self.batch_size, self.retries = max_length, batch_size, retries
        self.adapter, self.journal = adapter, journal
        self.key = api_key()
        self.client = openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0)
        self.extra = SAMPLING | ({"chat_template_kwargs": chat.constants} if chat.constants else {})
        self.stop, self.warned = threading.Event(), set()
        self.actions_taken = self.tokens_written = self.overflowed = 0

    def play(self, episodes: list[Episode], progress: Callable[[int, int], None] | None = None) -> list[Trajectory]:
        """Play every episode to its end; trajectories in the order of `episodes`, with the `extra` of `Rollouts.play`.

        Greedily, one history is asked about once, however many episodes share it. Raises ServerError, and RuntimeError
        where a world fails; the journal then holds what is finished.
        """
        known = read_journal(self.journal)
        talks = [_Talk(episode, self._key(episode), list(episode.messages)) for episode in episodes]
        for talk in talks:
            talk.trajectory = known.get(talk.key)
        waiting = [talk for talk in talks if talk.trajectory is None][::-1]
        self.asked: dict[tuple, Future] = {}
        self.playing: dict[Future, list[_Talk]] = {}
        self.stop.clear()
        if waiting:
            self._find_model()
        try:
            while waiting or self.playing:
                while waiting and sum(map(len, self.playing.values())) < self.batch_size:
                    self._go_on(waiting.pop())
                # Worlds are stepped in this thread alone: SQLite's connections belong to the thread that made them.
                # Windows hears Ctrl-C between two waits only.
                for future in wait(self.playing, 1, FIRST_COMPLETED).done:
                    for talk in self.playing.pop(future):
                        self._take(talk, future.result())
                if progress:
                    progress(sum(talk.trajectory is not None for talk in talks), len(talks))
        finally:
            self.stop.set()
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
        length = len(self.chat.prompt(talk.messages))
        if length + self.max_new_tokens > self.max_length:
            return self._end(talk, overflow=True)
        history = tuple(message["content"] for message in talk.messages)
        future = self.asked.get(history)
        if future is None:
            seed = stable_seed(talk.episode.seed, talk.episode.task.id, len(history)) % 2**31
            future = self._begin(list(talk.messages), length, seed)
            if self.temperature == 0:
                self.asked[history] = future
        self.playing.setdefault(future, []).append(talk)

    def _begin(self, *asked) -> Future:
        """Ask in a thread of its own, for which, unlike a pool's, nobody waits when the program is stopped."""
        future = Future()

        def ask():
            try:
                future.set_result(self._ask(*asked))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        return future

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
        except Exception as error:
            task, step = talk.episode.task, sum(said["role"] == "assistant" for said in talk.messages)
            raise RuntimeError(
                f"the world {task.env} failed in task {task.id!r}, step {step}, at {one_line(message, 300)!r} "
                f"({type(error).__name__}: {error}); mend it, and give the same command again"
            ) from error
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

    def _ask(self, messages: list[Message], length: int, seed: int) -> tuple[str, int] | None:
        """The next message and its number of tokens; None where the history, of `length` tokens, does not fit there."""
        extra, settings = self.extra, {"temperature": self.temperature, "top_p": 1.0, "max_tokens": self.max_new_tokens}
        for attempt in range(self.retries + 1):
            drawn = {"seed": (seed + attempt) % 2**31} if self.temperature > 0 else {}
            body = {"model": self.model, "messages": messages} | settings | drawn | extra
            if self._pause(attempt):
                break
            status, told = self._send("/chat/completions", body, self.retries)
            if too_long(status, told):
                return self._warn(
                    "room", f"has too little room: episodes end there, for reward 0 ({self._words(told)})"
                )
            refused = {field for field in extra if field in told} if status in (400, 422) else None
            if refused:
                self._leave_out(refused)
                return self._ask(messages, length, seed)
            answer = read_answer(told)
            if status != 200 or not answer:
                raise self._error(status, told)
            text, finish, read, written = answer
            # Some servers cut a message where their context ends, or know a shorter limit than that they are told.
            least = self.max_new_tokens - 1 if written else self.max_new_tokens // 2
            written = written or len(self.chat.content(text)) + 1
            if finish == "length" and written < least:
                return self._warn("room", f"cuts messages (after {written} tokens): episodes end there, for reward 0")
            if read not in (0, length):
                self._warn("prompt", f"reads {read} tokens where training reads {length}; {MERGE}")
            if text.strip():
                return text, written
        raise self._error(status, told)

    def _pause(self, attempt: int) -> bool:
        """Wait before another attempt, longer each time; whether play was stopped."""
        return attempt > 0 and self.stop.wait(min(2.0 ** (attempt - 2), 8))

    def _warn(self, what: str, text: str) -> None:
        """Once a player."""
        if what not in self.warned:
            self.warned.add(what)
            warnings.warn(f"the server at {self.url} {text}", stacklevel=3)

    def _leave_out(self, refused: set[str]):
        """Ask without these fields from now on."""
        more = AS_CONFIG if "top_k" in refused & self.extra.keys() else {}
        self.extra = {field: value for field, value in self.extra.items() if field not in refused} | more
        if "generation_config" in refused:
            self._warn("top_k", "takes no top_k: if it cuts the tail by itself, rollouts are another policy's")
        if "chat_template_kwargs" in refused:
            self._warn("template", f"takes no chat_template_kwargs: its prompts may not be those of training; {MERGE}")

    def _send(self, path: str, body: dict | None = None, retries: int = 1) -> tuple[int, str]:
        """HTTP status and text of the answer, asked for again while the server is busy; 0: none came, and why."""
        for attempt in range(retries + 1):
            if self._pause(attempt):
                break
            try:
                told = self.client.post(path, cast_to=str, body=body) if body else self.client.get(path, cast_to=str)
                status = status_of(told)
            except openai.APIStatusError as error:
                status, told = error.status_code, error.response.text
            except openai.APIError as error:
                status, told = 0, str(error.__cause__ or error)
            if too_long(status, told) or not busy(status):
                break
        return status, told

    def _find_model(self):
        """See that the server has the model, or have it load it. Raises ServerError."""
        status, told = self._send("/models")
        listed = json_object(told).get("data")
        # transformers serve fails to list, with 500, where nothing was ever fetched from the hub.
        if status < 500 and not (status == 200 and isinstance(listed, list)):
            raise self._error(status, told)
        names = [str(one.get("id")) for one in listed or [] if isinstance(one, dict)]
        if self.model in names:
            return
        if self.adapter:  # vLLM
            path = str(Path(self.adapter).resolve())
            status, told = self._send("/load_lora_adapter", {"lora_name": self.model, "lora_path": path})
            remedy = (
                "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or, for another server, "
                "write a checkpoint with `python -m ipr_lite merge` and say with --served what it is served as"
            )
        else:  # transformers serve, which streams how the loading goes
            status, told = self._send(self.url.removesuffix("/v1") + "/load_model", {"model": self.model})
            remedy = "correct --served or --model, or start a server that has it"
        if status != 200 or '"status": "error"' in told:
            has = ", ".join(one_line(name, 60) for name in names[:8]) or "nothing"
            raise ServerError(
                f"the server at {self.url} has no model {self.model!r}, it lists {has} "
                f"({self._words(told.rpartition('data:')[2])}); {remedy}"
            )

    def _error(self, status: int, told: str) -> ServerError:
        words, remedy = self._words(told), remedy_of(status, told)
        if status == 0:
            return ServerError(f"no answer from {self.url} ({words}); {remedy}")
        return ServerError(f"the server at {self.url}, model {self.model!r}: HTTP {status}: {words}; {remedy}")

    def _words(self, told: str) -> str:
        """What the server told, on one line, without the key."""
        return one_line(told.replace(self.key, "***") if self.key != "none" else told, 300)


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
    with open(path, "a", encoding="utf-8", newline="\n") as handle:
        handle.write(json.dumps({"key": key, **trajectory.to_record()}, allow_nan=False) + "\n")
