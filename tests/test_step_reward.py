"""Step rewards and pairs, with a scorer whose outcomes are known."""

import random

import pytest

from ipr_lite import envs
from ipr_lite.envs.shop.people import CAREFUL, HABITUAL, demonstrate
from ipr_lite.pairs import (
    Exploration,
    PairRule,
    contrasts,
    empty_counts,
    expert_states,
    outcome_pairs,
    step_pairs,
    steps_to_score,
)
from ipr_lite.records import StepReward
from ipr_lite.step_reward import monte_carlo, step_of
from ipr_lite.trajectory import Trajectory


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
    states = expert_states(env, expert)
    last = step_of(states[-1], expert, expert.steps, "expert")
    scorer = Buyer()
    (reward,) = monte_carlo([last], scorer, 5, seed=0)
    assert last.terminal and reward.terminal and reward.reward_mc == expert.reward
    assert reward.n == 0 and reward.samples == [] and scorer.played == []


def test_rollouts_begin_after_the_action_and_its_observation(env, expert):
    states = expert_states(env, expert)
    steps = [step_of(states[t - 1], expert, t, "expert") for t in (3, 4)]
    scorer = Buyer()
    before, after = monte_carlo(steps, scorer, 3, seed=0)
    for episode in scorer.played[:3]:
        assert episode.messages == expert.prefix(4)
    # Step 4 chooses the second option: buying just after step 3 lacks it, after step 4 does not.
    assert before.reward_mc < after.reward_mc == expert.reward == 1.0
    assert before.samples == [before.reward_mc] * 3
    assert len({episode.seed for episode in scorer.played}) == 6


def test_scoring_leaves_the_worlds_as_they_were(env, expert):
    states = expert_states(env, expert)
    for _ in range(2):
        steps = [step_of(states[t - 1], expert, t, "expert") for t in range(1, expert.steps + 1)]
        rewards = monte_carlo(steps, Buyer(), 2, seed=0)
    assert [r.step for r in rewards] == [1, 2, 3, 4, 5]
    assert rewards[0].reward_mc == 0.0, "nothing can be bought on a result page"


def test_no_rollout_is_no_estimate():
    with pytest.raises(ValueError, match="at least one rollout"):
        monte_carlo([], Buyer(), 0, seed=0)


def test_demonstrations_of_another_world_are_refused(env, expert):
    changed = [dict(m) for m in expert.messages]
    changed[3]["content"] += " [SEP] something else"
    forged = Trajectory(expert.task, changed, 1.0, True, "expert")
    with pytest.raises(ValueError, match="before step 2 differs"):
        expert_states(env, forged)


def departing(env, expert, start):
    """The expert's path, but from step `start` on the agent buys at once."""
    state = expert_states(env, expert)[start - 1]
    _, reward, over, *_ = state.step("Action: click[Buy Now]")
    messages = [*expert.prefix(start), {"role": "assistant", "content": "Action: click[Buy Now]"}]
    return Exploration(start, Trajectory(expert.task, messages, reward, reward == 1, "agent"))


def score(left, states, mine, theirs):
    """Step rewards as given, in the order that `steps_to_score` asks for them."""
    values = [theirs, mine] * len(left)
    return [
        StepReward(s.task.id, s.step, s.action, s.observation, s.who, v, 1, [v], s.outcome, s.terminal)
        for s, v in zip(steps_to_score(left, states), values)
    ]


def test_pairs_follow_the_rule(env, expert):
    states = {expert.id: expert_states(env, expert)}
    rule, counts = PairRule(tau_step=0.1, tau_outcome=0.01), empty_counts()
    same = Exploration(3, expert)
    worse = departing(env, expert, 4)
    assert 0 < worse.trajectory.reward < 1
    left = contrasts([expert], [same, worse], env, rule, counts)
    assert left == [(expert, worse)] and counts["step"]["same_action"] == 1
    (pair,) = step_pairs(left, score(left, states, 0.5, 0.9), rule, counts)
    assert pair.kind == "step" and pair.step == 4 and counts["step"]["lose"] == 1
    assert pair.prompt == expert.prefix(4)
    assert pair.chosen == expert.suffix(4) and pair.rejected == worse.trajectory.suffix(4)
    assert (pair.chosen_reward, pair.rejected_reward) == (0.9, 0.5)
    assert (pair.chosen_outcome, pair.rejected_outcome) == (1.0, worse.trajectory.reward)
    # The outcome says one thing, the step reward nothing or the opposite: no pair.
    for mine in (0.85, 0.95):
        assert step_pairs(left, score(left, states, mine, 0.9), rule, empty_counts()) == []


def test_the_agent_can_win_unless_told_otherwise(env, expert):
    poor = departing(env, expert, 3).trajectory  # as the demonstrator, the careful one as agent
    better = Exploration(3, expert)
    states = {poor.id: expert_states(env, poor)}
    both, counts = PairRule(), empty_counts()
    left = contrasts([poor], [better], env, both, counts)
    (pair,) = step_pairs(left, score(left, states, 0.9, 0.2), both, counts)
    assert pair.chosen == expert.suffix(3) and counts["step"]["win"] == 1
    (short,) = step_pairs(left, score(left, states, 0.9, 0.2), PairRule(action_only=True), counts)
    assert short.chosen == expert.suffix(3)[:1]
    one_way = PairRule(both_directions=False)
    assert contrasts([poor], [better], env, one_way, counts) == []
    assert outcome_pairs([poor], [Exploration(1, expert)], one_way, counts) == []


def test_outcome_pairs_come_from_the_first_step_and_drop_ties(env, expert):
    poor = departing(env, expert, 3).trajectory
    counts = empty_counts()
    pairs = outcome_pairs([expert], [Exploration(1, poor), Exploration(2, poor)], PairRule(), counts)
    assert len(pairs) == 1 and pairs[0].kind == "outcome" and pairs[0].step == 1
    assert pairs[0].prompt == expert.messages[:2] and pairs[0].chosen == expert.messages[2:]
    assert outcome_pairs([expert], [Exploration(1, expert)], PairRule(), counts) == []
    assert counts["outcome"] == {"win": 0, "tie": 1, "lose": 1, "not_used": 0}


def test_habitual_people_cost_what_they_skip(env):
    tasks = envs.tasks("shop", "dev")
    played = [demonstrate(task, env, HABITUAL, random.Random(i)) for i, task in enumerate(tasks)]
    for trajectory in played[:20]:
        assert len(expert_states(env, trajectory)) == trajectory.steps
