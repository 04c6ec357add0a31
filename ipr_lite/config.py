"""What a run depends on: one dataclass. Where its defaults leave the paper, README says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    env: str = "shop"
    data: str | None = None
    """A folder with the original benchmark's data; None: the generated world."""
    scale: str = "tiny"
    model: str | None = None
    precision: str = "nf4"
    seed: int = 0
    demonstrations: int = 160
    """Expert trajectories to draw (fewer where the world has fewer tasks)."""
    keep: float | None = None
    """A demonstration is kept if its outcome reward is at least this; None: the world's own (shop .5, SQL and
    household 0: failures stay; the paper: WebShop .7, SQL 1)."""
    habits: str = "habitual"
    sft_epochs: float = 3.0
    iterations: int = 2
    samples: int = 5
    """N, Monte Carlo rollouts for one step reward."""
    explore_temperature: float = 0.0
    """Of the exploring policy; 0 is greedy, as in the paper."""
    tau_step: float = 0.01
    tau_outcome: float = 0.01
    both_directions: bool = True
    action_only: bool = False
    updates: int = 20
    """Of preference training, in one iteration."""
    batch_size: int = 8
    learning_rate: float | None = None
    """Of preference training; None: the scale's."""
    beta: float = 0.1
    w_outcome: float = 1.0
    w_step: float = 1.0
    w_sft: float = 2.0
    sft_on: str = "outcome_winners"
    sft_per: str = "token"
    showcase: int = 8
    """Demonstrations of which every step is scored, for the report."""
    dev: int = 100
    """Tasks of the dev split to evaluate on."""
    test: int = 300
    without: str = ""
    """Savings to do without, such as `share,stop`; see SAVINGS. The pairs are the same, the time is not."""

    def saves(self, name: str) -> bool:
        """Whether a run makes this saving. Raises ValueError for unknown names in `without`."""
        off = [part.strip() for part in self.without.split(",") if part.strip()]
        unknown = set(off) - set(SAVINGS)
        if unknown:
            raise ValueError(f"unknown saving {', '.join(sorted(unknown))} in without; choose of {', '.join(SAVINGS)}")
        return name not in off


SAVINGS = {
    "share": "one history is computed once: one trunk, one row, one rest of an episode",
    "guess": "several tokens are read in one pass where they can be guessed",
    "stop": "an exploration ends at its first action where that is the expert's own",
    "skip": "steps that can give no pair (equal outcome, equal action) are not scored",
    "reuse": "what an earlier iteration has scored is not scored again",
}
"""What spares work in rollouts and scoring; each can be switched off with `--without`."""


QUICK = {
    "demonstrations": 40,
    "iterations": 1,
    "samples": 2,
    "updates": 10,
    "dev": 20,
    "test": 40,
}
"""What `--quick` changes: a minute's run that shows every stage, and no effect to speak of."""
