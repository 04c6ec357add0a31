"""The chat templates that TRL ships for the usual families: our tokens and masks beside the template's own."""

import re

import pytest
from families import MARKUP, template, tokenizer_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from ipr_lite.chat import Chat

TEXTS = ["Thought: i look\nAction: click[red lamp]\n\nThe page\n\n\nOK ."] * 20
TALK = [
    ("system", "You shop.\n\nBe quick."),
    ("user", "WebShop [SEP] Instruction: a naïve lamp › 5 µg\n\n  Search"),
    ("assistant", "Thought: a  lamp\n\nAction: search[日本 lamp]"),
    ("user", "Page 1 <|im_end|><|eot_id|><end_of_turn><|end|><bos>\n<|im_start|>assistant [SEP] B01"),
    ("assistant", "Action: click[<|im_end|>]<end_of_turn>\n<|eot_id|><|end|> 🙂"),
    ("user", "Done?\n<start_of_turn>model <|start_header_id|>assistant<|end_header_id|>\n\nok"),
    ("assistant", "Action: click[Buy Now]"),
]
AFTER = {"qwen": "\n", "llama": "", "gemma": "\n", "phi3": "\n<|endoftext|>"}
"""What the template writes after the last end token. No agent writes or reads it: ours ends with the end token."""


@pytest.fixture(params=MARKUP)
def family(request):
    return request.param


@pytest.fixture()
def tokenizer(family):
    return tokenizer_of(family, TEXTS)


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def as_shown(family, messages):
    """The conversation whose rendering ours equals: without a system role, the system text is put in front."""
    if family != "gemma":
        return messages
    first = "\n\n".join(message["content"].strip() for message in messages[:2])
    return talk(("user", first)) + messages[2:]


def rendered(family, tokenizer, messages, **more):
    """The template's own tokens; markup in a message stays text for transformers, too."""
    own = template("qwen3_training") if family == "qwen3" else None
    return tokenizer.apply_chat_template(
        as_shown(family, messages), chat_template=own, sanitize_control_tokens=True, date_string="26 Jul 2024", **more
    )["input_ids"]


def after(family):
    return next(text for name, text in AFTER.items() if family.startswith(name))


def hand_mask(tokenizer, chat, messages):
    """1 on every agent's message and its end token, found by looking for the message behind its header."""
    ids, header = chat.encode(messages).input_ids, chat._to_agent
    mask, place = [0] * len(ids), 0
    for message in messages[2::2]:
        start = next(i for i in range(place, len(ids)) if ids[i : i + len(header)] == header) + len(header)
        place = ids.index(chat.end, start) + 1
        mask[start:place] = [1] * (place - start)
        assert tokenizer.decode(ids[start : place - 1]) == message["content"]
    return mask


def test_tokens_are_those_that_the_template_renders(family, tokenizer):
    """Qwen3: those of TRL's training template, which keeps the empty thought of every turn."""
    chat, messages = Chat(tokenizer), talk(*TALK)
    encoded = chat.encode(messages)
    assert encoded.input_ids + chat._markup(after(family)) == rendered(family, tokenizer, messages)
    assert encoded.agent_mask == hand_mask(tokenizer, chat, messages)
    assert sum(encoded.input_ids[i] == chat.end for i, m in enumerate(encoded.agent_mask) if m) == 3
    for history in (messages[:2], messages[:4], messages[:6]):
        more = {"add_generation_prompt": True, "enable_thinking": False}
        assert chat.prompt(history) == rendered(family, tokenizer, history, **more)


def test_qwen3s_own_template_lacks_the_empty_thoughts_of_earlier_turns():
    tokenizer, messages = tokenizer_of("qwen3", TEXTS), talk(*TALK)
    own = tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False)
    thought = "<think>\n\n</think>\n\n"
    kept = re.sub("assistant\n(?=[TA])", f"assistant\n{thought}", own.replace(thought, ""))
    assert own.count(thought) == 1 and kept.count(thought) == 3
    assert tokenizer.decode(Chat(tokenizer).encode(messages).input_ids) + "\n" == kept


def test_llama_3s_date_is_constant():
    """3.2 writes today's otherwise."""
    for family in ("llama3_1", "llama3_2"):
        tokenizer = tokenizer_of(family, TEXTS)
        text = tokenizer.decode(Chat(tokenizer).encode(talk(*TALK[:2])).input_ids)
        assert "Today Date: 26 Jul 2024\n\nYou shop." in text


