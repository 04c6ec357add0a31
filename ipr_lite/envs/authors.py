"""The originals' own files: what a folder holds of them, and the authors' trajectories played again in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ipr_lite import envs
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.importers import import_conversations
from ipr_lite.envs.people import play
from ipr_lite.trajectory import Task, Trajectory

NO_TASK = "no train task like it in the data"
GOES_ON = "the world goes on where it ends"
OTHER = "another outcome here"
"""Why a trajectory cannot be used; together with the number of those that can, these add up to all."""

SAME = 0.01
"""How far the outcome here may be from the recorded one."""


class _Script:
    """A person who says what is written down."""

    def __init__(self, trajectory: Trajectory):
        self.left = list(trajectory.actions)

    def act(self, observation: str) -> str:
        if not self.left:
            raise EOFError
        return self.left.pop(0)


def authors(path: str | Path, env: TextEnv, tasks: Sequence[Task]) -> tuple[list[Trajectory], Counter]:
    """The trajectories of an SFT file of the authors as this world answers them, and why the others are left out.

    A task is found by the game's name, or by the instruction. What the world says takes the place of what was recorded,
    so that every history is one of this world; where the outcome is another than recorded, the data are not the authors'.
    Raises as `import_conversations` does.
    """
    by_game = {task.setup["game"]: task for task in tasks if "game" in task.setup}
    by_text = {_plain(task.instruction): task for task in tasks}
    found, left = [], Counter()
    for one in import_conversations(path, env.name):
        game = str(one.task.setup.get("game_file") or one.task.setup.get("game") or "")
        task = by_text.get(_plain(one.task.instruction))
        if by_game:  # many games share an instruction
            task = next((t for name, t in by_game.items() if name in game), None)
        if task is None:
            left[NO_TASK] += 1
            continue
        try:
            again = play(task, env, _Script(one))
        except EOFError:
            left[GOES_ON] += 1
            continue
        if abs(again.reward - one.reward) > SAME:
            left[OTHER] += 1
        else:
            found.append(again)
    return found, left


def inspect(name: str, data: str | None, experts: str | None) -> str:
    """What a folder holds of a benchmark, split by split, what it lacks, and how many of the authors' trajectories it
    can play again. Raises what the world's loader raises where nothing can be read."""
    env, lines = envs.make(name, data), []
    for split in ("train", "dev", "test"):
        try:
            found = envs.tasks(name, split, data)
            observation, _ = env.reset(options={"task": found[0]})
            lines.append(f"{split:5} {len(found):6,} tasks; the first begins: {observation[:60]!r}")
        except (FileNotFoundError, ValueError, IndexError) as error:
            lines.append(f"{split:5} missing: {error}")
    if experts:
        found, left = authors(experts, env, envs.tasks(name, "train", data))
        lines.append(f"{experts}: {len(found)} trajectories can be demonstrations")
        lines += [f"  {count} left out: {why}" for why, count in left.items()]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
