"""What methods that explore from the start of a task share: their episodes, their rounds, IPR's budget."""

from __future__ import annotations

from collections.abc import Callable

from ipr_lite.ipr import round_of
from ipr_lite.methods.judge import judge_of
from ipr_lite.records import Message, Pair, Task, Trajectory
from ipr_lite.rollout import Player, stable_seed
from ipr_lite.run import Log, Run, Weights

CHUNK = 20
"""So many tasks are played at once where the branches of a task are compared."""


def round_budget(run: Run, number: int) -> int:
    """The actions that IPR takes to explore and score in a round; 0 where each method explores as its paper says."""
    if run.config.budget == "paper":
        return 0
    round_of(run, number, "score", judge_of(run))
    return run.spent([f"iteration-{number}/explore", f"iteration-{number}/score"])["env_steps"]


def explored(
    run: Run, weights: Weights, agent: str, env_steps: int, greedy_first: bool = False
) -> tuple[list[Trajectory], dict[str, int]]:
    """Episodes on the tasks of the demonstrations, one pass after another, and what they spent.

    A pass plays every task once, the last one as many as fit `env_steps` actions; one pass at least.
    Sampled at temperature 1; with `greedy_first` the first pass is greedy.
    """
    tasks = list({t.id: t.task for t in run.demonstrations()}.values())
    played: list[Trajectory] = []
    spent = total()
    rest = len(tasks)
    while rest >= 1:
        number = -(-len(played) // len(tasks))
        player = run.player(weights, 0.0 if greedy_first and not played else 1.0, agent)
        episodes = [run.start(task, stable_seed(run.config.seed, agent, number, task.id)) for task in tasks[:rest]]
        played += player.play(episodes, run.bar(f"explore {agent}"))
        spent = total(spent, cost(player))
        rest = min(len(tasks), int((env_steps - spent["env_steps"]) * len(played) / max(spent["env_steps"], 1)))
    return played, spent


def cost(player: Player) -> dict[str, int]:
    """What a player's episodes have cost so far."""
    return {"env_steps": player.actions_taken, "tokens": player.tokens_written}


def total(*amounts: dict[str, int]) -> dict[str, int]:
    """What several stages cost together."""
    return {what: sum(some[what] for some in amounts) for what in ("env_steps", "tokens")}


def in_turns(
    run: Run, number: int, play: Callable[[list[Task], int], tuple[list, dict[str, int]]]
) -> tuple[list, dict[str, int]]:
    """What `play(tasks, turn)` finds of the training tasks, and all that it spent: `CHUNK` tasks a turn, until IPR's
    actions of the round are spent; with `budget="paper"` until every task was played once."""
    tasks = list({t.id: t.task for t in run.demonstrations()}.values())
    budget, found, turn, spent = round_budget(run, number), [], 0, total()
    while spent["env_steps"] < budget if budget else turn * CHUNK < len(tasks):
        some = [tasks[(turn * CHUNK + i) % len(tasks)] for i in range(min(CHUNK, len(tasks)))]
        new, amounts = play(some, turn)
        found += new
        spent = total(spent, amounts)
        turn += 1
    return found, spent


def rounds(
    run: Run, name: str, learn: Callable[[int, Weights], tuple[Weights, Log]], start: Weights | None = None
) -> list[str]:
    """As many rounds as IPR's, from `start`, or the SFT policy: `learn(number, weights)` trains one; each is kept."""
    weights, agents = start or run.sft(), []
    for number in range(1, run.config.iterations + 1):
        agent = f"{name}-{number}"
        weights = run.adapter(run.folder / agent, run.folder / f"{agent}_log.csv", lambda: learn(number, weights))
        agents.append(agent)
    return agents


def said_from(trajectory: Trajectory, step: int) -> list[Message]:
    """The messages of an episode from a step on; one that ran out of room ends with an observation, which is left out."""
    messages = trajectory.suffix(step)
    return messages[:-1] if messages[-1]["role"] == "user" else messages


def best_over_worst(tries: list[Trajectory], gap: float) -> Pair | None:
    """The best of several episodes with one prompt over the worst, if by more than `gap`; else None."""
    acted = sorted((t for t in tries if t.steps), key=lambda t: t.reward)
    if not acted or acted[-1].reward - acted[0].reward <= gap:
        return None
    worst, best = acted[0], acted[-1]
    sides = said_from(best, 1), said_from(worst, 1)
    return Pair(best.prefix(1), *sides, "outcome", best.id, 1, None, None, best.reward, worst.reward)
