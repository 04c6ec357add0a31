"""Messages -> tokens, with the span of every agent turn known by construction.

The conversation is never turned into one text and split again. Each turn is three pieces, a header,
the content and a footer; headers and footers are read off the tokenizer's chat template once, every
piece is tokenized alone, and the token lists are joined. So the agent mask needs no search for
markers, and the ids of a history are always a prefix of the ids of its continuation, which is what
lets rollouts keep their key-value cache across turns.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipr_lite.records import Pair
from ipr_lite.trajectory import Message


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

    Raises ValueError where the template treats a turn differently depending on what follows (some
    drop old thoughts) or has no system role: a mask built on it would be silently wrong.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        probe = [
            {"role": "system", "content": "SYS1"},
            {"role": "user", "content": "USR1"},
            {"role": "assistant", "content": "AGT1"},
            {"role": "user", "content": "USR2"},
            {"role": "assistant", "content": "AGT2"},
        ]
        text = self._render(probe)
        pieces = []
        for message in probe:
            before, found, text = text.partition(message["content"])
            if not found:
                raise ValueError(
                    f"the chat template of {tokenizer.name_or_path!r} loses or reorders a "
                    f"{message['role']} message; IPR Lite needs a template that keeps every turn"
                )
            pieces.append(before)
        head, to_user, to_agent, agent_to_user, to_agent_again = pieces
        prompt = self._render(probe[:2], add_generation_prompt=True)
        if to_agent != to_agent_again or prompt != f"{head}SYS1{to_user}USR1{to_agent}":
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} changes earlier turns or its "
                "generation prompt; agent spans would be wrong, so choose another model"
            )
        end = tokenizer.eos_token
        if not text.startswith(end) or not agent_to_user.startswith(end):
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} does not end an assistant turn "
                f"with the end-of-sequence token {end!r}"
            )
        self.end = tokenizer.eos_token_id
        self._head = self._markup(head)
        self._to_user = self._markup(to_user)
        self._to_agent = self._markup(to_agent)
        # The end token is the agent's; what the template puts between it and the user is not.
        self._agent_to_user = self._markup(agent_to_user[len(end) :])

    def _render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _markup(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def content(self, text: str) -> list[int]:
        """Token ids of a message's content; markup written in it stays plain text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def prompt(self, messages: list[Message]) -> list[int]:
        """Ids of a history that ends with an observation, up to where the agent begins to write."""
        return self.encode(messages).input_ids + self._to_agent

    def observation(self, text: str) -> list[int]:
        """Ids to append after an agent's end token: the observation and the next agent header."""
        return self._agent_to_user + self.content(text) + self._to_agent

    def text(self, ids: list[int]) -> str:
        """The agent's message from its token ids, without the end token."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def encode(self, messages: list[Message]) -> Encoded:
        """Encode a conversation: system, user, assistant, user, ...

        Raises ValueError where the roles do not follow that order.
        """
        expected = ["system", "user"] + ["assistant", "user"] * len(messages)
        ids: list[int] = []
        mask: list[int] = []
        for position, message in enumerate(messages):
            if message["role"] != expected[position]:
                raise ValueError(
                    f"message {position} has role {message['role']!r} where {expected[position]!r} "
                    "belongs: a conversation is system, user, assistant, user, assistant, ..."
                )
            content = self.content(message["content"])
            if position == 0:
                new, agent = self._head + content, False
            elif message["role"] == "user":
                header = self._to_user if position == 1 else self._agent_to_user
                new, agent = header + content, False
            else:
                ids += self._to_agent
                mask += [0] * len(self._to_agent)
                new, agent = content + [self.end], True
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
