"""AgentRM (Xia et al., ACL 2025): the policy stays as it is, and a reward model searches with it, a step at a time.

Of each task a beam of `WIDTH` episodes is played (the paper: 5 of 5 branches). In every step
1. the SFT policy writes `BRANCH` actions after each episode of the beam; of equal ones, one is kept;
2. each is tried in a copy of the world;
3. the `WIDTH` that the judge likes best go on, until none promises more than the best episode that has ended.
That one is the answer; nobody asks the world for its reward before. The judge is the learned step reward model
(`reward_model.py`); the paper's was likewise fitted to values of rollouts, from a search tree. For its other use,
Best-of-N, see `best_of_n.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ipr_lite.envs.base import TextEnv
from ipr_lite.methods.learned_rewards import reward_model
from ipr_lite.methods.method import Method, kept, prepared
from ipr_lite.records import Message, Task, Trajectory
from ipr_lite.rollout import Episode, stable_seed, take
from ipr_lite.run import Run

WIDTH, BRANCH = 2, 5


@dataclass(frozen=True)
class Node:
    """An episode of a beam: the world after its messages; what the judge thinks of its last action; how many actions the
    world refused; reward and success once it has ended."""

    task: Task
    env: TextEnv
    messages: list[Message]
    value: float = 0.0
    invalid: int = 0
    end: tuple[float, bool] | None = None

    def episode(self, seed: int) -> Episode:
        """To be played for one action more."""
        return Episode(self.env, self.task, self.messages, seed, _at_once)

    def trajectory(self, agent: str) -> Trajectory:
        """The episode, ended."""
        return Trajectory(self.task, self.messages, *self.end, agent, extra={"invalid": self.invalid})


def _at_once(message: str) -> bool:
    return True


def by_the_model(run: Run, nodes: list[Node]) -> list[float]:
    """What the learned step reward model predicts for the last action of each."""
    model = reward_model(run)
    said = [node.messages[: None if node.end else -1] for node in nodes]
    return [values[-1] for values in model.predict(run.policy, run.chat, said)]


def search(run: Run, tasks: list[Task], agent: str, judge: Callable, width: int = WIDTH, branch: int = BRANCH):
    """The episode that each task's beam finds, and who played; of a beam without an end, its start, with reward 0."""
    player = run.player(run.sft(), 1.0, agent)
    starts = [run.start(task, 0) for task in tasks]
    beams = {start.task.id: [Node(start.task, start.env, start.messages)] for start in starts}
    best = {task: replace(beam[0], end=(0.0, False), value=-math.inf) for task, beam in beams.items()}
    while now := [node for beam in beams.values() for node in beam]:
        each = [(node, n) for node in now for n in range(branch)]
        episodes = [node.episode(stable_seed(run.config.seed, agent, node.messages, n)) for node, n in each]
        written = player.play(episodes, run.bar(agent))
        grown = [n for i, node in enumerate(now) for n in children(node, written[i * branch : (i + 1) * branch])]
        beams = {task: [] for task in beams}
        for node, value in zip(grown, judge(run, grown), strict=True):
            node, task = replace(node, value=value), node.task.id
            if node.end is None:
                beams[task].append(node)
            elif value > best[task].value:
                best[task] = node
        for task, beam in beams.items():
            promising = [node for node in beam if node.value > best[task].value]
            beams[task] = sorted(promising, key=lambda node: -node.value)[:width]
    return [best[task.id].trajectory(agent) for task in tasks], player


def children(node: Node, written: list[Trajectory]) -> list[Node]:
    """The world after each of the different actions that were written; what the step cap cuts off leads nowhere."""
    found: dict[str | None, Node | None] = {}
    for t in written:
        action = node.env.parse(t.messages[-1]["content"])
        if action in found or t.extra.get("overflow"):
            continue
        env, message = node.env.clone(), t.messages[-1]
        observation, reward, terminated, truncated, info = take(env, t.task, t.steps, message["content"])
        end = (reward, info["success"]) if terminated else None
        answer = [] if end else [{"role": "user", "content": observation}]
        refused = node.invalid + bool(info["invalid"])
        found[action] = (
            None if truncated else Node(node.task, env, [*node.messages, message, *answer], 0.0, refused, end)
        )
    return [child for child in found.values() if child]


def searched(judge: Callable, run: Run, agent: str, split: str) -> list[Trajectory]:
    """`Method.play`: the tasks of a split by beam search; kept in the run's folder."""

    def play():
        reward_model(run)  # its labels are part of what the search costs
        before = run.spent(["reward-model"])
        found, player = search(run, run.tasks(split), agent, judge)
        tokens = player.tokens_written + before["tokens"]
        run.spend(f"{agent}/1", env_steps=player.actions_taken + before["env_steps"], tokens=tokens)
        return found

    return kept(run, agent, split, play)


AGENTRM = Method(
    "agentrm", "a beam by the model", prepared("agentrm"), "#2e8b57", "$b$", partial(searched, by_the_model)
)
