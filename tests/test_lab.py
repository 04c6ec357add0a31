"""The exact lab against closed forms, the package's own loss, and its text world played by a table."""

import math
import random
from functools import partial

import numpy as np
import pytest
import torch

from ipr_lite import envs
from ipr_lite.envs.lab.env import COLOURS, right_door
from ipr_lite.losses import dpo_loss
from ipr_lite.pairs import PairRule, contrast, explore, judge, steps_to_score
from ipr_lite.records import Trajectory
from ipr_lite.rollout import states_along
from ipr_lite.step_reward import monte_carlo
from ipr_lite.study import lab
from ipr_lite.study.lab import Lab, PairTable, simulate
from ipr_lite.study.lab_estimators import by_anchors, by_regression, estimators, write_estimators


def test_outcomes_once_teach_what_the_formula_says():
    """Predicted: the greedy reward of ETO once per task is near Phi(sqrt(2 m / (pi K)))."""
    for decisions, tasks in ((8, 40), (12, 40), (24, 40), (24, 160)):
        greedy = simulate(Lab(decisions, tasks=tasks, seeds=200))["eto-paper"]["greedy"].mean()
        expected = 0.5 * (1 + math.erf(math.sqrt(2 * tasks / 10 / math.pi / decisions) / math.sqrt(2)))
        assert greedy == pytest.approx(expected, abs=0.03)


def test_one_decision_is_a_world_where_steps_cannot_win_and_many_one_where_they_must():
    one, many = (simulate(Lab(decisions, seeds=200)) for decisions in (1, 12))
    assert abs((one["ipr"]["greedy"] - one["eto-paper"]["greedy"]).mean()) < 0.03
    assert (many["ipr"]["greedy"] - many["eto-paper"]["greedy"]).mean() > 0.1


def test_a_table_is_trained_by_the_package_s_own_loss():
    """One update of both on one pair."""
    setting = Lab(4, kinds=2, seeds=1, updates=1, batch=1, rate=1.0)
    chosen, rejected = [True, False, True, True], [False, False, True, False]
    suffix = [False, True, True, True]
    pairs = PairTable(np.array([[1]]), *(np.array([[x]]) for x in (chosen, rejected, suffix)), np.array([[True]]))
    start = np.log(np.array([[[0.3, 0.6, 0.5, 0.4], [0.2, 0.7, 0.9, 0.5]]]))
    ours = lab.train(setting, start, pairs, np.random.default_rng(0))

    table = torch.tensor(start[0], requires_grad=True)

    def logp(side):
        signs = torch.tensor([1.0 if right else -1.0 for right in side])
        return (torch.nn.functional.logsigmoid(signs * table[1]) * torch.tensor(suffix)).sum()[None]

    ref = [logp(side).detach() for side in (chosen, rejected)]
    dpo_loss(logp(chosen), logp(rejected), *ref, beta=0.1).sum().backward()
    np.testing.assert_allclose(ours[0] - start[0], -table.grad.numpy(), atol=1e-7)


class Table:
    """A player who decides right with probability `skill`; what a language model is in a run."""

    def __init__(self, skill: float, seed: int):
        self.skill, self.rng, self.actions_taken = skill, random.Random(seed), 0

    def play(self, episodes, progress=None):
        return [self.one(e) for e in episodes]

    def one(self, episode):
        env, messages = episode.env, list(episode.messages)
        over, stopped = False, False
        while not over and not stopped:
            room = sum(m["role"] == "assistant" for m in messages)
            right = right_door(episode.task.setup["colour"], room)
            door = right if self.rng.random() < self.skill else {"left": "right", "right": "left"}[right]
            message = env.message(f"go {door}")
            stopped = bool(episode.stop and episode.stop(message))
            observation, reward, over, _, info = env.step(message)
            messages.append({"role": "assistant", "content": message})
            if not over:
                messages.append({"role": "user", "content": observation})
            self.actions_taken += 1
        return Trajectory(episode.task, messages, reward, info["success"], "table", extra={"terminated": over})


