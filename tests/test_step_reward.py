"""Step rewards and pairs, with a scorer whose outcomes are known."""

import random
from dataclasses import replace

import pytest

from ipr_lite import envs
from ipr_lite.envs.shop.people import CAREFUL, HABITUAL, demonstrate
from ipr_lite.pairs import PairRule, contrast, count, explore, judge, pairs_of, steps_to_score
from ipr_lite.records import DataError, Trajectory
from ipr_lite.rollout import states_along
from ipr_lite.step_reward import monte_carlo, step_of


class Buyer:
    """A scorer that buys at once where it can; its episodes' outcomes follow from the world."""

    def __init__(self):
        self.played = []

    def play(self, episodes, progress=None):
        self.played += episodes
        result = []
        for episode in episodes:
            _, reward, over, *_ = episode.env.step("Thought: now.\nAction: click[Buy Now]")
            message = {"role": "assistant", "content": "Action: click[Buy Now]"}
            result.append(Trajectory(episode.task, [*episode.messages, message], reward, reward == 1, "buyer"))
        return result


@pytest.fixture(scope="module")
def env():
    return envs.make("shop")


@pytest.fixture(scope="module")
def expert(env):
    """A careful episode that chooses two options and gets full reward."""
    for task in envs.tasks("shop", "train"):
        found = demonstrate(task, env, CAREFUL, random.Random(0))
        if found.success and found.steps == 5:
            return found
    raise AssertionError("no such task")


def test_the_last_step_is_its_outcome_and_costs_nothing(env, expert):
    states = states_along(env, expert)
    last = step_of(states[-1], expert, expert.steps, "demonstrator")
    scorer = Buyer()
    (reward,) = monte_carlo([last], scorer, 5, seed=0)
    assert last.terminal and reward.terminal and reward.reward_mc == expert.reward
    assert reward.n == 0 and reward.samples == [] and scorer.played == []


def test_rollouts_begin_after_the_action_and_its_observation(env, expert):
    states = states_along(env, expert)
    steps = [step_of(states[t - 1], expert, t, "demonstrator") for t in (3, 4)]
    scorer = Buyer()
    before, after = monte_carlo(steps, scorer, 3, seed=0)
    for episode in scorer.played[:3]:
        assert episode.messages == expert.prefix(4)
    # Step 4 chooses the second option: buying just after step 3 lacks it, after step 4 does not.
    assert before.reward_mc < after.reward_mc == expert.reward == 1.0
    assert before.samples == [before.reward_mc] * 3
    assert len({episode.seed for episode in scorer.played}) == 6


def test_scoring_leaves_the_worlds_as_they_were(env, expert):
    states = states_along(env, expert)
    for _ in range(2):
        steps = [step_of(states[t - 1], expert, t, "demonstrator") for t in range(1, expert.steps + 1)]
        rewards = monte_carlo(steps, Buyer(), 2, seed=0)
    assert [r.step for r in rewards] == [1, 2, 3, 4, 5]
    assert rewards[0].reward_mc == 0.0, "nothing can be bought on a result page"


def test_no_rollout_is_no_estimate():
    with pytest.raises(ValueError, match="at least one rollout"):
        monte_carlo([], Buyer(), 0, seed=0)


def test_demonstrations_of_another_world_are_refused(env, expert):
    changed = [dict(m) for m in expert.messages]
    changed[3]["content"] += " [SEP] something else"
    forged = Trajectory(expert.task, changed, 1.0, True, "demonstrator")
    with pytest.raises(ValueError, match="before step 2 differs"):
        states_along(env, forged)


def departing(env, expert, start):
    """The demonstration, but from step `start` on the agent buys at once."""
    state = states_along(env, expert)[start - 1]
    _, reward, over, *_ = state.step("Action: click[Buy Now]")
    messages = [*expert.prefix(start), {"role": "assistant", "content": "Action: click[Buy Now]"}]
    return explored(Trajectory(expert.task, messages, reward, reward == 1, "agent"), start)


def explored(trajectory, start):
    """The same episode, as an exploration from step `start` on."""
    return replace(trajectory, extra={**trajectory.extra, "start_step": start})


def scored(contrasts, states, acted, demonstrated):
    """Step rewards as given, for every step that `steps_to_score` asks for."""
    values = {"agent": acted, "demonstrator": demonstrated}
    return [step.rewarded(values[step.who]) for step in steps_to_score(contrasts, states)]


