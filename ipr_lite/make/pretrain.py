"""How the tiny base model was made: tokenizer, a start that copies, transcripts.

The base must know the language of the worlds and their mechanics, but it must not be a good agent. Its corpus
holds transcripts of people good and bad who hardly ever finish (`envs/people.py`), in worlds that share no product, no
database, no room and no task with those we train and test on. Databases are made of the same words in
other tables: a name that it must spell letter by letter is beyond a model of one million parameters.
Two things made it learn to copy within minutes on a CPU: a start with an induction head written by
hand (`induction.py`), and Muon for the weight matrices (AdamW for the rest).
"""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ipr_lite import envs
from ipr_lite.chat import Chat, Encoded
from ipr_lite.engine.folder import sha256_of
from ipr_lite.envs.sql import generated as sql_world
from ipr_lite.make.induction import start_with_induction
from ipr_lite.records import Message

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# Words that shops use. The tokenizer sees them beside the transcripts, so that it spells the titles
# of real products in few tokens too; the model never does.
SHOP_WORDS = """
women womens men mens kids girls boys baby toddler unisex adult for with and the of in to by
from set pack piece pieces pcs count ounce oz inch inches feet fluid pound size small medium
large xlarge plus black white blue red green pink grey gray purple brown gold silver color multi
natural organic free gluten vegan non gmo kosher sugar low fat protein snack snacks chips
cookies candy chocolate tea coffee bag bags box bottle bottles mix sauce sweet fresh dried fruit
nut butter cheese chicken beef rice seed oil hair skin face body care cream lotion shampoo
conditioner serum mask brush makeup beauty nail lip eye eyes lash natural moisturizing moisture
treatment cleaning cleanser toothbrush toothpaste teeth oral dental whitening deodorant perfume
fragrance spray essential home office living room bedroom bathroom kitchen dining furniture
table chair chairs desk sofa couch bed frame mattress headboard storage cabinet shelf shelves
stand lamp light lights lighting led wall art decor decoration curtain curtains window rug
pillow cover covers blanket modern vintage rustic wood wooden solid metal steel stainless
leather faux fabric upholstered accent ottoman dresser mirror glass glasses bluetooth wireless
speaker speakers headphones earbuds headset case cases protector screen phone iphone samsung
galaxy apple watch band bands strap replacement charger charging cable usb type adapter hdmi
audio video tv camera lens tripod digital portable power battery batteries remote control
compatible universal computer laptop tablet gaming keyboard mouse monitor memory card high speed
quality premium professional heavy duty waterproof lightweight adjustable durable easy install
assemble clean soft comfortable breathable long short sleeve sleeves shirt shirts tee top tops
blouse dress dresses skirt pants jeans shorts leggings sweater hoodie jacket coat suit swimsuit
bra underwear socks shoes shoe sneakers sneaker boots sandals slippers heels slip on walking
running athletic sport sports outdoor casual fashion summer winter classic fit slim loose cotton
polyester stretch print printed design style party wedding gift gifts holiday christmas birthday
decorations costume original flavor flavored variety value bulk single travel
"""

# What is one token wherever it stands. A name that follows one of these begins with the same token as
# in the list it is copied from; what DESC says of nearly every column need not be spelled.
PHRASES = [" [SEP] ", "click[", "search[", "Thought: ", "\nAction: ", "Observation: ", "\n```sql\n", "\n```", "', '"]
PHRASES += [f"', '{key}', None, '{extra}'), ('" for key, extra in (("YES', '", ""), ("YES', 'MUL", ""))]
PHRASES += ["', 'YES', '', None, '')]", "', 'YES', 'MUL', None, '')]", "', 'NO', 'PRI', None, 'auto_increment'), ('"]
PHRASES += ["SHOW TABLES", "DESC ", "SELECT ", "DISTINCT ", " FROM ", " JOIN ", " ON ", " WHERE ", " GROUP BY "]
PHRASES += [" ORDER BY ", " HAVING ", " LIMIT 1", " DESC", " ASC", " AS T1", " AS T2", " AS T3", "T1.", "T2.", "T3."]
PHRASES += ["COUNT(*)", "AVG(", "MAX(", "MIN(", "SUM(", " NOT IN (", " = ", " > ", " < ", " OR "]


@dataclass(frozen=True)
class PretrainSettings:
    vocab_size: int = 2560
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 4
    heads: int = 2
    key_value_heads: int = 2
    context: int = 4096
    head_dim: int = 64
    rope_theta: float = 1e6
    tokens: int = 24_000_000
    """Transcript tokens to train on."""
    batch_tokens: int = 4096
    matrix_learning_rate: float = 0.015
    """Muon's, for the weight matrices."""
    other_learning_rate: float = 2e-3
    """AdamW's, for embeddings and norms."""
    observation_weight: float = 0.3
    """Weight of an observation token's loss; an agent token's is 1."""
    seed: int = 0
    worlds: str = "shop sql house"


def corpus(settings: PretrainSettings) -> list[list[Message]]:
    """The conversations to train on, worlds mixed: enough for `settings.tokens`, each read once."""
    found = []
    chosen = [envs.world(name) for name in settings.worlds.split()]
    if strangers := [world.name for world in chosen if not world.corpus]:
        raise ValueError(f"no transcripts of {', '.join(strangers)}: its World has no `corpus`")
    whole = sum(world.corpus[0] for world in chosen)
    for world in chosen:
        share, length = world.corpus
        count = round(settings.tokens * share / whole / length)
        found += [trajectory.messages for trajectory in world.people.transcripts(count, settings.seed)]
    random.Random(settings.seed).shuffle(found)
    return found


