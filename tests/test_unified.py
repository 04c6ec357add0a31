"""The gradient coefficients of all methods, against what their formulas say on a shipped demonstration; GiGPO's audit."""

from dataclasses import replace

import pytest
import torch

from ipr_lite import DATA
from ipr_lite.chat import Chat
from ipr_lite.config import TINY_BASE, Config
from ipr_lite.envs import make
from ipr_lite.model import load_tokenizer
from ipr_lite.records import Trajectory, read_pairs, read_trajectories
from ipr_lite.study import anchors, unified

RUN = DATA / "showcase"
CONFIG = Config.read(RUN / "config.json")


@pytest.fixture(scope="module")
def shown():
    """A demonstration that the agent loses to, its step pairs, and two episodes of its task."""
    chat = Chat(load_tokenizer(str(TINY_BASE)))
    explored = read_trajectories(RUN / "iteration-1" / "explorations.jsonl")
    first = {t.key: t for t in explored if t.extra["start_step"] == 1}
    pairs = [p for p in read_pairs(RUN / "iteration-1" / "pairs.jsonl") if p.kind == "step"]
    for demonstration in read_trajectories(RUN / "demonstrations.jsonl"):
        own = [p for p in pairs if p.id == demonstration.key]
        lost = demonstration.reward > first[demonstration.key].reward + 0.01
        if lost and len(own) > 1 and all(p.chosen == demonstration.suffix(p.step) for p in own):
            episode = first[demonstration.key]
            better = replace(demonstration, agent="agent")
            found = unified.coefficients(chat, CONFIG, demonstration, own, {2}, [episode, better])
            return chat, demonstration, episode, own, found
    pytest.fail("no such demonstration is shipped")


def test_what_each_method_pushes(shown):
    chat, demonstration, episode, pairs, found = shown
    demo, own = (unified.decisions(chat, t) for t in (demonstration, episode))
    assert set(found) == set(unified.METHODS)
    for name in ("sft", "rft", "atlas"):
        assert not found[name][1].any() or episode.success
    torch.testing.assert_close(found["sft"][0], torch.full((len(demo),), 1 / len(demo)))
    kept = demo == 1
    torch.testing.assert_close(found["atlas"][0], kept / kept.sum())
    half = CONFIG.beta / 2  # beta * sigmoid(0)
    torch.testing.assert_close(found["eto"][0], torch.full((len(demo),), half))
    torch.testing.assert_close(found["eto"][1], torch.full((len(own),), -half))
    # IPR: the outcome pair, the SFT term on its winner, and each step pair from its own step on.
    after = torch.tensor([sum(d + 1 >= p.step for p in pairs) for d in demo.tolist()])
    torch.testing.assert_close(found["ipr"][0], half + 1 + half * after / len(pairs))
    assert after[0] == 0 and after[-1] == len(pairs)
    torch.testing.assert_close(found[unified.PAIRS_ALONE][0], found["ipr"][0] - 1)
    # Two episodes: the lower one lies .707 standard deviations below the mean.
    torch.testing.assert_close(found["grpo"][1], torch.full((len(own),), -(0.5**0.5) / len(own)))
    gap = episode.reward - (episode.reward + demonstration.reward) / 2
    torch.testing.assert_close(found["ppo"][1], torch.full((len(own),), gap / len(own)))
    assert not found["grpo"][0].any() and len(found["gigpo"][1].unique()) > 1


def test_equal_outcomes_give_no_outcome_pair(shown):
    chat, demonstration, *_ = shown
    alike = Trajectory(demonstration.task, demonstration.messages, demonstration.reward, demonstration.success, "agent")
    found = unified.coefficients(chat, CONFIG, demonstration, [], {1}, [alike, alike])
    for name in ("eto", "ipr", "grpo", "ppo"):
        assert not any(side.any() for side in found[name]), name
    assert found["sft"][0].any()


# --- GiGPO's groups ---------------------------------------------------------------------------------


def shopping(env, task, *actions):
    """An episode of the shop in which these actions were taken."""
    page, _ = env.reset(options={"task": task})
    messages = env.messages(page, task)
    for action in actions:
        messages.append({"role": "assistant", "content": env.message(action)})
        page, *_ = env.step(messages[-1]["content"])
        messages.append({"role": "user", "content": page})
    return Trajectory(task, messages[:-1], 0.0, False, "agent")


def test_a_page_of_the_shop_does_not_show_what_was_chosen():
    """Two episodes choose different sizes; the page after it is the same, and the state is not."""
    env = make("shop", None)
    products = env.catalogue.products
    task = next(t for t in env.tasks if any(len(v) > 1 for v in products[t.setup["asin"]].options.values()))
    env.reset(options={"task": task})
    product = products[task.setup["asin"]]
    query = " ".join(product.title.split()[:6]).lower()
    name, values = max(product.options.items(), key=lambda option: len(option[1]))
    page, *_ = env.step(env.message(f"search[{query}]"))
    click = f"click[{product.asin.lower()}]"
    assert click[6:-1] in env.clickables()
    sides = [
        shopping(env, task, f"search[{query}]", click, f"click[{v.lower()}]", "click[buy now]") for v in values[:2]
    ]
    facts = anchors.audit(env, sides, 1)
    # The page is the same before a size is chosen and after: the last two decisions of each make one group.
    assert facts["episodes"] == 2 and facts["decisions"] == 8 and facts["company"] == 1.0
    assert facts["mixed"] == 0.5 and facts["judged"] == 0.0  # all returns are 0
    assert anchors.audit(env, [sides[0], sides[0]], 1)["mixed"] == 0.5
    assert anchors.audit(env, sides, 1, parts=["_chosen"])["mixed"] == 0.5
    assert anchors.audit(env, sides, 1, parts=["_page", "_asin"])["mixed"] == 0.0
    # By the last two pages, whether one has chosen is told, what one has chosen is not.
    assert anchors.audit(env, sides, 2)["mixed"] == 0.25
    assert anchors.audit(env, [sides[0], sides[0]], 2)["mixed"] == 0.0


@pytest.mark.parametrize("world", ["shop", "sql", "house"])
def test_states_are_equal_until_somebody_acts(world):
    env = make(world, None)
    observation, _ = env.reset(options={"task": env.tasks[0]})
    before, twin = env.state(), env.clone()
    assert before and twin.state() == before
    env.step(env.message({"shop": "search[shoes]", "sql": "SHOW TABLES", "house": "inventory"}[world]))
    assert before == twin.state()  # it was a copy
    assert (env.state() == before) == (world == "house")  # to look at one's hands changes nothing
    env.reset(options={"task": env.tasks[0]})
    assert env.state() == before