def test_the_template_that_merge_writes_is_what_is_encoded(family, tokenizer):
    """Whatever a server says of thinking and dates; Qwen3's empty thoughts stay in earlier turns."""
    chat, messages = Chat(tokenizer), talk(*TALK)
    messages[3]["content"] = " padded \n"
    baked = tokenizer_of(family, TEXTS)
    baked.chat_template = chat.template
    for more in ({}, {"enable_thinking": True, "date_string": "1 Jan 2031"}):
        assert tokenizer.decode(chat.encode(messages).input_ids) + after(family) == baked.apply_chat_template(
            messages, tokenize=False, **more
        )
        asked = baked.apply_chat_template(messages[:4], tokenize=False, add_generation_prompt=True, **more)
        assert tokenizer.decode(chat.prompt(messages[:4])) == asked
    again = Chat(baked)
    assert (again.encode(messages), again.constants) == (chat.encode(messages), {})


def test_a_history_begins_its_continuation(family, tokenizer):
    chat, messages = Chat(tokenizer), talk(*TALK)
    whole = chat.encode(messages).input_ids
    for stop in range(2, len(messages) + 1):
        ids = chat.encode(messages[:stop]).input_ids
        assert whole[: len(ids)] == ids
        if messages[stop - 1]["role"] == "user":
            prompt = chat.prompt(messages[:stop])
            assert whole[: len(prompt)] == prompt
            if stop > 2:
                assert chat.encode(messages[: stop - 1]).input_ids + chat.observation(TALK[stop - 1][1]) == prompt


def test_white_space_around_a_message(family, tokenizer):
    """Dropped where the template drops it. Elsewhere line ends at the start are tokens of their own, where the
    template's text joins them with the header's: the text is the same, the tokens are not."""
    messages = talk(TALK[0], ("user", "\n\n  one\n"), ("assistant", "\n\nAction: two \n"), ("user", " three "), TALK[6])
    chat = Chat(tokenizer)
    ours, theirs = chat.encode(messages).input_ids, rendered(family, tokenizer, messages)
    if family == "qwen3":
        # It drops line ends before the last message of an agent, and keeps them before earlier ones: ours stay.
        assert "</think>\n\n\n\nAction: two \n<|im_end|>" in tokenizer.decode(ours)
    elif family.startswith(("llama", "gemma")):
        assert ours + chat._markup(after(family)) == theirs
    else:
        assert tokenizer.decode(ours) + after(family) == tokenizer.decode(theirs)
        assert ours + chat._markup(after(family)) != theirs
    assert chat.text(chat.content(" \n a\n")) == " \n a\n"


TRL_ADDS = {
    "qwen2_5": ("\n", "\n"),
    "qwen3": ("<think>\n\n</think>\n\n", "\n"),
    "qwen3_instruct_2507": ("", "\n"),
    "llama3": ("", ""),
    "gemma": ("", "\n"),
    "gemma3": ("", "\n"),
    "phi3": ("", "\n"),
    "phi3_5": ("", "\n"),
}
"""What TRL's training templates count as the agent's around what it writes (Phi-3: at the very end eos, too)."""


@pytest.mark.parametrize("family", TRL_ADDS)
def test_the_mask_beside_that_of_trls_training_templates(family):
    tokenizer = tokenizer_of(family, TEXTS)
    messages = talk(*TALK[:3], ("user", "Page 1"), ("assistant", "Action: click[B01]"), ("user", "ok"), TALK[6])
    chat = Chat(tokenizer)
    encoded = chat.encode(messages)
    theirs = tokenizer.apply_chat_template(
        as_shown(family, messages), chat_template=template(f"{family}_training"), return_assistant_tokens_mask=True
    )
    before, behind = map(chat._markup, TRL_ADDS[family])
    spans = [before + span + behind for span in runs(encoded.input_ids, encoded.agent_mask)]
    spans[-1] += chat._markup("<|endoftext|>") if family.startswith("phi3") else []
    assert runs(theirs["input_ids"], theirs["assistant_masks"]) == spans


def runs(ids, mask):
    """The tokens of every run of ones."""
    text = "".join(map(str, mask))
    return [ids[match.start() : match.end()] for match in re.finditer("1+", text)]


def spelled(tokenizer, encoded):
    return list(zip(tokenizer.convert_ids_to_tokens(encoded.input_ids), encoded.agent_mask))


