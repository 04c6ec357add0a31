"""When do step rewards beat outcomes? A task of K decisions with one outcome, small enough to be exact.

A task is of one of C kinds; each of its K decisions is right or wrong, and the outcome, told at the end, is the share of
right ones. The policy is a table: the logit of deciding right, by kind and decision. So the worth of a step is known
in closed form (`step_value`), thousands of seeds take a minute, and the greedy policy's reward is the share of decisions
whose logit is positive. What `envs/lab` says in text, and a language model plays, is counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ipr_lite.evaluation import paired_difference, write_csv
from ipr_lite.records import SCHEMA_VERSION


@dataclass(frozen=True)
class Lab:
    """One setting. decisions: K. kinds: C. tasks: demonstrations, one each. samples: N rollouts for a step reward; 0: exact step
    values in place of rollouts. skill: how often demonstrators, and the policy at first, decide right. seeds: independent repetitions.
    The rest is DPO's, the same for all methods."""

    decisions: int
    kinds: int = 10
    tasks: int = 40
    samples: int = 5
    skill: float = 0.5
    seeds: int = 200
    updates: int = 200
    batch: int = 8
    rate: float = 3.0
    beta: float = 0.1


Judge = Callable[[int, np.ndarray], np.ndarray]
"""(t, what the agent did (S, T, K)) -> how much more its decision t is worth than the demonstrator's (S, T)."""


@dataclass(frozen=True)
class PairTable:
    """Pairs of all seeds. kinds (S, P); chosen, rejected, suffix (S, P, K): right or wrong, and whether the decision is in the
    pair's suffix; kept (S, P): whether it is a pair at all."""

    kinds: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    suffix: np.ndarray
    kept: np.ndarray


def step_value(right_so_far: np.ndarray, right_now: np.ndarray, left: int, decisions: int, skill: float) -> np.ndarray:
    """The expected outcome after a decision, when `left` more are taken with this skill (equation 3's limit, N without end)."""
    return (right_so_far + right_now + skill * left) / decisions


