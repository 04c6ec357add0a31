"""The originals' own files: what a folder holds of them, and the authors' trajectories played again in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ipr_lite import envs
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.importers import import_conversations
from ipr_lite.envs.people import play
from ipr_lite.records import Task, Trajectory

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
    Of several trajectories of one task, the second and later get a `key` of their own. Raises as `import_conversations` does.
    """
    by_game = {_path(task.setup["game"]): task for task in tasks if "game" in task.setup}
    by_text = {_plain(task.instruction): task for task in tasks}
    found, left, times = [], Counter(), Counter()
    for one in import_conversations(path, env.name):
        game = _path(str(one.task.setup.get("game_file") or one.task.setup.get("game") or ""))
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
            continue
        times[again.id] += 1
        if times[again.id] > 1:
            again.demonstration = f"{again.id}#{times[again.id]}"
        found.append(again)
    return found, left


def inspect(name: str, data: str | None, recorded: str | None) -> str:
    """What a folder holds of a benchmark, split by split, what it lacks, and how many of the authors' trajectories it
    can play again. Raises what the world's loader raises where nothing can be read."""
    env, lines = envs.make(name, data), []
    for split in ("train", "dev", "test"):
        try:
            found = envs.tasks(name, split, data)
            first = f"the first begins: {env.reset(options={'task': found[0]})[0][:60]!r}" if found else "none to play"
            lines.append(f"{split:5} {len(found):6,} tasks; {first}")
        except (FileNotFoundError, ValueError) as error:
            lines.append(f"{split:5} missing: {error}")
    if recorded:
        found, left = authors(recorded, env, envs.tasks(name, "train", data))
        lines.append(f"{recorded}: {len(found)} trajectories can be demonstrations")
        lines += [f"  {count} left out: {why}" for why, count in left.items()]
    return "\n".join(lines)


def _path(name: str) -> str:
    """A path that holds another's whole parts where it holds its text, whatever system wrote them."""
    return "/" + name.replace("\\", "/").strip("/") + "/"


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