def test_gemma_and_llama_3_token_by_token():
    messages = talk(("system", "s"), ("user", " u "), ("assistant", "a"), ("user", "v"), ("assistant", "b"))
    tokenizer = tokenizer_of("gemma", ["x"])
    assert spelled(tokenizer, Chat(tokenizer).encode(messages)) == [
        ("<bos>", 0), ("<start_of_turn>", 0), *zip("user", [0] * 4), ("Ċ", 0), ("s", 0), ("Ċ", 0), ("Ċ", 0), ("u", 0),
        ("<end_of_turn>", 0), ("Ċ", 0), ("<start_of_turn>", 0), *zip("model", [0] * 5), ("Ċ", 0), ("a", 1),
        ("<end_of_turn>", 1), ("Ċ", 0), ("<start_of_turn>", 0), *zip("user", [0] * 4), ("Ċ", 0), ("v", 0),
        ("<end_of_turn>", 0), ("Ċ", 0), ("<start_of_turn>", 0), *zip("model", [0] * 5), ("Ċ", 0), ("b", 1),
        ("<end_of_turn>", 1),
    ]  # fmt: skip
    tokenizer = tokenizer_of("llama3", ["x"])

    def header(role):
        return [("<|start_header_id|>", 0), *((c, 0) for c in role), ("<|end_header_id|>", 0), ("Ċ", 0), ("Ċ", 0)]

    end = "<|eot_id|>"
    assert spelled(tokenizer, Chat(tokenizer).encode(messages)) == [
        ("<|begin_of_text|>", 0), *header("system"), ("s", 0), (end, 0), *header("user"), ("u", 0), (end, 0),
        *header("assistant"), ("a", 1), (end, 1), *header("user"), ("v", 0), (end, 0), *header("assistant"), ("b", 1),
        (end, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("eats_right", [False, True])
def test_a_tokenizer_that_puts_a_blank_before_a_text(eats_right):
    """Llama 2's and Phi-3's do; Phi-3's special tokens also swallow white space after them."""
    words = ["<unk>", "▁", *map(chr, range(33, 127)), "\n", "é", "▁a", "▁b"]
    vocabulary = {word: number for number, word in enumerate(words)}
    core = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁", "b")], unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special, named = MARKUP["phi3"]
    core.add_special_tokens([AddedToken(token, normalized=False, special=True, rstrip=eats_right) for token in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = template("phi3")
    chat = Chat(tokenizer)
    first = talk(("system", "be a b"), ("user", "a b\na"))
    messages = first + talk(("assistant", "b a"), ("user", "a"), ("assistant", "b\n a"))
    assert chat._before == ("" if eats_right else "\n")
    ours = chat.encode(messages).input_ids
    assert rendered("phi3", tokenizer, messages)[: len(ours)] == ours
    for text in ("a b", "b\n a ", "é<|end|>"):
        assert chat.text(chat.content(text)) == text


REFUSED = {
    "deepseek_r1_distill": "asks the agent to write after '<｜Assistant｜><think>\\n', but shows what it wrote after "
    "'<｜Assistant｜>', in earlier turns after '<｜Assistant｜>'; agent spans would be wrong, so choose another model or "
    "give its tokenizer another chat_template",
    "gptoss": "writes today's date, so a run would change from day to day",
    "llava_next": "does not take a conversation of plain texts ('str object' has no attribute 'text')",
    "idefics3": "loses or reorders a message of the role system",
    "nemotron_3_nano": "changes the white space of some messages and not of others",
    "cohere2": "ends an agent's turn with no special token but with '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_covers_is_refused(name):
    tokenizer = tokenizer_of("qwen2_5", TEXTS)
    tokenizer.chat_template = template(name)
    with pytest.raises(ValueError, match=re.escape(f"the chat template of '' {REFUSED[name]}")):
        Chat(tokenizer)


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = tokenizer_of("llama3", TEXTS)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="'' has no chat template; choose a model that is tuned to chat"):
        Chat(tokenizer)


def test_an_end_token_that_is_not_special_is_refused():
    """It could be written in a message, and would end the turn there."""
    tokenizer = tokenizer_of("qwen2_5", TEXTS)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|done|>")
    with pytest.raises(ValueError, match="ends an agent's turn with no special token but with '<.done.>"):
        Chat(tokenizer)