def tokenizer_texts(conversations: list[list[Message]]) -> Iterator[str]:
    """What the tokenizer is trained on: a part of the corpus, and lists of words of shops and databases."""
    for conversation in conversations[:1500]:
        yield from (message["content"] for message in conversation)
    words, names = SHOP_WORDS.split(), sql_world.words()
    for _ in range(35):
        yield " ".join(words)
        yield " ".join(word.title() for word in words)
        yield " ".join(word.title() for word in reversed(words))
    for _ in range(200):
        yield " ".join(f"{number % 100:02d}" for number in range(2000))
        yield " ".join(names) + "".join(f"('{name}'" for name in names)


def train_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; it spells any text.

    Digits come in pairs, so that an id is a letter and two tokens: single digits recur too often on
    a page for a model of this size to tell which one to copy next. The shop's separator, blanks
    included, is one token: a name then begins with the same token on a page and in `click[...]`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,2}|[ _]?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(PHRASES),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=special[2:],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


class Muon(torch.optim.Muon):
    """torch's Muon with its orthogonalisation in float32.

    torch computes it in bfloat16, which a CPU without such units does thirty times slower: on one
    core it took 0.63 s of a 2.2 s step.
    """

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter.grad))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])
                update = orthogonalised(update, group["ns_coefficients"], group["ns_steps"])
                ratio = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * ratio)


def orthogonalised(matrix: torch.Tensor, coefficients: tuple, steps: int) -> torch.Tensor:
    """The nearest matrix with singular values near 1, by Newton and Schulz's quintic iteration."""
    a, b, c = coefficients
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


CARD = """# Model card: the tiny base

A Llama with {parameters:,} parameters ({layers} layers, width {hidden_size}, {heads} heads) and a
byte-level tokenizer of {vocab_size} tokens that spells any text; context {context}. Pretrained from
scratch on {transcripts:,} generated transcripts ({tokens:,} tokens, about {seconds} s with
{threads} CPU threads of a shared machine) of people good and bad (worlds: {worlds}), from a start with an
induction head written by hand (`ipr_lite/make/induction.py`). Made by `python -m ipr_lite pretrain`; `log.csv` is
its log, `pretrain.json` its settings and checksum.

It knows the language and the mechanics of those worlds: it searches, opens, asks, carries, and copies names from its
context. What it was hardly ever shown is an end: where they could buy, submit, or put a thing where it belongs, the people
of its corpus looked again in three of four cases and more, or left. So on its own it earns little or nothing (the row `base` of
every table), and finishing is quickly learned. It knows nothing else: no English, no facts. Its corpus shares no product,
brand, database, table or room with the worlds that agents are trained and tested in. Databases are made of
the same words in other tables, so that a sixth of the test questions stand in the corpus word for word, asked
of another database. Licence: Apache-2.0.
"""


def padded(rows: list[tuple[list[int], list[float]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids and weights as two (rows, longest) tensors."""
    width = max(len(ids) for ids, _ in rows)
    return (
        torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
        torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in rows]),
    )


def batches(examples: list[Encoded], batch_tokens: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Endless batches of similar length, about `batch_tokens` tokens each, in random order."""
    order = sorted(examples, key=lambda example: len(example.input_ids))
    groups, group = [], []
    for example in order:
        if group and (len(group) + 1) * len(example.input_ids) > batch_tokens:
            groups.append(group)
            group = []
        group.append(example)
    groups.append(group)
    while True:
        rng.shuffle(groups)
        yield from groups


def architecture(tokenizer: PreTrainedTokenizerFast, settings: PretrainSettings) -> LlamaConfig:
    """A small Llama with tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        head_dim=settings.head_dim,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def _loss(model, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean negative log-likelihood of tokens 1.. given those before them."""
    logits = model(input_ids=ids).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (nll * weights).sum() / weights.sum()


def pretrain(
    conversations: list[list[Message]],
    tokenizer: PreTrainedTokenizerFast,
    settings: PretrainSettings,
    out: Path,
    progress: Callable[[int, int, float], None] | None = None,
) -> LlamaForCausalLM:
    """Train the tiny base and write it to `out`: model, tokenizer, log.csv, settings, checksum.

    `progress(done, total, loss)` counts tokens of transcripts.
    """
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    chat = Chat(tokenizer)
    model = LlamaForCausalLM(architecture(tokenizer, settings))
    start_with_induction(model, settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=settings.other_learning_rate, weight_decay=0.0),
    ]
    rates = [settings.matrix_learning_rate, settings.other_learning_rate]
    rows: list[dict] = []
    started = time.time()

    seen = 0
    examples = [chat.encode(messages) for messages in conversations]
    examples = [e for e in examples if len(e.input_ids) <= settings.context]
    for step, batch in enumerate(batches(examples, settings.batch_tokens, rng), start=1):
        talks = [
            (e.input_ids, [1.0 if agent else settings.observation_weight for agent in e.agent_mask]) for e in batch
        ]
        factor = min(1.0, step / 20) * max(0.02, 1 - seen / settings.tokens)
        ids, weights = padded(talks, tokenizer.pad_token_id)
        loss = _loss(model, ids.to(device), weights.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += sum(len(e.input_ids) for e in batch)
        if step % 10 == 0 or seen >= settings.tokens:
            rows.append({"step": step, "tokens": seen, "loss": f"{loss.item():.4f}"})
            if progress:
                progress(seen, settings.tokens, loss.item())
        if seen >= settings.tokens:
            break

    out.mkdir(parents=True, exist_ok=True)
    model.to("cpu").eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    with open(out / "log.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["step", "tokens", "loss"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    facts = {
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "transcripts": len(examples),
        "seconds": round(time.time() - started),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "sha256": {"model.safetensors": sha256_of(out / "model.safetensors")},
    }
    (out / "pretrain.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(CARD.format(**facts, **asdict(settings)), encoding="utf-8")
    return model
