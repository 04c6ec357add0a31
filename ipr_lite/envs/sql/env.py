"""The database: InterCodeSQL on SQLite, MySQL's dialect emulated.

An agent asks a database until it submits; its last result is held against the gold query's. What a
message means and what comes back follows IPR (`eval_agent/envs/intercode_sql_env.py`) and InterCode.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.envs.sql.mysql.schema import SQLError
from ipr_lite.envs.sql.reward import answer_reward
from ipr_lite.records import Task

PREFIX = "Observation: "
SUBMIT = "submit"
LONGEST = 350
NOT_UNDERSTOOD = (
    'I don\'t understand your input.\n Your input shoud include the key world "Action:".\n If you want to perform '
    "a query operation, please use the following format:\n Action: \n```sql\nthe mysql code\n```. And the action "
    "should be executable and should not contain natural language.\n If you have got the final answer, please use "
    'the following format:\n Action: submit. Remember your output should contain only one "Action:" part.'
)


class SQL(TextEnv):
    """InterCodeSQL in text. One episode is one question; reward in [-1, 1] when it is submitted, else 0.

    `databases` by the name that a task's `setup["db"]` gives; `setup["gold"]` is the gold query.
    `tasks` are those that `reset()` draws from. Nothing that an agent writes changes a database.
    """

    name = "sql"
    system_prompt = (
        "You answer a question with a MySQL database. Reply with a Thought and an Action: one ```sql query, or submit."
    )
    max_steps = 10

    def __init__(self, databases: Mapping[str, Database], tasks: Sequence[Task]):
        super().__init__()
        self.databases, self.tasks = databases, tuple(tasks)
        self._task: Task | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Starts `options["task"]`, or a task drawn with `seed`. Returns the question and the task.

        Raises ValueError for a task of another world or of a database that is not there.
        """
        task = self.task_of(seed, options)
        if task.setup.get("db") not in self.databases:
            raise ValueError(f"task {task.id}: no database {task.setup.get('db')!r} in this world")
        if not isinstance(task.setup.get("gold"), str):
            raise ValueError(f"task {task.id}: setup.gold must be the gold query, a text")
        self._task, self._last, self._steps, self._over = task, None, 0, False
        return task.instruction, {"task": task}

    def parse(self, message: str) -> str | None:
        """`submit`, or the first line between ```sql and ```: the wrapper runs no more than that."""
        found = re.search(r"Action:\s?(.*)", message.strip(), re.DOTALL)
        if not found:
            return None
        if SUBMIT in found.group(1):
            return SUBMIT
        code = re.search(r"```sql(.*?)```", found.group(1), re.DOTALL)
        return code.group(1).strip().split("\n")[0] or None if code else None

    @staticmethod
    def message(action: str, thought: str = "") -> str:
        """Queries stand between ```sql and ```, as the wrapper wants them."""
        return TextEnv.message(SUBMIT if action.lower() == SUBMIT else f"\n```sql\n{action}\n```", thought)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Takes a whole message; see `TextEnv`. Raises RuntimeError outside an episode."""
        if self._task is None or self._over:
            raise RuntimeError("no question is open: call reset() before step()")
        query = self.parse(action)
        info = {"task": self._task, "action": query, "invalid": query is None, "success": False}
        observation, reward, submitted = NOT_UNDERSTOOD, 0.0, query == SUBMIT
        if submitted:
            reward, observation = answer_reward(self._last, self._gold_rows()), str(self._last)
            info["success"] = reward == 1
        elif query is not None:
            observation, info["invalid"] = self._ask(query)
        self._steps += 1
        self._over = submitted or self._steps >= self.max_steps
        return PREFIX + observation, reward, submitted, self._over and not submitted, info

    def clone(self) -> SQL:
        """A copy of the episode; databases and tasks are shared."""
        other = copy.copy(self)
        other._np_random = copy.deepcopy(self._np_random)
        return other

    def _ask(self, query: str) -> tuple[str, bool]:
        """What the database answers, cut as the wrapper cuts it, and whether it is an error."""
        try:
            self._last = self.databases[self._task.setup["db"]].query(query)
            text, failed = str(self._last), False
        except SQLError as error:
            self._last = text = f"Error executing query: {error}"
            text, failed = (text if "Unknown" in text else text + "\n"), True
        return (text[:LONGEST] + "..." if len(text) > LONGEST else text), failed

    def _gold_rows(self) -> list[tuple]:
        try:
            return self.databases[self._task.setup["db"]].query(self._task.setup["gold"])
        except SQLError:
            return []  # as InterCode: some gold queries fail in MySQL 8
