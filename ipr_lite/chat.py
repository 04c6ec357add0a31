"""Messages -> tokens, with the span of every agent turn known by construction.

The conversation is never turned into one text and split again. Each turn is three pieces, a header,
the content and a footer; headers and footers are read off the tokenizer's chat template once, every
piece is tokenized alone, and the token lists are joined. So the agent mask needs no search for
markers, and the ids of a history are always a prefix of the ids of its continuation, which is what
lets rollouts keep their key-value cache across turns.

Where the templates of the usual families differ, a rule each:

1. The end token is what the template writes after an agent's message, `eos_token` or not.
2. Every agent turn has the header of the generation prompt with thinking off (`enable_thinking=False`). Qwen3 has an
   empty thought there and drops it from earlier turns; here it stays.
3. Without a system role (Gemma 1 and 2), system text, a blank line and the first observation are one message.
4. White space around a message is dropped where the template drops it (Llama 3, Gemma).
5. The date is 26 Jul 2024, Llama 3.1's default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from jinja2 import TemplateError

from ipr_lite.records import Message, Pair

CONSTANTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""What templates are rendered with."""


@dataclass
class Encoded:
    """`input_ids` and `agent_mask`, equally long lists; the mask is 1 on tokens the agent writes.

    The end-of-turn token counts as the agent's: it has to learn to stop.
    """

    input_ids: list[int]
    agent_mask: list[int]


