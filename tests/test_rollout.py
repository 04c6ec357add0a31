"""Batched rollouts: the same tokens as one-at-a-time `generate`, the right distribution."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ipr_lite.chat import Chat
from ipr_lite.envs.base import TextEnv
from ipr_lite.pretrain import train_tokenizer
from ipr_lite.rollout import Episode, Rollouts, stable_seed
from ipr_lite.trajectory import Task


class Echo(TextEnv):
    """Answers with a text that depends on all that was said; ends after `task.setup["steps"]`."""

    name, system_prompt, max_steps = "echo", "Say something.", 9

    def __init__(self):
        super().__init__()
        self.said = []

    def parse(self, message):
        return message or None

    def clone(self):
        copy = Echo()
        copy.task, copy.said = self.task, list(self.said)
        return copy

    def reset(self, *, seed=None, options=None):
        self.task, self.said = options["task"], []
        return f"Task {self.task.instruction} begins.", {"task": self.task}

    def step(self, action):
        if self.task.setup.get("raises") and len(self.said) == 1:
            raise RuntimeError("the world broke")
        self.said.append(action)
        rng = random.Random(repr(self.said))
        words = " ".join(rng.choice(["red", "blue", "[SEP]", "B01"]) for _ in range(rng.randint(1, 12)))
        done = len(self.said) >= self.task.setup["steps"]
        info = {"task": self.task, "action": action, "invalid": not action, "success": done}
        return words, float(len(words)) if done else 0.0, done, False, info


@pytest.fixture(scope="module")
def chat():
    texts = ["Thought: red blue\nAction: click[B01] [SEP] Say something. Task begins."] * 20
    return Chat(train_tokenizer(texts, 320, 4096))


@pytest.fixture(scope="module")
def model(chat):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def episodes(count, samples=1, raises=()):
    made = []
    for number in range(count):
        setup = {"steps": 1 + number % 4, "raises": number in raises}
        task = Task(f"t{number}", "echo", "test", f"number {number} " + "so " * (number % 5), setup)
        env = Echo()
        observation, _ = env.reset(options={"task": task})
        for sample in range(samples):
            seed = stable_seed(0, task.id, 1, sample)
            made.append(Episode(env.clone(), task, env.messages(observation, task), seed))
    return made


def player(model, chat, **changes):
    settings = {
        "temperature": 0.0,
        "max_new_tokens": 12,
        "max_length": 1000,
        "batch_size": 5,
        "agent": "test",
    }
    return Rollouts(model, chat, **(settings | changes))


def one_at_a_time(model, chat, episode, max_new_tokens=12):
    """The plain way: `generate` on the whole history, one episode, one turn after the other."""
    messages = list(episode.messages)
    ids = chat.prompt(messages)
    while True:
        output = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=chat.end,
            pad_token_id=chat.tokenizer.pad_token_id,
        )[0].tolist()
        turn = output[len(ids) :]
        message = chat.text([t for t in turn if t != chat.end])
        messages.append({"role": "assistant", "content": message})
        observation, reward, terminated, truncated, _ = episode.env.step(message)
        if terminated or truncated:
            return messages, reward
        closing = [] if turn[-1] == chat.end else [chat.end]
        ids = output + closing + chat.observation(observation)
        messages.append({"role": "user", "content": observation})


def test_greedy_batches_equal_generate_token_for_token(model, chat):
    batched = player(model, chat).play(episodes(17))
    turns = set()
    for trajectory, episode in zip(batched, episodes(17)):
        messages, reward = one_at_a_time(model, chat, episode)
        assert trajectory.messages == messages
        assert trajectory.reward == reward
        turns |= set(trajectory.actions)
    assert len(turns) > 10, "the model says the same everywhere: the comparison is empty"


def test_the_batch_size_does_not_change_what_is_sampled(model, chat):
    texts = []
    for size in (1, 4, 64):
        played = player(model, chat, temperature=1.0, batch_size=size).play(episodes(6, samples=4))
        texts.append([t.messages for t in played])
    assert texts[0] == texts[1] == texts[2]
    actions = {repr(t[2]) for t in texts[0]}
    assert len(actions) > 12, "samples of one task should differ"


def test_sampling_has_the_models_distribution(model, chat):
    n = 2000
    start = episodes(1)[0]
    many = [Episode(start.env.clone(), start.task, start.messages, seed) for seed in range(n)]
    played = player(model, chat, temperature=1.0, max_new_tokens=1, batch_size=200).play(many)
    with torch.no_grad():
        logits = model(torch.tensor([chat.prompt(start.messages)])).logits[0, -1]
    expected = logits.double().softmax(-1) * n
    counts = torch.zeros_like(expected)
    for trajectory in played:
        action = trajectory.actions[0]
        ids = chat.content(action)
        # A byte that is no character by itself cannot be told from its text: left out below.
        counts[ids[0] if len(ids) == 1 else chat.end] += 1
    clear = [
        i
        for i in range(len(expected))
        if expected[i] > 8 and i != chat.end and chat.content(chat.text([i])) == [i]
    ]
    assert len(clear) > 10
    chi_square = ((counts[clear] - expected[clear]) ** 2 / expected[clear]).sum().item()
    # Mean len(clear), standard deviation sqrt(2 len(clear)): five of them above is an error.
    assert chi_square < len(clear) + 5 * (2 * len(clear)) ** 0.5


def test_a_world_that_raises_fails_alone(model, chat):
    played = player(model, chat).play(episodes(8, raises=(3,)))
    healthy = player(model, chat).play(episodes(8))
    assert "the world broke" in played[3].extra["error"]
    assert played[3].reward == 0.0
    for number in (0, 1, 2, 4, 5, 6, 7):
        assert played[number].messages == healthy[number].messages


def test_what_does_not_fit_is_counted_and_scores_nothing(model, chat):
    played = player(model, chat, max_length=70).play(episodes(8))
    assert any(t.extra.get("overflow") for t in played)
    assert all(t.reward == 0.0 for t in played if t.extra.get("overflow"))
    assert any(not t.extra.get("overflow") for t in played)


def test_no_episode_is_no_work(model, chat):
    assert player(model, chat).play([]) == []
