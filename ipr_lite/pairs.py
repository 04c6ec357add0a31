"""Exploration along the demonstrations, and the contrastive pairs it gives (paper section 3.3).

For every demonstration and every step t, the current policy acts from step t to the end, with the
demonstrator's first t-1 steps as history. What it does is then compared with what the demonstrator did:

    t = 1    whole trajectories: the higher outcome wins          -> outcome pairs D_t
    t >= 2   suffixes from step t whose actions at t differ: one is chosen over the other
             iff its step reward AND its outcome are higher by more than tau   -> step pairs D_s
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

from ipr_lite.config import Config
from ipr_lite.envs.base import TextEnv
from ipr_lite.records import DataError, Pair, StepReward, Trajectory
from ipr_lite.rollout import Episode, Player, stable_seed
from ipr_lite.step_reward import ScoredStep, step_of

Verdict = Literal["win", "lose", "tie", "same_action", "not_used", "too_long"]


@dataclass(frozen=True)
class PairRule:
    """When a difference counts.

    tau_step, tau_outcome: how much higher a step reward or an outcome must be (units of reward).
    both_directions: the agent may win too, as in the released code; False: only the demonstrator wins, in outcome pairs too
    (the paper says so for step pairs).
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

    @classmethod
    def of(cls, config: Config) -> PairRule:
        """The rule that a config asks for."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls)})

    def outcome(self, agent: Trajectory, demonstration: Trajectory, shorter_wins: bool = False) -> Verdict:
        """How the agent's outcome compares: "win", "lose", or "tie" within tau; "not_used" where it may not win."""
        verdict: Verdict = "tie"
        if abs(agent.reward - demonstration.reward) > self.tau_outcome:
            verdict = "win" if agent.reward > demonstration.reward else "lose"
        elif shorter_wins and agent.success and demonstration.success and agent.steps != demonstration.steps:
            verdict = "win" if agent.steps < demonstration.steps else "lose"
        return "not_used" if verdict == "win" and not self.both_directions else verdict


@dataclass
class Contrast:
    """What the agent did from step t on, beside what the demonstrator did, and how that compares for the agent.

    kind: "outcome" (whole trajectories, t = 1) or "step". verdict: "win" and "lose" make a pair; "tie" (in outcome or
    in step reward), "same_action" (nothing differs at t), "not_used" (the agent may not win) and "too_long" (the
    agent had no room left to act) make none. The two step rewards are None until they are asked for.
    """

    kind: Literal["outcome", "step"]
    step: int
    demonstration: Trajectory
    agent: Trajectory
    verdict: Verdict
    demonstrated: StepReward | None = None
    acted: StepReward | None = None

    @property
    def open(self) -> bool:
        """Whether it is, or may still become, a pair."""
        return self.verdict in ("win", "lose")

    def judge(self, tau_step: float) -> None:
        """Let the step rewards decide: they must differ by more than tau, the same way as the outcomes."""
        gain = self.acted.reward_mc - self.demonstrated.reward_mc
        if not (gain > tau_step if self.verdict == "win" else gain < -tau_step):
            self.verdict = "tie"

    def pair(self, action_only: bool = False) -> Pair:
        """The better side chosen over the worse, after the history that both share."""
        acted, demonstrated = (reward and reward.reward_mc for reward in (self.acted, self.demonstrated))
        sides = [
            (self.agent.suffix(self.step), acted, self.agent.reward),
            (self.demonstration.suffix(self.step), demonstrated, self.demonstration.reward),
        ]
        if self.verdict == "lose":
            sides.reverse()
        (chosen, chosen_reward, chosen_outcome), (rejected, rejected_reward, rejected_outcome) = sides
        if action_only and self.kind == "step":
            chosen, rejected = chosen[:1], rejected[:1]
        # A conversation that ran out of room ends with an observation, which nobody answered.
        chosen, rejected = (side[:-1] if side[-1]["role"] == "user" else side for side in (chosen, rejected))
        return Pair(
            prompt=self.demonstration.prefix(self.step),
            chosen=chosen,
            rejected=rejected,
            kind=self.kind,
            id=self.demonstration.key,
            step=self.step,
            chosen_reward=chosen_reward,
            rejected_reward=rejected_reward,
            chosen_outcome=chosen_outcome,
            rejected_outcome=rejected_outcome,
        )