def test_the_text_world_played_by_a_table_gives_the_lab_s_pairs():
    """The package's own exploration, Monte Carlo and pairs, step by step: as many pairs and actions, and as exact."""
    world = envs.world("lab-4")
    env = world.make(None)
    found, actions, errors = [], [], []
    for seed in range(30):
        tasks = world.tasks("train", None)[:20]
        demonstrations = world.people.demonstrations(tasks, env, world.people.habitual, seed)
        states = {d.key: states_along(env.clone(), d) for d in demonstrations}
        player, rule = Table(0.5, seed), PairRule()
        explorations = explore(demonstrations, states, player, seed, whole=True)
        contrasts = contrast(demonstrations, explorations, env, rule)
        steps = steps_to_score(contrasts, states)
        rewards = monte_carlo(steps, player, 5, seed)
        for step, reward in zip(steps, rewards, strict=True):
            done = [m["content"] for m in step.messages if m["role"] == "assistant"]
            doors = [right_door(step.task.setup["colour"], room) for room in range(len(done))]
            right = [env.parse(message) == f"go {door}" for message, door in zip(done, doors, strict=True)]
            exact = lab.step_value(np.array(sum(right[:-1])), np.array(right[-1]), 4 - len(done), 4, 0.5)
            errors.append(reward.reward_mc - exact)
        found.append(sum(c.open for c in judge(contrasts, rewards, rule)))
        actions.append(player.actions_taken)
    setting = Lab(4, tasks=20, seeds=2000)
    rng = np.random.default_rng(0)
    demonstrated = rng.random((2000, 20, 4)) < 0.5
    explored = lab.explore(setting, demonstrated, rng)
    spent = lab.actions_of(setting, demonstrated, explored)
    scored = partial(lab.monte_carlo, setting, demonstrated=demonstrated, rng=rng)
    pairs = lab.step_pairs(setting, rng.integers(0, 10, (2000, 20)), demonstrated, explored, scored)
    expected, sd = pairs.kept.sum(1).mean(), pairs.kept.sum(1).std()
    assert np.mean(found) == pytest.approx(expected, abs=3 * sd / math.sqrt(30))
    assert np.mean(actions) == pytest.approx(spent.mean(), abs=3 * spent.std() / math.sqrt(30))
    assert abs(np.mean(errors)) < 0.02


def test_a_house_tells_its_outcome_at_the_end_alone():
    env = envs.make("lab-4")
    task = env.tasks[3]
    _, info = env.reset(options={"task": task})
    rewards = []
    for room in range(4):
        door = right_door(task.setup["colour"], room)
        message = env.message(f"go {door}") if room else "I do not know."
        page, reward, over, _, info = env.step(message)
        rewards.append(reward)
        assert info["invalid"] == (room == 0)
    assert rewards == [0, 0, 0, 0.75] and over and not info["success"] and "3 of 4" in page
    with pytest.raises(RuntimeError, match="reset"):
        env.step(message)
    with pytest.raises(ValueError, match="no original data"):
        envs.make("lab-4", "somewhere")
    assert len({right_door(colour, room) for colour in COLOURS for room in range(4)}) == 2


def test_the_grid_is_a_results_file(tmp_path):
    labs = (Lab(2, seeds=20), Lab(3, seeds=20))
    one, other = (lab.write_grid(tmp_path / name, "command", labs).read_bytes() for name in ("a.csv", "b.csv"))
    assert one == other and one.count(b"eto-equal") == 2


def test_estimators_say_what_a_reader_would_count():
    """One kind, two decisions, five episodes, by hand; and the regression against NumPy's own least squares."""
    setting = Lab(2, kinds=1, tasks=5, seeds=1)
    decided = [np.array([[[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]]], dtype=bool)]
    outcomes = [np.array([[0.5, 1.0, 0.5, 0.0, 0.25]])]
    kinds = np.zeros((1, 5), dtype=int)
    anchors = by_anchors(setting, kinds, outcomes, decided)[0, 0]
    np.testing.assert_allclose(anchors, [(0.5 + 1 + 0.25) / 3 - 0.25, (1 + 0.5) / 2 - 0.25])
    x = np.hstack([decided[0][0].astype(float), np.ones((5, 1))])
    exact = np.linalg.lstsq(x, outcomes[0][0], rcond=None)[0][:2]
    found = by_regression(setting, kinds, outcomes, decided)[0, 0]
    assert np.all(np.sign(found) == np.sign(exact)) and np.abs(found - exact).max() < 0.06  # ridge pulls it in


def test_more_rollouts_say_the_truth_more_often_and_the_truth_is_never_wrong():
    found = {row["estimator"]: row for row in estimators(Lab(12, seeds=100))}
    shares = [found[f"Monte Carlo N = {n}"]["right"] for n in (1, 3, 5, 20)]
    assert shares == sorted(shares) and shares[-1] > 0.98 and found["the truth"]["right"] == 1
    assert found["the truth"]["greedy"] > found["Monte Carlo N = 1"]["greedy"] + 0.01
    assert found["Monte Carlo N = 5"]["actions"] > 3 * found["outcome alone"]["actions"] == 3 * 40 * 12 * 13 / 2


def test_estimators_are_a_results_file(tmp_path):
    one, other = (write_estimators(tmp_path / name, "command", 20).read_bytes() for name in ("a.csv", "b.csv"))
    assert one == other and one.count(b"implicit (iStar)") == 3
