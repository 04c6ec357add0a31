"""Monte Carlo step rewards (paper section 3.2, equations 3-5).

How good was action a_t? Let the frozen scorer (the SFT policy) finish the episode N times from just
after a_t and its observation, and take the mean outcome:

    r_s(s_t, a_t) = (1/N) sum_i r_o(u, e^(i))      while the episode goes on
                  =  r_o(u, e_n)                   where a_t ended it: the outcome itself

The paper's formula conditions on e_{t-1} alone; its code, and this, on (e_{t-1}, a_t, o_t).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ipr_lite.envs.base import TextEnv
from ipr_lite.records import Message, StepReward, Task, Trajectory
from ipr_lite.rollout import Episode, Player, stable_seed


@dataclass
class ScoredStep:
    """An action whose step reward is wanted, in the episode where it was taken, whose key is `id`.

    `env` stands after the action, `messages` end with the observation that answered it; where the
    action ended the episode (`terminal`) neither is read. `outcome` is the episode's.
    """

    id: str
    task: Task
    step: int
    who: str
    action: str
    observation: str
    env: TextEnv
    messages: list[Message]
    terminal: bool
    outcome: float

    def rewarded(self, reward_mc: float, samples: Sequence[float] = ()) -> StepReward:
        """The step with its reward, and the outcomes of the rollouts that it is the mean of, where there are any."""
        return StepReward(
            self.id, self.step, self.action, self.observation, self.who, reward_mc, len(samples), list(samples),
            self.outcome, self.terminal,
        )  # fmt: skip


def step_of(env: TextEnv, trajectory: Trajectory, step: int, who: str) -> ScoredStep:
    """Take action number `step` (1-based) of a trajectory in a copy of `env`, which stands before it.

    "Last step" is what the world says (`terminated or truncated`), never a string: the released
    code looks for `click[Buy Now]` and misses `click[buy now]`.
    """
    history = trajectory.prefix(step)
    action = trajectory.suffix(step)[0]
    after = env.clone()
    observation, _, terminated, truncated, _ = after.step(action["content"])
    return ScoredStep(
        trajectory.key,
        trajectory.task,
        step,
        who,
        action["content"],
        observation,
        after,
        [*history, action, {"role": "user", "content": observation}],
        terminated or truncated,
        trajectory.reward,
    )


def steps_of(env: TextEnv, trajectory: Trajectory, who: str) -> list[ScoredStep]:
    """Every action of an episode as a step to score, in a world like `env` replayed from the beginning."""
    world, found = env.clone(), []
    world.reset(options={"task": trajectory.task})
    for number, action in enumerate(trajectory.actions, start=1):
        found.append(step_of(world, trajectory, number, who))
        world.step(action)
    return found


def monte_carlo(
    steps: list[ScoredStep], scorer: Player, n: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> list[StepReward]:
    """Step rewards of all `steps`, in their order, by `n` rollouts each.

    The samples of a step depend on (seed, id, step, action, sample) alone. Raises ValueError for
    n < 1.
    """
    if n < 1:
        raise ValueError(f"a step reward needs at least one rollout, not n = {n}")
    going_on = [step for step in steps if not step.terminal]
    episodes = [
        Episode(step.env.clone(), step.task, step.messages, stable_seed(seed, step.id, step.step, step.action, sample))
        for step in going_on
        for sample in range(n)
    ]
    outcomes = [trajectory.reward for trajectory in scorer.play(episodes, progress)]
    sampled = {id(step): outcomes[i * n : (i + 1) * n] for i, step in enumerate(going_on)}
    rewards = []
    for step in steps:
        samples = sampled.get(id(step), [])
        rewards.append(step.rewarded(fmean(samples) if samples else step.outcome, samples))
    return rewards


def own_outcomes(steps: list[ScoredStep]) -> list[StepReward]:
    """The outcome of the episode that each action belongs to, in place of a step reward: nothing is played."""
    return [step.rewarded(step.outcome) for step in steps]