def explore(
    demonstrations: list[Trajectory],
    states: dict[str, list[TextEnv]],
    explorer: Player,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    whole: bool = False,
) -> list[Trajectory]:
    """The policy acts from every step of every demonstration (`states`: by its key, from `states_along`).

    Each trajectory tells in `extra["start_step"]` from which step on it is the policy's own, and has the demonstration's key.
    From t = 2 on, no pair comes of an exploration that begins with the demonstrator's own action: it stops there
    (`extra["stopped"]`), unless `whole`. The pairs are the same.
    """
    starts = [(demonstration, t) for demonstration in demonstrations for t in range(1, demonstration.steps + 1)]
    episodes = []
    for demonstration, t in starts:
        before = states[demonstration.key][t - 1]
        stop = None if whole or t == 1 else _does(demonstration.actions[t - 1], before)
        seed_of_t = stable_seed(seed, demonstration.key, t, "explore")
        episodes.append(Episode(before.clone(), demonstration.task, demonstration.prefix(t), seed_of_t, stop))
    explorations = explorer.play(episodes, progress)
    for (demonstration, t), exploration in zip(starts, explorations, strict=True):
        exploration.demonstration, exploration.extra["start_step"] = demonstration.demonstration, t
    return explorations


def _does(action: str, env: TextEnv) -> Callable[[str], bool]:
    """Whether a message takes the same action as another, with other thoughts perhaps."""
    return lambda message: env.parse(message) == env.parse(action)


def contrast(
    demonstrations: list[Trajectory], explorations: list[Trajectory], env: TextEnv, rule: PairRule
) -> list[Contrast]:
    """Every exploration beside its demonstration: whole trajectories first, then the steps.

    The outcome is compared first, since what fails there costs no Monte Carlo; equal actions leave nothing to contrast.
    """
    by_key = {demonstration.key: demonstration for demonstration in demonstrations}
    outcomes, steps = [], []
    for agent in explorations:
        t, demonstration = agent.extra["start_step"], by_key[agent.key]
        acted = agent.steps >= t
        if t == 1:
            verdict = rule.outcome(agent, demonstration) if acted else "too_long"
            outcomes.append(Contrast("outcome", 1, demonstration, agent, verdict))
        if t >= rule.step_pairs_from:
            verdict = rule.outcome(agent, demonstration, rule.shorter_wins) if acted else "too_long"
            if acted and _does(demonstration.actions[t - 1], env)(agent.actions[t - 1]):
                verdict = "same_action"
            steps.append(Contrast("step", t, demonstration, agent, verdict))
    return outcomes + steps


def steps_to_score(contrasts: list[Contrast], states: dict[str, list[TextEnv]]) -> list[ScoredStep]:
    """For every step contrast that is open, the demonstrator's action and the agent's. The paper scores every step; no
    other step can give a pair."""
    steps = []
    for c in contrasts:
        if c.kind == "step" and c.open:
            before = states[c.demonstration.key][c.step - 1]
            steps.append(step_of(before, c.demonstration, c.step, "demonstrator"))
            steps.append(step_of(before, c.agent, c.step, "agent"))
    return steps


def judge(contrasts: list[Contrast], rewards: list[StepReward], rule: PairRule) -> list[Contrast]:
    """Hand every open step contrast its two step rewards and let them decide. Raises DataError for one that lacks them."""
    known = {(r.id, r.step, r.action): r for r in rewards}
    for c in contrasts:
        if c.kind == "step" and c.open:
            sides = [(c.demonstration.key, c.step, side.actions[c.step - 1]) for side in (c.demonstration, c.agent)]
            if not set(sides) <= known.keys():
                raise DataError(
                    f"step_rewards.jsonl: no step reward of step {c.step} of {c.demonstration.key}; "
                    "remove the file and run again, which scores anew"
                )
            c.demonstrated, c.acted = (known[side] for side in sides)
            c.judge(rule.tau_step)
    return contrasts


def pairs_of(contrasts: list[Contrast], rule: PairRule) -> list[Pair]:
    """The pairs of the contrasts that somebody won: outcome pairs first, then step pairs."""
    return [c.pair(rule.action_only) for c in contrasts if c.open]


def count(contrasts: list[Contrast]) -> dict[str, dict[str, int]]:
    """How many contrasts of each kind ended how, from the agent's side."""
    found = Counter((c.kind, c.verdict) for c in contrasts)
    verdicts = ("win", "tie", "lose", "not_used", "same_action", "too_long")
    return {kind: {verdict: found[kind, verdict] for verdict in verdicts} for kind in ("outcome", "step")}
