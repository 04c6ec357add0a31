"""People at a database: they look what is there, write the query, and submit what came back.

The sketch of a task says what is asked, not what the database calls it: names are found by looking
(SHOW TABLES, DESC), or guessed, which is the habit.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import sqlglot
from sqlglot import exp

from ipr_lite.envs import people
from ipr_lite.envs.sql.env import PREFIX, SQL
from ipr_lite.envs.sql.generated import CONCEPTS, other_world, plural
from ipr_lite.envs.sql.mysql.database import Database
from ipr_lite.envs.sql.questions import questions, resolve
from ipr_lite.records import Task


@dataclass(frozen=True)
class Habits:
    """How a person asks; every number is a probability in [0, 1], drawn once a task.

    `guesses`: writes the query before having looked. `insists`: after an error tries another name
    instead of looking. `any_order`, `repeats`: leaves out ORDER BY and DISTINCT. `slips`: asks for
    something else than was wanted. `gives_up`: submits after an error.
    """

    guesses: float = 0.0
    insists: float = 0.0
    any_order: float = 0.0
    repeats: float = 0.0
    slips: float = 0.0
    gives_up: float = 0.0


_THOUGHTS = {
    "tables": ("First I look which tables there are.", "I should see the tables before I ask.", "Which tables does this database have?"),
    "describe": ("I need the columns of {name}.", "How does {name} name its columns?", "I look at {name} before I use it."),
    "ask": ("Now I can write the query.", "I know the names, so I ask.", "This should answer the question."),
    "guess": ("I write the query at once.", "The names should be the usual ones.", "I guess how this is called."),
    "again": ("That name was wrong, I try another.", "Perhaps it is called something else.", "Another name may work."),
    "submit": ("The result answers the question.", "I have what was asked for.", "That is the answer, I submit it."),
    "check": ("I look at {name} once more.", "First I check {name} again.", "Did I see all of {name}?"),
    "give up": ("I do not get further, so I submit.", "This has to do."),
}  # fmt: skip


class _Analyst:
    """One person on one question: what they know of the names, what they tried."""

    def __init__(self, task: Task, habits: Habits, rng: random.Random):
        self.rng = rng
        self.sketch: str = task.setup.get("sketch") or _sketch_of(task.setup["gold"])
        draw = {name: rng.random() < chance for name, chance in vars(habits).items()}
        self.guesses, self.insists, self.gives_up = draw["guesses"], draw["insists"], draw["gives_up"]
        if draw["any_order"] and " LIMIT " not in self.sketch:
            self.sketch = re.sub(r" ORDER BY .*", "", self.sketch)
        if draw["repeats"]:
            self.sketch = self.sketch.replace("DISTINCT ", "")
        if draw["slips"]:
            self.sketch = _slip(self.sketch, rng)
        self.tables: list[str] | None = None
        self.columns: dict[str, list[str]] = {}
        self.wrong: set[tuple[str, str]] = set()
        self.used: dict[str, str] = {}
        self.last = ""

    def act(self, observation: str) -> str:
        """The next message, after what the database answered to the last one."""
        if answered := self.read(observation):
            return self._say("submit", "submit")
        if answered is not None:
            if self.gives_up and self.rng.random() < 0.5:
                return self._say("give up", "submit")
            if not self.insists or self.rng.random() < 0.15:
                self.guesses = False
        if not self.guesses and (message := self._look()):
            return message
        query = resolve(self.sketch, self._name)
        return self._say("again" if self.wrong and self.guesses else "guess" if self.guesses else "ask", query)

    def finishes(self, message: str) -> bool:
        """A submission, right or wrong."""
        return self.last == "submit"

    def look_again(self, observation: str) -> str:
        """At the tables, or at one of them."""
        known = sorted(self.columns)
        if not known or self.rng.random() < 0.3:
            return self._say("check", "SHOW TABLES", name="the list of tables")
        name = self.rng.choice(known)
        return self._say("check", f"DESC {name}", name=name)

    def read(self, observation: str) -> bool | None:
        """What the database says: True where it answers their own query, False where it does not, None for a look."""
        if self.last == "SHOW TABLES":
            self.tables = re.findall(r"\('([^']+)',\)", observation)
        elif self.last.startswith("DESC "):
            if found := re.findall(r"\('([^']+)', '", observation):
                self.columns[self.last[5:]] = found
        elif self.last:
            return self._is_answer(observation.removeprefix(PREFIX))
        return None

    def _is_answer(self, text: str) -> bool:
        """Of an error, notes which name was wrong."""
        found = re.search(r"Table '[^.']*\.([^']+)'|Unknown column '(?:[^.']*\.)?([^']+)'", text)
        if found:
            name = found.group(1) or found.group(2)
            wrong = {(r, n) for r, n in self.used.items() if n.lower() == name.lower()}
            self.wrong |= wrong
            if not wrong:
                self.guesses = False
        return text.startswith("[")

    def _look(self) -> str | None:
        """The next thing to look at before the query can be written, if there is one."""
        if self.tables is None:
            return self._say("tables", "SHOW TABLES")
        for noun in self._nouns():
            table = self._name(noun)
            if table not in self.columns and table in self.tables:
                return self._say("describe", f"DESC {table}", name=table)
        return None

    def _nouns(self) -> list[str]:
        return list(dict.fromkeys(re.findall(r"<([^<>.]+)", self.sketch)))

    def _name(self, reference: str) -> str:
        """The name of a table or column: what was seen, or the likeliest that did not fail."""
        noun, _, part = reference.partition(".")
        if part == "#" or part.startswith("@"):
            return f"{noun if part == '#' else part[1:]}_id"
        candidates = [noun, plural(noun), f"{noun}_list"] if not part else list(_names(part))
        known = self.tables if not part else self.columns.get(self.used.get(noun, ""))
        seen = [name for name in candidates if known is not None and name in known]
        fresh = [name for name in candidates if (reference, name) not in self.wrong]
        if reference in self.used and self.used[reference] in (seen or fresh):
            return self.used[reference]
        self.used[reference] = (seen or self._likeliest(fresh) or candidates)[0]
        return self.used[reference]

    def _likeliest(self, names: list[str]) -> list[str]:
        """The usual name first, but not always."""
        return names if len(names) < 2 or self.rng.random() < 0.6 else self.rng.sample(names, len(names))

    def _say(self, why: str, action: str, **words: str) -> str:
        self.last = action
        return SQL.message(action, self.rng.choice(_THOUGHTS[why]).format(**words))

    def did(self, observation: str, action: str) -> None:
        """Another's look is as good as their own; another's query is not their answer."""
        self.read(observation)
        found = re.fullmatch(r"(?:DESC|DESCRIBE)\s+`?(\w+)`?;?", action.strip(), re.IGNORECASE)
        shown = re.fullmatch(r"SHOW\s+TABLES;?", action.strip(), re.IGNORECASE)
        self.last = f"DESC {found.group(1)}" if found else "SHOW TABLES" if shown else ""


def _names(part: str) -> Sequence[str]:
    return CONCEPTS[part].names if part in CONCEPTS else (part,)


def _sketch_of(query: str) -> str:
    """A query of the originals' as a sketch whose tables are to be looked at; names are as they are."""
    tables = dict.fromkeys(table.name for table in sqlglot.parse_one(query, read="mysql").find_all(exp.Table))
    for table in tables:
        query = re.sub(rf"\b{re.escape(table)}\b(?!\.)", f"<{table}>", query, count=1)
    return query


