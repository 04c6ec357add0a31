"""Step rewards of every step of a few demonstrations, for people to look at."""

from __future__ import annotations

from ipr_lite.records import StepReward, read_step_rewards, write_step_rewards
from ipr_lite.run import Run
from ipr_lite.step_reward import monte_carlo, step_of

SHOWCASE = "demonstration_step_rewards.jsonl"


def showcase(run: Run) -> list[StepReward]:
    """Every step of the first `config.showcase` demonstrations, scored by Monte Carlo; no part of IPR's budget."""

    def scored():
        shown = run.demonstrations()[: run.config.showcase]
        states = run.states(shown)
        steps = [step_of(states[d.key][t - 1], d, t, "demonstrator") for d in shown for t in range(1, d.steps + 1)]
        player = run.player(run.sft(), 1.0, "scorer")
        found = monte_carlo(steps, player, run.config.samples, run.config.seed, run.bar("showcase"))
        run.count("showcase", player)
        return found

    return run.keep(run.folder / SHOWCASE, scored, read_step_rewards, write_step_rewards)
