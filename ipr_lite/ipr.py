"""IPR, Algorithm 1 of the paper, from top to bottom: clone the demonstrations; then, round after round, explore,
score, pair, train.

Each stage is kept in the run's folder when it is complete: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

from ipr_lite.pairs import PairRule, contrast, count, explore, judge, pairs_of, steps_to_score
from ipr_lite.records import (
    Pair,
    StepReward,
    read_pairs,
    read_step_rewards,
    read_trajectories,
    write_atomically,
    write_pairs,
    write_step_rewards,
    write_trajectories,
)
from ipr_lite.rollout import Player, stable_seed
from ipr_lite.run import Run
from ipr_lite.step_reward import ScoredStep, monte_carlo
from ipr_lite.train import health

FEW_PAIRS = 20
STAGES = ("explore", "score", "pairs", "train")


class NoPairs(RuntimeError):
    """No step or outcome differed: there is nothing to learn from."""


def ipr(
    run: Run, score: Callable[[list[ScoredStep]], list[StepReward]] | None = None
) -> Iterator[tuple[int, str, object]]:
    """Yields (round, stage, what the stage made) after every stage; of "train", that is the round's policy.

    `score` judges actions in place of Monte Carlo. Raises NoPairs where a round has nothing to learn from.
    """
    c, rule = run.config, PairRule.of(run.config)
    demonstrations = run.demonstrations()
    weights = sft = run.sft()
    scored: dict[tuple, StepReward] = {}

    for number in range(1, c.iterations + 1):
        # Explore: the policy acts from every step of every demonstration.
        def explored():
            player = run.player(weights, c.explore_temperature, f"ipr-{number - 1}", path)
            found = explore(
                demonstrations, run.states(demonstrations), player, stable_seed(c.seed, number), run.bar("explore")
            )
            run.count(f"iteration-{number}/explore", player)
            _warn_of_overflow(run, number, "explorations", player, len(found))
            return found

        path = run.file(number, "explorations.jsonl")
        explorations = run.keep(path, explored, read_trajectories, write_trajectories)
        yield number, "explore", explorations

        # Score: what is an action worth to the frozen scorer (eq. 3-5)? Only steps that differ in action and outcome
        # are scored (the paper: all); no other can give a pair.
        contrasts = contrast(demonstrations, explorations, run.env, rule)

        def rewarded():
            steps = steps_to_score(contrasts, run.states(demonstrations))
            new = {_key(step): step for step in steps if _key(step) not in scored}
            if score:
                found = score(list(new.values()))
            else:
                player = run.player(sft if c.scorer == "sft" else weights, 1.0, "scorer", path)
                found = monte_carlo(list(new.values()), player, c.samples, c.seed, run.bar("score"))
                run.count(f"iteration-{number}/score", player)
                _warn_of_overflow(run, number, "rollouts", player, len(found) * c.samples)
            scored.update(zip(new, found, strict=True))
            # An action may belong to episodes of different outcome; its step reward is the same.
            return [replace(scored[_key(step)], outcome=step.outcome, who=step.who) for step in steps]

        if c.scorer != "sft":
            scored.clear()
        path = run.file(number, "step_rewards.jsonl")
        rewards = run.keep(path, rewarded, read_step_rewards, write_step_rewards)
        scored |= {_key(reward): reward for reward in rewards}
        yield number, "score", rewards

        # Pair: outcome pairs from t = 1, step pairs where step reward and outcome say the same.
        def paired():
            decided = judge(contrasts, rewards, rule)
            write_atomically(run.file(number, "pair_counts.json"), json.dumps(count(decided)) + "\n")
            return pairs_of(decided, rule)

        pairs = run.keep(run.file(number, "pairs.jsonl"), paired, read_pairs, write_pairs)
        _check(run, number, pairs)
        yield number, "pairs", pairs

        # Train: outcome-DPO + step-DPO + SFT, from this policy, with the SFT policy as reference (eq. 7-10).
        def trained():
            learned, log = run.learn(pairs, weights, number)
            run.spend(f"iteration-{number}/train", updates=len(log))
            for warning in health(log):
                run.warn(number, warning)
            return learned, log

        weights = run.adapter(run.file(number, "adapter"), run.file(number, "train_log.csv"), trained)
        yield number, "train", weights


def round_of(run: Run, number: int, stage: str, score: Callable | None = None):
    """What a stage of a round makes, after all that comes before it."""
    return next(made for n, name, made in ipr(run, score) if (n, name) == (number, stage))


def _key(step: StepReward | ScoredStep) -> tuple:
    """What a step reward depends on besides the scorer: the history, which the demonstration and t fix, and the action."""
    return step.id, step.step, step.action


def _check(run: Run, number: int, pairs: list[Pair]) -> None:
    if not pairs:
        raise NoPairs(
            f"iteration {number} built no pair: the policy's outcomes equal the demonstrator's "
            f"within tau_outcome = {run.config.tau_outcome}; lower it, or raise "
            "explore_temperature, or take more demonstrations"
        )
    if len(pairs) < FEW_PAIRS:
        run.warn(number, f"only {len(pairs)} pairs: expect noise; take more demonstrations")


def _warn_of_overflow(run: Run, number: int, what: str, player: Player, all_of_them: int) -> None:
    if player.overflowed:
        run.warn(
            number,
            f"{player.overflowed} of {all_of_them} {what} did not fit {run.scale.max_length} tokens and ended with reward 0: "
            "raise max_length",
        )
