"""How good step rewards are, and what they show (paper sections 5.3 and 5.4, Figures 3 and 4).

`contrasts_sampled` takes the contrasts of a finished run's first round (agent and demonstrator act differently and end
differently) and samples very many rollouts after either action, by several scorers. From those samples, what any
number N of rollouts would have said is known without further runs: `pair_quality` draws from them.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ipr_lite.ipr import round_of
from ipr_lite.pairs import PairRule, contrast, steps_to_score
from ipr_lite.records import Trajectory, read_trajectories
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run
from ipr_lite.step_reward import ScoredStep, monte_carlo, steps_of
from ipr_lite.study.results import keep_rows, read_table

COLUMNS = ("env", "seed", "scorer", "contrast", "id", "step", "who", "terminal", "outcome", "page_score", "samples")
STEP_COLUMNS = ("env", "seed", "agent", "id", "reward", "steps", "step_rewards")
DRAWS = 200
"""How often `pair_quality` draws N of the samples of each contrast."""


def measure(
    run: Run, truth: Path, test: Path, samples: int, limit: int, agents: Sequence[str], tasks: int, command: str
):
    """Put a run's rows into the two files, of contrasts and of test episodes, unless they hold its seed already."""
    mine = {"env": run.config.env, "seed": run.config.seed}
    jobs = (
        (truth, COLUMNS, lambda: contrasts_sampled(run, samples, limit, ["base", "sft", run.select()])),
        (test, STEP_COLUMNS, lambda: step_rewards_on_test(run, agents, tasks)),
    )
    for path, columns, rows in jobs:
        if not path.exists() or mine["seed"] not in set(read_table(path, columns)["seed"]):
            keep_rows(path, rows(), columns, tuple(mine), command, lambda row: int(row["seed"]))


def contrasts_sampled(run: Run, samples: int, limit: int, scorers: Sequence[str]) -> list[dict]:
    """A row for each action (agent's, demonstrator's) of `limit` contrasts of round 1, and each scorer.

    `scorers`: `base`, `sft`, or an iterate such as `ipr-1`. A row's `samples` are the outcomes of its rollouts, counted:
    `0.5x600;1.0x400`; where the action ended the episode, its outcome once.
    """
    demonstrations, states = run.demonstrations(), run.states(run.demonstrations())
    found = contrast(demonstrations, round_of(run, 1, "explore"), run.env, PairRule.of(run.config))
    left = [c for c in found if c.kind == "step" and c.open]
    random.Random(stable_seed(run.config.seed, "contrasts")).shuffle(left)
    steps = steps_to_score(left[:limit], states)
    rows = []
    for scorer in scorers:
        player = run.player(run.agent(scorer), 1.0, scorer)
        scored = monte_carlo(steps, player, samples, stable_seed(run.config.seed, "truth"), run.bar(scorer))
        for number, (step, reward) in enumerate(zip(steps, scored, strict=True)):
            rows.append({
                "env": run.config.env, "seed": run.config.seed, "scorer": scorer, "contrast": number // 2,
                "id": step.task.id, "step": step.step, "who": step.who, "terminal": int(step.terminal),
                "outcome": float(step.outcome), "page_score": float(page_score(step)),
                "samples": _counted(reward.samples or [step.outcome]),
            })  # fmt: skip
    return rows


def page_score(step: ScoredStep) -> float:
    """AgentBoard's score of the page after an action; NaN where the world has none."""
    return step.env.page_score()


def step_rewards_on_test(run: Run, agents: Sequence[str], tasks: int) -> list[dict]:
    """A row for each agent and test task: the step rewards (frozen SFT scorer) of all actions it took, `;` between.

    The agents' test episodes must be there: `sft`, `ipr` (the chosen iterate), `eto` (its chosen round).
    """
    scorer, rows = run.player(run.sft(), 1.0, "scorer"), []
    for agent in agents:
        played = _episodes(run, agent)[:tasks]
        steps = [step for trajectory in played for step in steps_of(run.env, trajectory, "agent")]
        seed = stable_seed(run.config.seed, "test")
        rewards = iter(monte_carlo(steps, scorer, run.config.samples, seed, run.bar(agent)))
        for t in played:
            found = ";".join(f"{next(rewards).reward_mc:.4f}" for _ in range(t.steps))
            rows.append({
                "env": run.config.env, "seed": run.config.seed, "agent": agent, "id": t.id,
                "reward": float(t.reward), "steps": t.steps, "step_rewards": found,
            })  # fmt: skip
    return rows


def pair_quality(rows: pd.DataFrame, scorer: str, n: int, tau: float, truth: str | None = None, seed: int = 0) -> dict:
    """What N = `n` rollouts and the threshold `tau` make of the contrasts, against the truth.

    The truth about a contrast is the difference of the means of all samples by the scorer `truth` (default: the same
    scorer), or with "page" of the page scores. Over `DRAWS` draws for each contrast: `built`, the share of
    contrasts that become a pair (outcome and step reward agree, by more than `tau`); `wrong`, the share of the built
    pairs whose truth is the other way round (contrasts whose truth is a tie do not count); `agrees`, 1 - wrong;
    `pairs`, how many contrasts there are.
    """
    rng = np.random.default_rng(seed)
    keys = ["env", "seed", "contrast"]
    mine, theirs = (rows[rows["scorer"] == name].set_index(keys) for name in (scorer, truth or scorer))
    built = wrong = judged = total = 0
    for key in sorted(set(mine.index)):
        agent, demonstrator = (mine[mine["who"] == who].loc[key] for who in ("agent", "demonstrator"))
        if truth == "page":
            true = agent["page_score"] - demonstrator["page_score"]
        else:
            values = (theirs[theirs["who"] == who].loc[key, "samples"] for who in ("agent", "demonstrator"))
            true = np.subtract(*(np.mean(uncounted(text)) for text in values))
        draws = (rng.choice(uncounted(side["samples"]), (DRAWS, n)).mean(axis=1) for side in (agent, demonstrator))
        gain = np.subtract(*draws)
        pair = gain > tau if agent["outcome"] > demonstrator["outcome"] else gain < -tau
        total += DRAWS
        built += pair.sum()
        judged += pair.sum() * (abs(true) > 1e-9)
        wrong += (pair & (true * gain < -1e-12)).sum()
    share = wrong / judged if judged else math.nan
    return {"built": built / total, "wrong": share, "agrees": 1 - share, "pairs": total // DRAWS}


def uncounted(text: str) -> list[float]:
    """The samples that `0.5x600;1.0x400` counts."""
    found = []
    for part in text.split(";"):
        value, times = part.split("x")
        found += [float(value)] * int(times)
    return found


def _counted(samples: Sequence[float]) -> str:
    return ";".join(f"{value:.6g}x{times}" for value, times in sorted(Counter(samples).items()))


def _episodes(run: Run, agent: str) -> list[Trajectory]:
    name = agent
    if agent == "ipr":
        name = run.select()
    elif agent != "sft":
        path = run.folder / f"selected-{agent}.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: {agent} was not run there; `compare --methods {agent}` first")
        name = json.loads(path.read_text(encoding="utf-8"))["agent"]
    return read_trajectories(run.folder / "evaluations" / f"{name}-test.jsonl")
