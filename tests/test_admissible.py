"""An agent that chooses among admissible actions."""

import pytest
import torch
from transformers import DynamicCache

from ipr_lite import envs
from ipr_lite.chat import Chat, without_thoughts
from ipr_lite.config import TINY_BASE, Config
from ipr_lite.engine.admissible import Rollouts
from ipr_lite.model import load_base, load_tokenizer
from ipr_lite.rollout import Episode
from ipr_lite.train import log_probabilities


@pytest.fixture(scope="module")
def model():
    return load_base(str(TINY_BASE), "full")


@pytest.fixture(scope="module")
def chat():
    return Chat(load_tokenizer(str(TINY_BASE)))


def player(model, chat, **changed):
    return Rollouts(
        model, chat, **{"temperature": 0, "max_new_tokens": 40, "max_length": 4096, "agent": "any"} | changed
    )


def episode(number=0, seed=0):
    env = envs.make("house")
    task = list(envs.tasks("house", "test"))[number]
    observation, _ = env.reset(options={"task": task})
    return Episode(env, task, without_thoughts(env.messages(observation, task)), seed)


@torch.inference_mode()
def test_actions_have_the_log_probabilities_of_training(model, chat):
    """Behind a history in the cache and some of it unread, as `train.log_probabilities` has it for the whole row."""
    one = episode()
    history, actions = chat.prompt(one.messages), one.env.admissible()
    cache = DynamicCache()
    model(input_ids=torch.tensor([history[:50]]), past_key_values=cache, use_cache=True)
    ids = [chat.content(f"Action: {action}") + [chat.end] for action in actions]
    found = player(model, chat).log_probabilities(history[50:], cache, ids)
    assert cache.get_seq_length() == len(history)
    rows = [chat.encode([*one.messages, {"role": "assistant", "content": f"Action: {action}"}]) for action in actions]
    for row in rows:  # the history's own agent turns are none, so that the mask is the action alone
        assert sum(row.agent_mask) == len(row.input_ids) - len(history)
    torch.testing.assert_close(found, log_probabilities(model, rows), atol=1e-3, rtol=1e-4)


def test_every_action_is_admissible_and_the_likeliest(model, chat):
    one = episode()
    told = one.env.clone()
    (played,) = player(model, chat).play([one])
    assert played.extra["invalid"] == 0 and played.steps > 1
    messages = list(one.messages)
    for text in played.actions[:3]:
        actions = told.admissible()
        assert text.removeprefix("Action: ") in actions
        rows = [chat.encode([*messages, {"role": "assistant", "content": f"Action: {action}"}]) for action in actions]
        marked = [type(r)(r.input_ids, [0] * (n := len(chat.prompt(messages))) + r.agent_mask[n:]) for r in rows]
        with torch.inference_mode():
            best = actions[int(log_probabilities(model, marked).argmax())]
        assert text == f"Action: {best}"
        observation, *_ = told.step(text)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": observation}]


def test_drawn_actions_follow_the_seed(model, chat):
    one, same, other = (player(model, chat, temperature=1.0).play([episode(seed=s)])[0].actions for s in (1, 1, 2))
    assert one == same != other


def test_only_the_household_lists_its_actions():
    for wrong in (
        {"env": "shop", "thoughts": False},
        {"env": "house"},
        {"env": "house", "thoughts": False, "backend": "openai"},
    ):
        with pytest.raises(ValueError, match="--env house --no-thoughts"):
            Config(decode="admissible", **wrong)
    assert Config(env="house", thoughts=False, decode="admissible").setting == "thoughts=False decode=admissible"