def test_pairs_follow_the_rule(env, expert):
    states = {expert.id: states_along(env, expert)}
    rule = PairRule(tau_step=0.1, tau_outcome=0.01)
    worse = departing(env, expert, 4)
    assert 0 < worse.reward < 1
    contrasts = contrast([expert], [explored(expert, 3), worse], env, rule)
    assert [(c.kind, c.step, c.verdict) for c in contrasts] == [("step", 3, "same_action"), ("step", 4, "lose")]
    (pair,) = pairs_of(judge(contrasts, scored(contrasts, states, 0.5, 0.9), rule), rule)
    assert contrasts[1].acted.who == "agent" and contrasts[1].demonstrated.reward_mc == 0.9
    assert pair.kind == "step" and pair.step == 4 and count(contrasts)["step"]["lose"] == 1
    assert pair.prompt == expert.prefix(4)
    assert pair.chosen == expert.suffix(4) and pair.rejected == worse.suffix(4)
    assert (pair.chosen_reward, pair.rejected_reward) == (0.9, 0.5)
    assert (pair.chosen_outcome, pair.rejected_outcome) == (1.0, worse.reward)
    # The outcome says one thing, the step reward nothing or the opposite: no pair.
    for acted in (0.85, 0.95):
        contrasts = contrast([expert], [worse], env, rule)
        judge(contrasts, scored(contrasts, states, acted, 0.9), rule)
        assert pairs_of(contrasts, rule) == [] and count(contrasts)["step"]["tie"] == 1


def test_a_contrast_without_its_step_rewards_is_an_error(env, expert):
    worse = departing(env, expert, 4)
    contrasts = contrast([expert], [worse], env, PairRule())
    rewards = scored(contrasts, {expert.id: states_along(env, expert)}, 0.5, 0.9)
    with pytest.raises(DataError, match="remove the file and run again"):
        judge(contrasts, rewards[:1], PairRule())


def test_the_agent_can_win_unless_told_otherwise(env, expert):
    poor = departing(env, expert, 3)  # as the demonstrator, the careful one as agent
    better = explored(expert, 3)
    states = {poor.id: states_along(env, poor)}
    both = PairRule()
    contrasts = contrast([poor], [better], env, both)
    judge(contrasts, scored(contrasts, states, 0.9, 0.2), both)
    (pair,) = pairs_of(contrasts, both)
    assert pair.chosen == expert.suffix(3) and count(contrasts)["step"]["win"] == 1
    (short,) = pairs_of(contrasts, PairRule(action_only=True))
    assert short.chosen == expert.suffix(3)[:1]
    one_way = PairRule(both_directions=False)
    for start in (1, 3):
        contrasts = contrast([poor], [explored(expert, start)], env, one_way)
        assert [c.verdict for c in contrasts] == ["not_used"] and pairs_of(contrasts, one_way) == []


def test_outcome_pairs_come_from_the_first_step_and_drop_ties(env, expert):
    poor = departing(env, expert, 3)
    contrasts = contrast([expert], [explored(poor, 1), explored(expert, 1)], env, PairRule())
    (pair,) = pairs_of(contrasts, PairRule())
    assert pair.kind == "outcome" and pair.step == 1
    assert pair.prompt == expert.messages[:2] and pair.chosen == expert.messages[2:]
    outcomes = count(contrasts)["outcome"]
    assert (outcomes["lose"], outcomes["tie"], outcomes["win"]) == (1, 1, 0)


def test_an_exploration_without_room_for_an_action_makes_no_pair(env, expert):
    cut = explored(Trajectory(expert.task, expert.prefix(3), 0.0, False, "agent"), 3)
    contrasts = contrast([expert], [cut, explored(cut, 1)], env, PairRule())
    assert [c.verdict for c in contrasts] == ["lose", "too_long"]
    assert steps_to_score(contrasts, {}) == []


def test_two_demonstrations_of_one_task_keep_apart(env, expert):
    """Their histories differ, so their states, step rewards and winners do."""
    poor = departing(env, expert, 3)
    second = replace(poor, demonstration=f"{poor.id}#2")
    assert (expert.key, second.key) == (expert.id, f"{expert.id}#2")
    demonstrations = [expert, second]
    states = {d.key: states_along(env, d) for d in demonstrations}

    class Careful:
        """Goes on as the careful person does."""

        def play(self, episodes, progress=None):
            done = {len(expert.prefix(t)): expert.suffix(t) for t in range(1, expert.steps + 1)}
            return [
                Trajectory(e.task, [*e.messages, *done[len(e.messages)]], expert.reward, True, "agent")
                for e in episodes
            ]

    found = explore(demonstrations, states, Careful(), 0)
    assert [(t.key, t.extra["start_step"]) for t in found] == [
        (d.key, t) for d in demonstrations for t in range(1, d.steps + 1)
    ]
    contrasts = contrast(demonstrations, found, env, PairRule())
    of_first = [c.verdict for c in contrasts if c.demonstration is expert]
    assert set(of_first) == {"tie", "same_action"}
    of_second = {(c.kind, c.step): c.verdict for c in contrasts if c.demonstration is second}
    assert of_second == {("outcome", 1): "win", ("step", 2): "same_action", ("step", 3): "win"}
    judge(contrasts, scored(contrasts, states, 0.9, 0.2), PairRule())
    assert {p.id for p in pairs_of(contrasts, PairRule())} == {second.key}


def test_habitual_people_cost_what_they_skip(env):
    tasks = envs.tasks("shop", "dev")
    played = [demonstrate(task, env, HABITUAL, random.Random(i)) for i, task in enumerate(tasks)]
    for trajectory in played[:20]:
        assert len(states_along(env, trajectory)) == trajectory.steps
