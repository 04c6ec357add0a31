"""Exploration along the expert trajectory, and the contrastive pairs it gives (paper section 3.3).

For every expert trajectory and every step t, the current policy acts from step t to the end, with
the expert's first t-1 steps as history. What it does is then compared with what the expert did:

    t = 1    whole trajectories: the higher outcome wins          -> outcome pairs D_t
    t >= 2   suffixes from step t: one is chosen over the other
             iff its step reward AND its outcome are higher       -> step pairs D_s
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ipr_lite.engine.rollouts import Rollouts
from ipr_lite.envs.base import TextEnv
from ipr_lite.records import Pair, StepReward
from ipr_lite.rollout import Episode, stable_seed
from ipr_lite.step_reward import ScoredStep, step_of
from ipr_lite.trajectory import Trajectory


@dataclass(frozen=True)
class PairRule:
    """When a difference counts.

    tau_step, tau_outcome: how much higher a step reward or an outcome must be (units of reward).
    both_directions: the agent may win too, as in the released code; False is the paper's text.
    action_only: contrast the action at t alone, not the suffix from t (the released code's
    `--step_action`, unused in its pipeline).
    shorter_wins: between equal outcomes that both succeed, the shorter suffix may win a step pair (the released
    code's rule for ALFWorld, there without asking for success).
    step_pairs_from: the first t that may give a step pair.
    """

    tau_step: float = 0.01
    tau_outcome: float = 0.01
    both_directions: bool = True
    action_only: bool = False
    shorter_wins: bool = False
    step_pairs_from: int = 2

    def winner(self, agent: Trajectory, expert: Trajectory) -> str | None:
        """Who did better in the end, "agent" or "expert"; None for a tie."""
        if abs(agent.reward - expert.reward) > self.tau_outcome:
            return "agent" if agent.reward > expert.reward else "expert"
        if self.shorter_wins and agent.success and expert.success and agent.steps != expert.steps:
            return "agent" if agent.steps < expert.steps else "expert"
        return None


@dataclass
class Exploration:
    """What the policy did from step `start` on, after the expert's first `start` - 1 steps."""

    start: int
    trajectory: Trajectory


def expert_states(env: TextEnv, expert: Trajectory) -> list[TextEnv]:
    """Copies of the world before each expert step: item t-1 stands before step t.

    Raises ValueError where the world answers otherwise than the trajectory says: the data and the
    environment do not belong together, and every reward computed from them would be wrong.
    """
    observation, _ = env.reset(options={"task": expert.task})
    states = []
    for number, step in enumerate(expert.as_steps(), start=1):
        if observation != expert.prefix(number)[-1]["content"]:
            raise ValueError(
                f"expert trajectory {expert.id}: the world's observation before step {number} "
                "differs from the recorded one; replay or regenerate the demonstrations"
            )
        states.append(env.clone())
        observation, *_ = env.step(step.action)
    return states


def explore(
    experts: list[Trajectory],
    states: dict[str, list[TextEnv]],
    explorer: Rollouts,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    whole: bool = False,
) -> list[Exploration]:
    """The policy acts from every step of every expert trajectory (`states` from `expert_states`).

    From t = 2 on, no pair comes of an exploration that begins with the expert's own action: it stops there
    (`extra["stopped"]`), unless `whole`. The pairs are the same.
    """
    starts = [(expert, t) for expert in experts for t in range(1, expert.steps + 1)]
    episodes = []
    for expert, t in starts:
        before = states[expert.id][t - 1]
        stop = None if whole or t == 1 else _does(expert.actions[t - 1], before)
        seed_of_t = stable_seed(seed, expert.id, t, "explore")
        episodes.append(Episode(before.clone(), expert.task, expert.prefix(t), seed_of_t, stop))
    played = explorer.play(episodes, progress)
    return [Exploration(t, trajectory) for (_, t), trajectory in zip(starts, played)]


def _does(action: str, env: TextEnv) -> Callable[[str], bool]:
    """Whether a message takes the same action as another, with other thoughts perhaps."""
    return lambda message: env.parse(message) == env.parse(action)


def contrasts(
    experts: list[Trajectory],
    explorations: list[Exploration],
    env: TextEnv,
    rule: PairRule,
    counts: dict[str, dict[str, int]],
) -> list[tuple[Trajectory, Exploration]]:
    """The explorations from t >= 2 (`step_pairs_from`) that can still become a step pair: those that need step rewards.

    The outcome condition is tested first, since what fails it costs no Monte Carlo; equal actions
    leave nothing to contrast. What falls away is counted under `same_action` and `tie`.
    """
    expert_of = {expert.id: expert for expert in experts}
    left = []
    for exploration in explorations:
        expert, agent, t = expert_of[exploration.trajectory.id], exploration.trajectory, exploration.start
        if t < rule.step_pairs_from:
            continue
        if _does(expert.actions[t - 1], env)(agent.actions[t - 1]):
            counts["step"]["same_action"] += 1
        elif rule.winner(agent, expert) is None:
            counts["step"]["tie"] += 1
        elif rule.winner(agent, expert) == "agent" and not rule.both_directions:
            counts["step"]["not_used"] += 1
        else:
            left.append((expert, exploration))
    return left


def steps_to_score(left: list[tuple[Trajectory, Exploration]], states: dict[str, list[TextEnv]]) -> list[ScoredStep]:
    """For every contrast, the expert's step and the agent's, in turn."""
    steps = []
    for expert, exploration in left:
        before = states[expert.id][exploration.start - 1]
        steps.append(step_of(before, expert, exploration.start, "expert"))
        steps.append(step_of(before, exploration.trajectory, exploration.start, "agent"))
    return steps


def outcome_pairs(
    experts: list[Trajectory], explorations: list[Exploration], rule: PairRule, counts: dict[str, dict[str, int]]
) -> list[Pair]:
    """Outcome pairs: explorations from t = 1 against the expert; ties (within tau) are dropped."""
    expert_of = {expert.id: expert for expert in experts}
    pairs = []
    for exploration in explorations:
        if exploration.start != 1:
            continue
        expert, agent = expert_of[exploration.trajectory.id], exploration.trajectory
        if abs(agent.reward - expert.reward) <= rule.tau_outcome:
            counts["outcome"]["tie"] += 1
        elif agent.reward > expert.reward and not rule.both_directions:
            counts["outcome"]["not_used"] += 1
        else:
            counts["outcome"]["win" if agent.reward > expert.reward else "lose"] += 1
            pairs.append(_pair(expert, agent, 1, "outcome", None, None, rule, agent.reward > expert.reward))
    return pairs


def step_pairs(
    left: list[tuple[Trajectory, Exploration]],
    rewards: list[StepReward],
    rule: PairRule,
    counts: dict[str, dict[str, int]],
) -> list[Pair]:
    """Step pairs from contrasts and their step rewards (expert's and agent's, in turn)."""
    pairs = []
    for (expert, exploration), mine, theirs in zip(left, rewards[1::2], rewards[0::2]):
        agent = exploration.trajectory
        gain = mine.reward_mc - theirs.reward_mc
        agent_wins = rule.winner(agent, expert) == "agent"
        if (gain > rule.tau_step) if agent_wins else (gain < -rule.tau_step):
            counts["step"]["win" if agent_wins else "lose"] += 1
            start = exploration.start
            pairs.append(_pair(expert, agent, start, "step", theirs.reward_mc, mine.reward_mc, rule, agent_wins))
        else:
            counts["step"]["tie"] += 1
    return pairs


def empty_counts() -> dict[str, dict[str, int]]:
    """Pair counts by kind, from the agent's side: win (the agent beats the expert), tie, lose."""
    return {
        "outcome": {"win": 0, "tie": 0, "lose": 0, "not_used": 0},
        "step": {"win": 0, "tie": 0, "lose": 0, "not_used": 0, "same_action": 0},
    }


def _pair(
    expert: Trajectory,
    agent: Trajectory,
    step: int,
    kind: str,
    expert_reward: float | None,
    agent_reward: float | None,
    rule: PairRule,
    agent_wins: bool,
) -> Pair:
    sides = [(agent.suffix(step), agent_reward, agent.reward), (expert.suffix(step), expert_reward, expert.reward)]
    if not agent_wins:
        sides.reverse()
    (chosen, chosen_reward, chosen_outcome), (rejected, rejected_reward, rejected_outcome) = sides
    if rule.action_only and kind == "step":
        chosen, rejected = chosen[:1], rejected[:1]
    # A conversation that ran out of room ends with an observation, which nobody answered.
    chosen, rejected = (s[:-1] if s[-1]["role"] == "user" else s for s in (chosen, rejected))
    return Pair(
        prompt=expert.prefix(step),
        chosen=chosen,
        rejected=rejected,
        kind=kind,
        id=expert.id,
        step=step,
        chosen_reward=chosen_reward,
        rejected_reward=rejected_reward,
        chosen_outcome=chosen_outcome,
        rejected_outcome=rejected_outcome,
    )
