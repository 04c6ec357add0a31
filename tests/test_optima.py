"""Optima: branches and their values worked out by hand; what a round learns from, on a real run's adapters."""

import pytest

from ipr_lite import envs
from ipr_lite.config import Config
from ipr_lite.methods import METHODS, explored, optima
from ipr_lite.records import Pair, Task, Trajectory
from ipr_lite.run import Run

SHOP = envs.make("shop")  # ten actions at most: each costs .04


class Stub:
    env = SHOP


def episode(reward: float, *actions: str) -> Trajectory:
    """An episode of the shop with these actions, whatever the pages say."""
    messages = [{"role": "system", "content": "s"}]
    for action in actions:
        messages += [
            {"role": "user", "content": "page"},
            {"role": "assistant", "content": f"Thought: x\nAction: {action}"},
        ]
    return Trajectory(Task("t", "shop", "train", "buy"), messages, reward, reward == 1.0, "x")


def test_worth_by_hand():
    assert optima.worth(episode(0.5, "a", "b", "c"), 10) == pytest.approx(0.5 - 0.4 * 0.3)


def test_best_and_worst_branch_by_hand():
    """After search[x], two tries open "p" (worth .88 and .28, mean .58), two buy at once (.42 and .42), one goes astray (-.4)."""
    astray = episode(0.0, *["search[x]", *["click[< prev]"] * 9])
    family = [
        episode(1.0, "search[x]", "click[p]", "click[buy now]"),
        episode(0.4, "search[x]", "click[p]", "click[buy now]"),
        episode(0.5, "search[x]", "click[buy now]"),
        episode(0.5, "search[x]", "click[buy now]"),
        astray,
    ]
    pair = optima.best_and_worst(Stub, 2, family)
    assert (pair.chosen, pair.rejected) == (family[0].suffix(2), astray.suffix(2))
    assert (pair.chosen_reward, pair.rejected_reward) == pytest.approx((0.58, -0.4))
    assert (pair.kind, pair.step, pair.chosen_outcome, pair.rejected_outcome) == ("step", 2, 1.0, 0.0)
    # Of the first four alone the values are .58 and .42.
    assert optima.best_and_worst(Stub, 2, family[:4]).rejected == family[2].suffix(2)


def test_what_makes_no_pair():
    same = [episode(1.0, "search[x]", "click[p]"), episode(0.0, "search[x]", "click[p]")]
    assert optima.best_and_worst(Stub, 1, same) is None  # one branch
    close = [episode(0.5, "search[x]"), episode(0.45, "search[y]")]
    assert optima.best_and_worst(Stub, 1, close) is None
    poor = [episode(0.2, "search[x]"), episode(0.0, "search[y]")]
    assert optima.best_and_worst(Stub, 1, poor) is None


def test_the_wider_half():
    pairs = [Pair([], [], [], "step", str(i), 2, 0.5 + gap, 0.5) for i, gap in enumerate((0.1, 0.4, 0.2))]
    assert [p.id for p in optima.wider_half(pairs)] == ["1", "2"]


def test_a_round_learns_from_its_own_episodes(tmp_path, monkeypatch):
    """No demonstration is in a pair; both sides go on from one prompt; the budget is IPR's, or one turn of every task."""
    config = Config(demonstrations=12, sft_epochs=1, iterations=1, samples=2, updates=2, dev=2, test=2)
    run = Run(config, tmp_path / "run", quiet=True)
    learned = []
    learn = Run.learn
    monkeypatch.setattr(
        Run, "learn", lambda self, pairs, *a, **k: learned.append((pairs, k)) or learn(self, pairs, *a, **k)
    )
    assert METHODS["optima"].train(run) == ["optima-1"]
    pairs, settings = learned[-1]
    assert pairs and settings["reference"] == "current" and settings["w_sft"] == config.w_sft
    for pair in pairs:
        assert run.env.parse(pair.chosen[0]["content"]) != run.env.parse(pair.rejected[0]["content"])
        assert pair.chosen_reward - pair.rejected_reward > optima.GAP
    spent = run.spent(["optima/1"])["env_steps"]
    assert explored.round_budget(run, 1) <= spent