@dataclass
class EncodedPair:
    """A preference pair in tokens. Completion masks are 1 on agent tokens, 0 on observations."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_mask: list[int]
    rejected_mask: list[int]
    kind: str


class Chat:
    """A tokenizer with the wrapping of its chat template taken apart.

    `template` is a chat template without options that writes what is encoded here. `constants` are those CONSTANTS that
    the tokenizer's own template reads.

    Raises ValueError where there is no template, or one that the rules above do not cover: a mask built on it would
    be silently wrong.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ValueError(f"{tokenizer.name_or_path!r} has no chat template; choose a model that is tuned to chat")
        if "strftime_now" in str(tokenizer.chat_template) and "date_string" not in str(tokenizer.chat_template):
            raise self._refused("writes today's date, so a run would change from day to day")
        system = [{"role": "system", "content": "SYS1"}]
        turns = [
            {"role": role, "content": f"{word}{number}"}
            for number in (1, 2, 3)
            for role, word in (("user", "USR"), ("assistant", "AGT"))
        ]
        try:
            self._render(system + turns)
        except TemplateError:
            system = []
        probe = system + turns
        pieces = self._pieces(probe)
        head, to_user = pieces[:2] if system else (pieces[0], "\n\n")
        to_agent, agent_to_user, to_second, second_to_user, to_last, tail = pieces[-6:]
        if (to_second, second_to_user) != (to_agent, agent_to_user):
            raise self._refused("writes a second turn otherwise than the first")
        asked = self._render([*system, turns[0]], add_generation_prompt=True).partition("USR1")[2]
        if asked != to_last or not asked.startswith(to_agent):
            raise self._refused(
                f"asks the agent to write after {asked!r}, but shows what it wrote after {to_last!r}, "
                f"in earlier turns after {to_agent!r}"
            )
        self._strips = self._stripped(probe, pieces)
        if not system:
            self._strips["system"] = self._strips["user"]
        self._to_agent = self._markup(asked)
        footer = self._markup(agent_to_user)
        self.end = footer[0] if footer else None
        if not self._is_special(self.end) or self._markup(tail)[:1] != footer[:1]:
            raise self._refused(f"ends an agent's turn with no special token but with {agent_to_user!r}")
        # The end token is the agent's; what the template puts between it and the user is not.
        self._agent_to_user = footer[1:]
        self._head, self._to_user, self._glue = self._markup(head), self._markup(to_user), None
        if not any(map(self._is_special, self._to_user)):
            # The system text is part of the first observation's message, and tokenized with it.
            self._to_user, self._glue = [], to_user
        self._find_context(asked)
        self.template = _template(head, to_user, asked, agent_to_user, tail, self._strips)
        self.constants = {name: value for name, value in CONSTANTS.items() if name in str(tokenizer.chat_template)}

    def _refused(self, what: str) -> ValueError:
        return ValueError(
            f"the chat template of {self.tokenizer.name_or_path!r} {what}; agent spans would be wrong, so choose "
            "another model or give its tokenizer another chat_template"
        )

    def _render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **CONSTANTS
        )

    def _pieces(self, probe: list[Message]) -> list[str]:
        """What the template writes before each message, and after the last."""
        try:
            text, pieces = self._render(probe), []
        except TemplateError as error:
            raise self._refused(f"does not take a conversation of plain texts ({error})") from error
        for message in probe:
            before, found, text = text.partition(message["content"])
            if not found:
                raise self._refused(f"loses or reorders a message of the role {message['role']}")
            pieces.append(before)
        return [*pieces, text]

    def _stripped(self, probe: list[Message], pieces: list[str]) -> dict[str, bool]:
        """For each role whether the template drops white space around a message."""
        padded = [message | {"content": f"  {message['content']}  "} for message in probe]
        text = self._render(padded)
        strips = {message["role"]: message["content"] not in text for message in padded}
        shown = [m["content"].strip() if strips[m["role"]] else m["content"] for m in padded]
        if "".join(a + b for a, b in zip(pieces, [*shown, ""], strict=True)) != text:
            raise self._refused("changes the white space of some messages and not of others")
        return strips

    def _find_context(self, header: str):
        """Find what a message has to stand behind to be tokenized as behind its header.

        That is nothing, except where a tokenizer puts a blank before the first word of a text (Llama 2).
        """
        for before in ("", "\n"):
            self._before, self._before_ids = before, self._plain(before)
            if self._markup(header) + self.content("word") == self._markup(header + "word"):
                return
        raise self._refused(f"ends its header {header!r} with what the tokenizer joins with the message")

    def _is_special(self, token: int | None) -> bool:
        added = self.tokenizer.added_tokens_decoder
        return token in added and added[token].special

    def _markup(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def content(self, text: str) -> list[int]:
        """Token ids of a message's content; markup written in it stays plain text."""
        return self._plain(self._before + text)[len(self._before_ids) :]

    def _message(self, role: str, text: str) -> str:
        return text.strip() if self._strips.get(role) else text

    def prompt(self, messages: list[Message]) -> list[int]:
        """Ids of a history that ends with an observation, up to where the agent begins to write."""
        return self.encode(messages).input_ids + self._to_agent

    def observation(self, text: str) -> list[int]:
        """Ids to append after an agent's end token: the observation and the next agent header."""
        return self._agent_to_user + self.content(self._message("user", text)) + self._to_agent

    def text(self, ids: list[int]) -> str:
        """The agent's message from its token ids, without the end token."""
        return self.tokenizer.decode(self._before_ids + ids, skip_special_tokens=True).removeprefix(self._before)

    def encode(self, messages: list[Message]) -> Encoded:
        """Encode a conversation: system, user, assistant, user, ... An assistant message of `weight` 0 is read, not learned.

        Raises ValueError where the roles do not follow that order.
        """
        expected = ["system", "user"] + ["assistant", "user"] * len(messages)
        ids: list[int] = []
        mask: list[int] = []
        texts = [self._message(message["role"], message["content"]) for message in messages]
        if self._glue is not None:
            texts[:2] = [self._glue.join(texts[:2]), ""]
        for position, message in enumerate(messages):
            if message["role"] != expected[position]:
                raise ValueError(
                    f"message {position} has role {message['role']!r} where {expected[position]!r} "
                    "belongs: a conversation is system, user, assistant, user, assistant, ..."
                )
            content = self.content(texts[position])
            if position == 0:
                new, agent = self._head + content, False
            elif message["role"] == "user":
                header = self._to_user if position == 1 else self._agent_to_user
                new, agent = header + content, False
            else:
                ids += self._to_agent
                mask += [0] * len(self._to_agent)
                new, agent = content + [self.end], bool(message.get("weight", 1))
            ids += new
            mask += [int(agent)] * len(new)
        return Encoded(ids, mask)

    def encode_pair(self, pair: Pair) -> EncodedPair:
        """Encode a pair: the prompt once, each completion with its own agent mask."""
        prompt = self.prompt(pair.prompt)
        sides = []
        for completion in (pair.chosen, pair.rejected):
            whole = self.encode(pair.prompt + completion)
            if whole.input_ids[: len(prompt)] != prompt:
                raise ValueError(f"pair {pair.id}: the completion does not continue its prompt")
            sides.append((whole.input_ids[len(prompt) :], whole.agent_mask[len(prompt) :]))
        (chosen, chosen_mask), (rejected, rejected_mask) = sides
        return EncodedPair(prompt, chosen, rejected, chosen_mask, rejected_mask, pair.kind)


def _template(head: str, to_user: str, to_agent: str, agent_to_user: str, tail: str, strips: dict[str, bool]) -> str:
    """A Jinja template that writes these pieces around messages, in every turn and on every day the same."""
    said = {role: "message['content']" + " | trim" * strips[role] for role in ("system", "user", "assistant")}
    head, to_user, to_agent, agent_to_user, tail = (
        json.dumps(piece, ensure_ascii=False) for piece in (head, to_user, to_agent, agent_to_user, tail)
    )
    return f"""\
{{%- for message in messages -%}}
  {{%- if loop.first -%}}{{{{- {head} -}}}}{{%- endif -%}}
  {{%- if message['role'] == 'system' -%}}{{{{- {said["system"]} -}}}}
  {{%- elif message['role'] == 'assistant' -%}}{{{{- {to_agent} -}}}}{{{{- {said["assistant"]} -}}}}
  {{%- elif loop.index0 < 2 -%}}{{{{- {to_user} -}}}}{{{{- {said["user"]} -}}}}
  {{%- else -%}}{{{{- {agent_to_user} -}}}}{{{{- {said["user"]} -}}}}
  {{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- {to_agent} -}}}}{{%- else -%}}{{{{- {tail} -}}}}{{%- endif -%}}
"""


def without_thoughts(messages: list[Message]) -> list[Message]:
    """The conversation of an agent that acts without thinking aloud: its thoughts are gone, and the prompt asks for none."""

    def bare(message: Message) -> Message:
        text = message["content"]
        if message["role"] == "system":
            text = text.replace("a Thought and an Action", "an Action").replace("a thought and an action", "an action")
        if message["role"] == "assistant":
            text = text[text.find("\nAction:") + 1 :]
        return message | {"content": text}

    return [bare(message) for message in messages]
