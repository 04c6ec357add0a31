"""Start here: a rollout that can be played again."""

from __future__ import annotations

from collections.abc import Callable

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right


def replay(play: Callable[[int], list[str]]) -> None:
    """Notebook 00: `play(seed)` gives the actions of one sampled rollout, the same for the same seed."""
    first = attempt(play, 0)
    if first is NOTHING:
        return
    if not isinstance(first, list) or not all(isinstance(action, str) for action in first):
        raise WrongAnswer(
            f"replay(0) gave a {type(first).__name__}; it must give `trajectory.actions`, a list of texts"
        )
    if play(0) != first:
        raise WrongAnswer(
            "replay(0) gave two different rollouts: every call needs a fresh world (clone and reset) "
            "and an Episode that begins with exactly this seed"
        )
    if all(play(seed) == first for seed in range(1, 6)):
        raise WrongAnswer(
            "the seeds 0 to 5 all gave the same rollout: is the temperature 1, and does the seed reach the Episode?"
        )
    say_right("same seed, same rollout; another seed, another one")
