"""Who gives IPR its step rewards, by the config's `step_reward`: Monte Carlo, or what stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ipr_lite.methods.istar import implicit_step_rewards
from ipr_lite.methods.learned_rewards import predicted_step_rewards
from ipr_lite.records import StepReward
from ipr_lite.run import Run
from ipr_lite.step_reward import ScoredStep, own_outcomes


def judge_of(run: Run) -> Callable[[list[ScoredStep]], list[StepReward]] | None:
    """What `ipr` takes as `score`; None for Monte Carlo. Raises FileNotFoundError where another run's model is asked for
    and that run has none."""
    here = {
        "mc": None,
        "outcome": own_outcomes,
        "model": partial(predicted_step_rewards, run),
        "implicit": partial(implicit_step_rewards, run),
    }
    if run.config.step_reward in here:
        return here[run.config.step_reward]
    folder = Path(run.config.step_reward.format(seed=run.config.seed))
    if not (folder / "reward-model").exists():
        lacks = f"{folder / 'reward-model'}: no step reward model there"
        raise FileNotFoundError(f"{lacks}; run `compare --methods best-of-n` in that run first")
    return partial(predicted_step_rewards, Run.opened(folder, quiet=True))