def simulate(lab: Lab, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Each method's table after training: by method, for every seed, `sampled` and `greedy` reward and `actions` in the world.

    sft: the start. ipr. eto-paper: outcome pairs alone, each task played once. eto-equal: until IPR's actions are spent.
    """
    rng = np.random.default_rng([seed, lab.decisions, lab.kinds, lab.tasks, lab.samples])
    kinds, demonstrated, start = begin(lab, rng)
    explored = explore(lab, demonstrated, rng)
    spent = actions_of(lab, demonstrated, explored)
    steps = step_pairs(
        lab, kinds, demonstrated, explored, lambda t, acted: monte_carlo(lab, t, acted, demonstrated, rng)
    )
    once = outcome_pairs(lab, kinds, demonstrated, rng, np.full(lab.seeds, lab.tasks))
    equal = outcome_pairs(lab, kinds, demonstrated, rng, spent // lab.decisions)
    found = {"sft": (start, np.zeros(lab.seeds))}
    for name, pairs, actions in (
        ("ipr", steps, spent),
        ("eto-paper", once, np.full(lab.seeds, lab.tasks * lab.decisions)),
        ("eto-equal", equal, spent),
    ):
        found[name] = train(lab, start, pairs, rng), actions
    return {
        name: {"sampled": _sigmoid(table).mean((1, 2)), "greedy": greedy(table), "actions": actions}
        for name, (table, actions) in found.items()
    }


def begin(lab: Lab, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tasks' kinds (S, T), what the demonstrators decided (S, T, K), and the first policy's table (S, C, K)."""
    kinds = rng.integers(0, lab.kinds, (lab.seeds, lab.tasks))
    demonstrated = rng.random((lab.seeds, lab.tasks, lab.decisions)) < lab.skill
    return kinds, demonstrated, np.full((lab.seeds, lab.kinds, lab.decisions), np.log(lab.skill / (1 - lab.skill)))


def greedy(table: np.ndarray) -> np.ndarray:
    """The greedy policy's reward (S,): the share of logits above 0; at 0 it guesses."""
    return ((table > 0) + 0.5 * (table == 0)).mean((1, 2))


def outcome_pairs(lab: Lab, kinds: np.ndarray, demonstrated: np.ndarray, rng, episodes: np.ndarray) -> PairTable:
    """The policy plays the tasks in turn, `episodes` (S,) of each seed; the higher outcome wins."""
    number = np.arange(episodes.max())
    task = number % lab.tasks
    theirs, kinds = demonstrated[:, task], kinds[:, task]
    acted = rng.random(theirs.shape) < lab.skill
    kept = number < episodes[:, None]
    return _pairs(kinds, acted, theirs, np.ones_like(acted), _gain(acted, theirs), kept)


def step_pairs(
    lab: Lab, kinds: np.ndarray, demonstrated: np.ndarray, explored: list[np.ndarray], judge: Judge
) -> PairTable:
    """IPR's pairs: at t = 1 by outcome, later where step reward and outcome agree."""
    parts = []
    for t, acted in enumerate(explored):
        gain, kept = _gain(acted, demonstrated), np.ones(kinds.shape, dtype=bool)
        if t:
            step = judge(t, acted)
            kept = open_at(t, acted, demonstrated) & (np.sign(step) == np.sign(gain)) & (np.abs(step) > 0.01)
        suffix = np.broadcast_to(np.arange(lab.decisions) >= t, acted.shape)
        parts.append(_pairs(kinds, acted, demonstrated, suffix, gain, kept))
    joined = (np.concatenate([getattr(p, name) for p in parts], 1) for name in PairTable.__dataclass_fields__)
    return PairTable(*joined)


def explore(lab: Lab, demonstrated: np.ndarray, rng) -> list[np.ndarray]:
    """From every decision t on, the policy's own after the demonstrator's: K arrays (S, T, K)."""
    explored = []
    for t in range(lab.decisions):
        acted = rng.random(demonstrated.shape) < lab.skill
        acted[:, :, :t] = demonstrated[:, :, :t]
        explored.append(acted)
    return explored


def actions_of(lab: Lab, demonstrated: np.ndarray, explored: list[np.ndarray]) -> np.ndarray:
    """The actions (S,) of exploring, and of N rollouts behind either side of what is open."""
    actions = np.full(lab.seeds, lab.tasks * lab.decisions)
    for t in range(1, lab.decisions):
        left, scored = lab.decisions - t, open_at(t, explored[t], demonstrated).sum(1)
        actions += lab.tasks * left + 2 * lab.samples * (left - 1) * scored
    return actions


def open_at(t: int, acted: np.ndarray, demonstrated: np.ndarray) -> np.ndarray:
    """Where agent and demonstrator differ, in decision t and in outcome (S, T)."""
    return (acted[:, :, t] != demonstrated[:, :, t]) & (_gain(acted, demonstrated) != 0)


def monte_carlo(lab: Lab, t: int, acted: np.ndarray, demonstrated: np.ndarray, rng) -> np.ndarray:
    """Step reward of the agent's decision less the demonstrator's (S, T): means of N rollouts, or exact where N = 0."""
    K, left = lab.decisions, lab.decisions - t - 1
    before, values = demonstrated[:, :, :t].sum(-1), []
    for side in (acted, demonstrated):
        value = step_value(before, side[:, :, t], 0, K, 0)
        if lab.samples:
            value = value + rng.binomial(lab.samples * left, lab.skill, value.shape) / (lab.samples * K)
        values.append(value)
    return values[0] - values[1]


def train(lab: Lab, start: np.ndarray, pairs: PairTable, rng) -> np.ndarray:
    """DPO from `start` (S, C, K), its own reference: as many updates on random batches for every method."""
    table, rows, columns = start.copy(), np.arange(lab.seeds)[:, None], np.arange(lab.decisions)
    first = np.argsort(~pairs.kept, axis=1, kind="stable")
    number = pairs.kept.sum(1)
    for _ in range(lab.updates):
        drawn = first[rows, (rng.random((lab.seeds, lab.batch)) * number[:, None]).astype(int)]
        chosen, rejected, suffix = (a[rows, drawn] for a in (pairs.chosen, pairs.rejected, pairs.suffix))
        kind = pairs.kinds[rows, drawn]
        place = rows[..., None], kind[..., None], columns
        difference = suffix * (chosen.astype(float) - rejected)
        # log sigmoid(x) - log sigmoid(-x) = x: where the sides differ, the margin is the change of the logit.
        margin = lab.beta * (difference * (table[place] - start[place])).sum(-1)
        pull = lab.beta * _sigmoid(-margin)[..., None] * difference * (number > 0)[:, None, None]
        flat = np.ravel_multi_index(np.broadcast_arrays(*place), table.shape)
        gradient = np.bincount(flat.ravel(), pull.ravel(), table.size).reshape(table.shape)
        table += lab.rate * gradient / lab.batch
    return table


def _pairs(kinds, acted, theirs, suffix, gain, kept) -> PairTable:
    won = (gain > 0)[..., None]
    return PairTable(kinds, np.where(won, acted, theirs), np.where(won, theirs, acted), suffix, kept & (gain != 0))


def _gain(acted: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return acted.sum(-1) - theirs.sum(-1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


SEEDS = 1000
GRID = (
    *(Lab(K, tasks=T, seeds=SEEDS) for T in (40, 160) for K in (1, 2, 4, 8, 12, 16, 24)),
    *(Lab(K, samples=N, seeds=SEEDS) for N in (0, 1, 20) for K in (4, 12, 24)),
    *(Lab(K, skill=q, seeds=SEEDS) for q in (0.7, 0.9) for K in (4, 12, 24)),
)
COLUMNS = (
    "decisions", "kinds", "tasks", "samples", "skill", "method", "seeds", "greedy", "sampled", "actions",
    "ipr_minus", "low", "high", "ipr_minus_sampled", "low_sampled", "high_sampled",
)  # fmt: skip
"""Of the lab's results: a setting, a method, its rewards, and what IPR's greedy and sampled reward is above them, paired by seed."""


def rows(lab: Lab, seed: int = 0) -> list[dict]:
    """A row a method, as `COLUMNS` name them; intervals are 95 %."""
    found, cells = simulate(lab, seed), []
    for method, made in found.items():
        row = {name: getattr(lab, name) for name in COLUMNS[:5]} | {"method": method, "seeds": lab.seeds}
        row |= {name: float(values.mean()) for name, values in made.items()}
        for reward, names in (("greedy", COLUMNS[10:13]), ("sampled", COLUMNS[13:])):
            row |= zip(names, paired_difference(found["ipr"][reward].tolist(), made[reward].tolist()), strict=True)
        cells.append(row)
    return cells


def write_grid(path: Path, command: str, labs: Iterable[Lab] = GRID) -> Path:
    """The settings as a CSV file; the same bytes on each machine with this NumPy."""
    return write_csv(path, [row for lab in labs for row in rows(lab)], COLUMNS, command, f"schema {SCHEMA_VERSION}")
