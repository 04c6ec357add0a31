"""The tiny base: its tokenizer, its optimizer against torch's own, a small pretraining, the shipped files."""

import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from ipr_lite import envs
from ipr_lite.chat import Chat
from ipr_lite.envs.people import Undecided, play
from ipr_lite.envs.shop.people import transcripts
from ipr_lite.envs.sql import generated as sql_world
from ipr_lite.make.pretrain import Muon, PretrainSettings, pretrain, train_tokenizer
from ipr_lite.model import TINY_BASE, load_tokenizer

SMALL = PretrainSettings(
    vocab_size=400, hidden_size=32, intermediate_size=48, layers=2, heads=2, key_value_heads=1, head_dim=16,
    tokens=60_000, batch_tokens=1024,
)  # fmt: skip


@pytest.fixture(scope="module")
def talks():
    return [trajectory.messages for trajectory in transcripts(90, 1)]


@pytest.fixture(scope="module")
def tokenizer(talks):
    return train_tokenizer((m["content"] for talk in talks for m in talk), 400, 4096)


def test_muon_takes_torchs_step_to_the_precision_of_bfloat16():
    torch.manual_seed(0)
    start = [torch.randn(24, 40), torch.randn(40, 24)]
    ours = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    optimizers = [Muon(ours, lr=0.1, weight_decay=0.0), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)]
    for _ in range(3):
        for mine, other in zip(ours, theirs):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start):
        moved = (other - before).norm()
        assert (mine - other).norm() < 0.03 * moved
        assert moved > 0.1


@pytest.mark.parametrize("text", ["B0042 costs $19.99", "größe › 東京 🙂\x00\n\t tab", "click[Buy Now]  two  blanks"])
def test_any_text_can_be_spelled(tokenizer, text):
    chat = Chat(tokenizer)
    assert chat.text(chat.content(text)) == text
    shipped = Chat(load_tokenizer(str(TINY_BASE)))
    assert shipped.text(shipped.content(text)) == text


def test_real_titles_cost_half_a_token_a_character_parity():
    root = os.environ.get("IPR_LITE_REAL_DATA")
    if not root:
        pytest.skip("IPR_LITE_REAL_DATA is not set: no real product titles here")
    files = list(Path(root, "webshop", "three_files").glob("items_shuffle*.json"))
    titles = [product["name"] for product in json.loads(files[0].read_text(encoding="utf-8"))]
    chat = Chat(load_tokenizer(str(TINY_BASE)))
    tokens = sum(len(chat.content(title)) for title in titles)
    assert len(titles) > 100
    assert tokens <= 0.5 * sum(map(len, titles))


def test_a_name_is_the_same_token_in_a_list_and_in_a_query():
    """What the tiny base copies it need not spell; otherwise it asks for tables that are not there."""
    chat = Chat(load_tokenizer(str(TINY_BASE)))
    names = sql_world.words()
    ends = [[chat.content(before + name)[-1] for before in ("('", "SELECT ", " FROM ", "DESC ")] for name in names]
    same = sum(len(set(tokens)) == 1 and chat.text(tokens[:1]) == name for tokens, name in zip(ends, names))
    assert len(names) > 400 and same / len(names) > 0.97


def test_pretraining_learns_repeats_byte_for_byte_and_says_what_it_did(talks, tokenizer, tmp_path):
    seen = []
    pretrain(talks, tokenizer, SMALL, tmp_path / "a", lambda done, total, loss: seen.append((done, total, loss)))
    pretrain(talks, tokenizer, SMALL, tmp_path / "b")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second
    facts = json.loads((tmp_path / "a" / "pretrain.json").read_text(encoding="utf-8"))
    assert facts["sha256"]["model.safetensors"] == hashlib.sha256(first).hexdigest()
    assert facts["settings"]["tokens"] == SMALL.tokens
    assert seen[-1][0] >= SMALL.tokens == seen[-1][1]
    # An untrained model would pay log(400) = 6.0 nats a token.
    assert seen[-1][2] < 5.3
    other = replace(SMALL, seed=1, tokens=4_000)
    pretrain(talks[:8], tokenizer, other, tmp_path / "c")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != first


def test_the_shipped_base_is_the_one_its_card_describes():
    facts = json.loads((TINY_BASE / "pretrain.json").read_text(encoding="utf-8"))
    found = hashlib.sha256((TINY_BASE / "model.safetensors").read_bytes()).hexdigest()
    assert found == facts["sha256"]["model.safetensors"]
    config = json.loads((TINY_BASE / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] >= 4096
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert f"{facts['parameters']:,} parameters" in (TINY_BASE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["shop", "sql", "house"])
def test_people_of_the_corpus_know_how_and_hardly_ever_finish(name):
    """Of the same people with the same random numbers, those who always finish earn at least twice as much."""
    people = envs.people_of(name)
    corpus = list(people.transcripts(120, 1))
    decided = list(replace(people, finishes=1.0).transcripts(120, 1))
    assert 2 * fmean(t.reward for t in corpus) < fmean(t.reward for t in decided)
    left = [t for t in corpus if t.messages[-1]["role"] == "user"]
    assert len(corpus) / 3 < len(left) and not any(t.reward or t.success for t in left)
    assert all(t.messages[-1]["role"] == "assistant" for t in decided)


def test_somebody_undecided_looks_again_in_place_of_the_end():
    """Until then they act as they would; who finishes always is not changed at all."""
    people = envs.people_of("shop")
    for finishes, ends in ((1.0, "Buy Now"), (0.0, "")):
        task, env, _ = next(people.elsewhere(3))
        plain = play(task, env, people.person(task, env, people.careful, random.Random(0)))
        person = Undecided(people.person(task, env, people.careful, random.Random(0)), finishes, random.Random(1))
        found = play(task, env, person)
        before = len(plain.messages) - 1
        assert found.messages[:before] == plain.messages[:before]
        assert ("Buy Now" in found.actions[-1]) == bool(ends) and found.reward == (plain.reward if ends else 0)
