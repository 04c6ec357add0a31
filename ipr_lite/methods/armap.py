"""ARMAP (Chen et al., ICLR 2025): a reward model learned from wandering alone, without a reward and without a label.

1. The SFT policy wanders: `WANDER` sampled episodes of each training task. Nobody asks the world what they were worth.
2. The instruction of an episode is rewritten into one that it fulfils (`World.hindsight`); the paper's language model
   does it, here a rule of the world.
3. That episode is the positive for this instruction; one of the same task that did something else, the negative. The
   paper has its language model change actions; ours are changed by sampling, so that every page is the world's own.
4. The reward model learns to rank the two, L = -log sigmoid(s+ - s-) + 0.001 (s+ + s-)^2, on their last actions.

Used for Best-of-N, beside the model that was fitted to Monte Carlo (`best_of_n.py`): the same episodes, another judge.
"""

from __future__ import annotations

import random
from functools import partial

import torch
import torch.nn.functional as F

from ipr_lite import envs
from ipr_lite.engine.folder import fill_atomically
from ipr_lite.methods.best_of_n import N, best
from ipr_lite.methods.learned_rewards import last_scores
from ipr_lite.methods.method import Method, prepared
from ipr_lite.methods.reward_model import Example, RewardModel, fit
from ipr_lite.records import Message, Trajectory
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run

WANDER = 4
CENTRE = 0.001


def wandering_model(run: Run) -> RewardModel:
    """The run's reward model by hindsight, trained when first asked for."""
    folder = run.folder / "armap-model"
    if not folder.exists():
        pairs = hindsight_pairs(run, wandered(run))
        examples = [Example(pair, 1, rank) for pair in pairs]
        model = fit(run.policy, run.chat, run.fresh, examples, 0.0, run.config.seed, run.bar("reward model"))
        fill_atomically(folder, model.save)
    return RewardModel.load(folder)


def wandered(run: Run) -> list[Trajectory]:
    """Sampled episodes of the training tasks, those of one task together."""
    tasks = list({t.id: t.task for t in run.demonstrations()}.values())
    seeds = [(task, stable_seed(run.config.seed, "armap", task.id, n)) for task in tasks for n in range(WANDER)]
    player = run.player(run.sft(), 1.0, "armap")
    played = player.play([run.start(*both) for both in seeds], run.bar("wander"))
    run.count("armap-model/wander", player)
    return played


def hindsight_pairs(run: Run, played: list[Trajectory]) -> list[tuple[list[Message], list[Message]]]:
    """(positive, negative): an episode, and another of its task, both under the instruction that the first fulfils.

    Raises ValueError in a world that has no `hindsight`.
    """
    rewrite = envs.world(run.config.env).hindsight
    if rewrite is None:
        raise ValueError(
            f"armap rewrites instructions, and the world {run.config.env!r} has no rule for it: shop or house"
        )
    of_task: dict[str, list[tuple[Trajectory, object]]] = {}
    for t in played:
        env = run.env.clone()
        env.reset(options={"task": t.task})
        for action in t.actions:
            env.step(action)
        if t.steps:
            of_task.setdefault(t.id, []).append((t, env))
    pairs = []
    for task, episodes in of_task.items():
        for number, (t, env) in enumerate(episodes):
            rng = random.Random(stable_seed(run.config.seed, "hindsight", task, number))
            instruction = rewrite(env, t.task, rng)
            others = [other for other, there in episodes if there.state() != env.state()]
            if instruction and others:
                pairs.append((asked(t, instruction), asked(rng.choice(others), instruction)))
    return pairs


def asked(trajectory: Trajectory, instruction: str) -> list[Message]:
    """The episode as if this had been asked for: every page that shows the instruction shows the new one."""
    old = trajectory.task.instruction
    return [
        m | {"content": m["content"].replace(old, instruction)} if m["role"] == "user" else m
        for m in trajectory.messages
    ]


def rank(predicted: list[torch.Tensor]) -> torch.Tensor:
    """L of a positive and a negative, by what is predicted for their last actions."""
    better, worse = predicted[0][-1], predicted[1][-1]
    return -F.logsigmoid(better - worse) + CENTRE * (better + worse).square()


def by_hindsight(run: Run, agent: str, split: str) -> list[Trajectory]:
    """The best of N by the model that never saw a reward."""
    model = wandering_model(run)
    return best(run, split, agent, partial(last_scores, run, model), ("armap-model",))


ARMAP = Method("armap", f"the best of {N} by hindsight", prepared("armap"), "#661100", "$a$", by_hindsight)
