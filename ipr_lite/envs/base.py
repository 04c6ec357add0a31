"""The interface of a text world: a `gymnasium.Env` whose actions and observations are texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import gymnasium
import numpy as np

from ipr_lite.records import Task


class UnicodeText(gymnasium.Space):
    """Any string. `gymnasium.spaces.Text` is ASCII by default and refuses newlines and `›`."""

    def __init__(self, seed: int | np.random.Generator | None = None):
        super().__init__(shape=(), dtype=np.str_, seed=seed)

    def contains(self, x: object) -> bool:
        return isinstance(x, str)

    def sample(self, mask=None, probability=None) -> str:
        return "Action: " + "".join(self.np_random.choice(list("abc []›\n"), size=8))


class TextEnv(gymnasium.Env):
    """A deterministic text world.

    An action is the agent's whole ReAct message. `info` of `reset` and `step` holds `task` (the
    `Task`), and of `step` also `action` (the parsed environment action, None where the message has
    none), `invalid` (True where the world did not understand or accept it) and `success`.
    The reward is the outcome reward and comes once, with `terminated` or `truncated`.
    """

    metadata = {"render_modes": []}
    name: str
    system_prompt: str
    max_steps: int
    tasks: Sequence[Task]
    """What `reset()` without a task draws from."""

    def __init__(self):
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    def task_of(self, seed: int | None, options: dict | None) -> Task:
        """The task of a reset: `options["task"]`, or one drawn with `seed`.

        Raises ValueError for a task of another world.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if task is None:
            task = self.tasks[int(self.np_random.integers(len(self.tasks)))]
        self.check(task)
        return task

    def check(self, task: Task) -> None:
        """Raises ValueError for a task of another world."""
        if task.env != self.name:
            raise ValueError(f"task {task.id} is for the world {task.env!r}, not {self.name!r}")

    def parse(self, message: str) -> str | None:
        """The environment action in a ReAct message in canonical form, or None.

        Two actions are *equal* when this is equal: what the agent thought does not count.
        """
        raise NotImplementedError

    @staticmethod
    def message(action: str, thought: str = "") -> str:
        """The ReAct message that says this action: `parse` of it gives the action back."""
        return f"Thought: {thought}\nAction: {action}"

    def clone(self) -> TextEnv:
        """A copy that goes on from the same state; acting in one leaves the other as it was."""
        raise NotImplementedError

    def state(self) -> dict[str, object]:
        """What the world's answers depend on, besides the task and how many actions are left. Compare with `==`.

        Pages that look equal may stand for different states: in the shop, a page does not show what was chosen on it.
        """
        shared = {"_np_random", "_np_random_seed", "_task", "_steps", "_over"}
        own = {name: copy.copy(value) for name, value in vars(self).items() if name[0] == "_" and name not in shared}
        inner = {name: value.state() for name, value in vars(self).items() if isinstance(value, TextEnv)}
        return own | inner

    def messages(self, observation: str, task: Task) -> list[dict[str, str]]:
        """The chat that an agent sees before its first action."""
        return [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": observation}]

    def page_score(self) -> float:
        """How far an episode has come, by a rule of the world's own, in [0, 1]; NaN where it has none."""
        return math.nan
