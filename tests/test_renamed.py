"""A world with other words: the same episodes, the old words refused; AgentRefine's wrong turns, in it and outside."""

import random

import pytest

from ipr_lite import envs
from ipr_lite.methods import refine
from ipr_lite.rollout import states_along


@pytest.mark.parametrize("name", ["shop", "house"])
def test_people_do_as_well_in_other_words(name):
    """A translator of the world's own careful person earns what that person earns, on every task."""
    rewards = []
    for world in (name, f"{name}-renamed"):
        people, tasks = envs.people_of(world), envs.tasks(world, "test")[:30]
        played = people.demonstrations(tasks, envs.make(world), people.careful, 0, keep=-1)
        rewards.append([t.reward for t in played])
        assert played[0].task.env == world
    assert rewards[0] == rewards[1] and sum(rewards[0]) > 20


def test_the_old_words_are_refused():
    env, task = envs.make("shop-renamed"), envs.tasks("shop-renamed", "test")[0]
    people = envs.people_of("shop-renamed")
    bought = people.demonstrations([task], env, people.careful, 0)[0]
    before = states_along(env, bought)[-1]
    page = bought.messages[-2]["content"]
    assert "Purchase" in page and "Buy Now" not in page and before.parse(bought.actions[-1]) == "click[Purchase]"
    _, _, terminated, _, info = before.clone().step("Action: click[Buy Now]")
    assert info["invalid"] and not terminated
    _, reward, terminated, _, _ = before.clone().step("Action: click[purchase]")
    assert terminated and reward == bought.reward


def test_names_are_swapped_both_ways():
    env = envs.make("house-renamed")
    assert env.swapped("take a mug, put it; mistaken input") == "grab a mug, place it; mistaken input"
    assert env.swapped(env.swapped("go to desk 1, then grab it")) == "go to desk 1, then grab it"
    assert "walk to" in env.system_prompt and "go to" not in env.system_prompt


def test_a_renamed_world_refuses_tasks_of_the_other():
    with pytest.raises(ValueError, match="is for the world 'shop', not 'shop-renamed'"):
        envs.make("shop-renamed").reset(options={"task": envs.tasks("shop", "test")[0]})


def demonstrations(world):
    people = envs.people_of(world)
    return people.demonstrations(envs.tasks(world, "train")[:12], envs.make(world), people.habitual, 0)


@pytest.mark.parametrize("world, weight", [("house", 0), ("shop", 0), ("shop", 1), ("sql", 0)])
def test_wrong_turns_are_refused_and_corrected(world, weight):
    """Without them the demonstration is what it was; each is refused by the world where it stands, and answered as written."""
    env, told_by = envs.make(world), demonstrations(world)
    actions = [action for t in told_by for action in t.actions]
    added = 0
    for demonstration in told_by:
        states = states_along(env, demonstration)
        told = refine.with_wrong_turns(demonstration, states, actions, weight, seed=0)
        wrong = [i for i, message in enumerate(told.messages) if "weight" in message]
        assert all(told.messages[i]["weight"] == weight for i in wrong)
        assert [
            m for i, m in enumerate(told.messages) if i not in wrong and i - 1 not in wrong
        ] == demonstration.messages
        for i in wrong:
            step = sum(m["role"] == "assistant" and "weight" not in m for m in told.messages[:i])
            here = states[step].clone()
            answer, *_, info = here.step(told.messages[i]["content"])
            assert info["invalid"] and answer == told.messages[i + 1]["content"]
            correction = told.messages[i + 2]["content"]
            assert here.step(correction)[:3] == states[step].clone().step(correction)[:3]
        added += len(wrong)
    steps = sum(t.steps for t in told_by)
    assert 0.15 * steps < added < 0.45 * steps


def test_nothing_is_refused_where_every_action_is_right():
    """A wrong turn is what the world refuses, not what merely differs."""
    first = demonstrations("house")[0]
    before = states_along(envs.make("house"), first)[0]
    assert refine.refused(before, first, 1, [first.actions[0], "Action: look"], random.Random(0)) is None


def test_masked_turns_have_no_labels():
    from ipr_lite.chat import Chat
    from ipr_lite.config import TINY_BASE
    from ipr_lite.model import load_tokenizer

    chat = Chat(load_tokenizer(str(TINY_BASE)))
    messages = [
        {"role": "system", "content": "s"}, {"role": "user", "content": "page"},
        {"role": "assistant", "content": "Action: click[x]", "weight": 0}, {"role": "user", "content": "page"},
        {"role": "assistant", "content": "Action: click[y]"},
    ]  # fmt: skip
    learned = [id for id, mask in zip(*vars(chat.encode(messages)).values(), strict=True) if mask]
    assert learned == [*chat.content("Action: click[y]"), chat.end]