def _slip(sketch: str, rng: random.Random) -> str:
    """Something else than was asked for."""
    swaps = [
        ("AVG(", "MAX("), ("MAX(", "AVG("), ("SUM(", "AVG("), (" DESC", " ASC"), (" ASC", " DESC"), (" > ", " < "),
        (" < ", " > "),
    ]  # fmt: skip
    fitting = [(a, b) for a, b in swaps if a in sketch]
    if fitting and rng.random() < 0.7:
        return sketch.replace(*rng.choice(fitting), 1)
    if " WHERE " in sketch and rng.random() < 0.5:
        return re.sub(r" WHERE .*?(?= GROUP| ORDER|$)", "", sketch)
    return sketch.removesuffix(" LIMIT 1")


def _elsewhere(seed: int, each: int = 30) -> Iterator[tuple[Task, SQL, random.Random]]:
    """Questions about generated databases, `each` about one."""
    rng = random.Random(f"sql transcripts/{seed}")
    for number in count():
        if number % each == 0:
            world = other_world(rng)
            database = Database(world.bytes(), name=world.name)
            env = SQL({world.name: database}, ())
            asked = questions(world, rng, each, "pretrain", f"p{seed}-{number}", database)
        yield rng.choice(asked), env, rng


PEOPLE = people.People(
    lambda task, env, habits, rng: _Analyst(task, habits, rng),
    careful=Habits(),
    habitual=Habits(guesses=0.6, insists=0.5, any_order=0.3, repeats=0.3, gives_up=0.3),
    keep=0.0,  # the paper: 1; failures show what a guess costs
    elsewhere=_elsewhere,
    mixed=((1, 1), (1, 1), (1, 0.6), (1, 0.6), (0.5, 0.5), (0.4, 0.6)),
)
CAREFUL, HABITUAL, KEEP, SORTS = PEOPLE.careful, PEOPLE.habitual, PEOPLE.keep, PEOPLE.sorts
demonstrate, demonstrations, guide = PEOPLE.demonstrate, PEOPLE.demonstrations, PEOPLE.guide
transcripts = PEOPLE.transcripts
