"""People at home: they look for a thing, treat it, and put it where it belongs.

A demonstrator reads what the world says and the task. Of the game it uses only what a reader of the
task and common sense know: the kinds of things the task names, and which furniture can hold them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ipr_lite.envs import people
from ipr_lite.envs.house.env import NOTHING, PREFIX, TOOLS, House
from ipr_lite.envs.house.game import Game
from ipr_lite.envs.house.generated import other_game
from ipr_lite.trajectory import Task, Trajectory


@dataclass(frozen=True)
class Habits:
    """How a person searches; every number is a probability in [0, 1], drawn once a task.

    `fixed_order`: goes through the furniture as it is listed, whatever is sought. `opens_all`: opens
    and closes every drawer on the way, also with full hands. `forgets`: leaves out the treatment.
    The last two are drawn at every step: `wanders` goes somewhere for no reason, `fumbles` asks for
    what cannot be done.
    """

    fixed_order: float = 0.0
    opens_all: float = 0.0
    forgets: float = 0.0
    wanders: float = 0.0
    fumbles: float = 0.0


CAREFUL = Habits()
HABITUAL = Habits(fixed_order=1.0, opens_all=0.6)
SORTS = {"habitual": HABITUAL, "careful": CAREFUL}
KEEP = 0.0
"""Every habitual demonstration is kept: those that the step cap ended are what a habit costs."""


@dataclass(frozen=True)
class Errand:
    """What a task asks for, in kinds: `thing` to `target`, `count` times, after `treatment`.

    `treatment` is clean, heat, cool or none; `lamp` is the kind of lamp to use with the thing in
    hand, where the task is to look at something (then there is no `target`).
    """

    thing: str
    target: str | None
    treatment: str | None
    count: int
    lamp: str | None

    @classmethod
    def of(cls, game: Game) -> Errand:
        """Reads the six forms of ALFWorld's goals. Raises ValueError for any other."""
        kinds: dict[str, str] = {}
        facts = [literal.fact for literal in game.goal if literal.positive]
        for predicate, name, *rest in facts:
            if predicate in ("objecttype", "receptacletype"):
                kinds[name] = rest[0].removesuffix("type")
        toggled = [fact[1] for fact in facts if fact[0] == "istoggled"]
        things = [fact[1] for fact in facts if fact[0] == "objecttype" and fact[1] not in toggled]
        targets = {kinds[fact[1]] for fact in facts if fact[0] == "receptacletype"}
        done = {"isclean": "clean", "ishot": "heat", "iscool": "cool"}
        treatments = {done[fact[0]] for fact in facts if fact[0] in done}
        if not things or len({kinds[t] for t in things}) > 1 or len(targets) + bool(toggled) != 1:
            raise ValueError(f"{game.instruction!r} is none of ALFWorld's six kinds of task")
        return cls(
            kinds[things[0]],
            next(iter(targets), None),
            next(iter(treatments), None),
            len(things) if targets else 1,
            kinds[toggled[0]] if toggled else None,
        )


_THOUGHTS = {
    "search": (
        "I need to find {thing}. It may be in {place}.",
        "Where could {thing} be? I check {place}.",
        "I have not looked for {thing} at {place} yet.",
    ),
    "open": ("It is closed, so I open it.", "I open {place} to look inside.", "Let me see what is in {place}."),
    "look": ("I am already there, so I look at {place}.", "It is right here, let me see {place}."),
    "wander": ("Perhaps here.", "I try something else.", "Let me see."),
    "close": ("Nothing for me here, I close it.", "I close {place} again."),
    "take": ("There is {name}, I take it.", "I found {name} and pick it up.", "{name} is what I need."),
    "return": ("I have seen {thing} at {place}.", "There was {thing} at {place}, I go back."),
    "tool": ("I have to {verb} {name}, so I go to {place}.", "To {verb} {name} I need {place}."),
    "treat": ("Here I can {verb} {name}.", "I {verb} {name} as the task says."),
    "carry": ("I have {name}, next comes {place}.", "I bring {name} to {place}."),
    "put": ("I put {name} where it belongs.", "Here {name} goes in or on {place}."),
    "use": ("I turn on the light to look at it.", "With {name} in hand I use the lamp."),
}


@dataclass
class _Resident:
    """One person on one errand: what they have seen, what they hold, what is done."""

    game: Game
    habits: Habits
    rng: random.Random
    seen: dict[str, list[str]] = field(default_factory=dict)
    shut: set[str] = field(default_factory=set)
    here: str | None = None
    held: str | None = None
    treated: bool = False
    home: str | None = None
    last: str = ""
    blocked: bool = False

    def __post_init__(self):
        self.errand = Errand.of(self.game)
        self.fixed = self.rng.random() < self.habits.fixed_order
        self.opens_all = self.rng.random() < self.habits.opens_all
        self.treated = self.forgetful = self.habits.forgets > 0 and self.rng.random() < self.habits.forgets
        self.holds = {(fact[1], fact[2]) for fact in self.game.static if fact[0] == "cancontain"}

    # --- reading ---------------------------------------------------------------------------------

    def read(self, observation: str) -> None:
        """Take in what the world answered to the last command."""
        text = observation.removeprefix(PREFIX)
        if found := re.search(r"(?:On|In) (?:the (.+?)|it), you see (.+)\.", text):
            self.seen[found.group(1) or self.here] = re.findall(r"a ([a-z]+ \d+)", found.group(2))
        if found := re.search(r"The (.+) is closed\.", text):
            self.shut.add(found.group(1))
        verb = self.last.split(" ")[0]
        # The house does not let one go where one already is, as furniture that shares a place is.
        self.blocked = text == NOTHING and verb == "go"
        if text.startswith("You open "):
            self.shut.discard(self.here)
        elif text.startswith("You close "):
            self.shut.add(self.here)
        elif text.startswith("You pick up "):
            self.held, self.treated = self.last.removeprefix("take ").partition(" from ")[0], self.forgetful
            self.seen[self.here].remove(self.held)
        elif text.startswith(("You put ", "You move ")):
            self.seen.setdefault(self.here, []).append(self.held)
            self.held, self.home = None, None if self.forgetful else self.here
            self.forgetful = False  # it did not count: back to it, and treated this time
        elif verb in TOOLS and text.startswith("You "):
            self.treated = True

    # --- deciding --------------------------------------------------------------------------------

    def act(self, observation: str) -> str:
        """The next message, after what the house answered to the last one."""
        if self.last:
            self.read(observation)
        errand = self.errand
        if self.blocked:
            return self._say("look", f"examine {self.here}")
        if self.habits.wanders and self.rng.random() < self.habits.wanders:
            return self._go(self.rng.choice(self.game.receptacles), "wander")
        if self.habits.fumbles and self.rng.random() < self.habits.fumbles:
            thing, place = f"{errand.thing} {self.rng.randint(1, 3)}", self.here or self.game.receptacles[0]
            return self._say("wander", self.rng.choice((f"take {thing} from {place}", f"open {thing}")))
        if self.opens_all and self.here in self.shut and self.here not in self.seen:
            return self._say("open", f"open {self.here}")
        if self.held is None:
            return self._fetch()
        if errand.lamp:
            return self._use_lamp()
        if errand.treatment and not self.treated:
            return self._treat()
        return self._deliver()

    def _fetch(self) -> str:
        for place, names in self.seen.items():
            for name in names:
                if _kind(name) == self.errand.thing and place != self.home and not self._counts(name, place):
                    if place != self.here:
                        return self._go(place, "return")
                    if place in self.shut:
                        return self._say("open", f"open {place}")
                    return self._say("take", f"take {name} from {place}", name=name)
        return self._search(self.errand.thing)

    def _counts(self, name: str, place: str) -> bool:
        """Of two things to bring, one may stand in its place from the start: the other joins it."""
        ready = self.errand.count == 2 and _kind(place) == self.errand.target and self.home in (None, place)
        if ready:
            self.home = place
        return ready

    def _use_lamp(self) -> str:
        for place, names in self.seen.items():
            for name in names:
                if _kind(name) == self.errand.lamp:
                    if place == self.here:
                        return self._say("use", f"use {name}")
                    return self._go(place, "return", thing=self.errand.lamp)
        return self._search(self.errand.lamp)

    def _treat(self) -> str:
        verb = self.errand.treatment
        kinds = [kind.removesuffix("type") for kind in TOOLS[verb][1]]
        tool = next(r for r in self.game.receptacles if _kind(r) in kinds)
        if self.here == tool:
            return self._say("treat", f"{verb} {self.held} with {tool}", verb=verb)
        return self._go(tool, "tool", verb=verb)

    def _deliver(self) -> str:
        goals = [r for r in self.game.receptacles if _kind(r) == self.errand.target]
        goal = self.home if self.home in goals else next((r for r in goals if r == self.here), goals[0])
        if self.here != goal:
            return self._go(goal, "carry")
        if goal in self.shut:
            return self._say("open", f"open {goal}")
        return self._say("put", f"put {self.held} in/on {goal}")

    def _search(self, kind: str) -> str:
        if self.here in self.shut and self.here not in self.seen:
            return self._say("open", f"open {self.here}")
        if (
            self.opens_all
            and self.here in self.seen
            and _is_openable(self.game, self.here)
            and self.here not in self.shut
        ):
            return self._say("close", f"close {self.here}")
        fresh = [r for r in self.game.receptacles if r not in self.seen and r not in self.shut]
        fresh += [r for r in self.game.receptacles if r in self.shut and r not in self.seen]
        if not self.fixed:
            fresh.sort(key=lambda r: (not self._may_hold(r, kind), _is_openable(self.game, r)))
        if not fresh:
            raise RuntimeError(f"{kind} is nowhere in this house: {self.game.instruction}")
        return self._go(fresh[0], "search", thing=kind)

    def _may_hold(self, receptacle: str, kind: str) -> bool:
        return (f"{_kind(receptacle)}type", f"{kind}type") in self.holds

    def _go(self, place: str, why: str, **words: str) -> str:
        message = self._say(why, f"go to {place}", place=place, **words)
        self.here = place
        return message

    def did(self, action: str) -> None:
        """They stand and hold what they would after this action, once the house has answered it."""
        self.last = action
        if action.startswith("go to "):
            self.here = action.removeprefix("go to ")

    def _say(self, why: str, command: str, **words: str) -> str:
        known = {"thing": self.errand.thing, "place": self.here or "it", "name": self.held or "it", "verb": ""}
        self.last = command
        return f"Thought: {self.rng.choice(_THOUGHTS[why]).format(**known | words)}\nAction: {command}"


def demonstrate(task: Task, env: House, habits: Habits, rng: random.Random) -> Trajectory:
    """One whole episode of a person with these habits; the environment is left at its end."""
    return people.play(task, env, _Resident(env.games[task.setup["game"]], habits, rng))


def guide(task: Task, env: House) -> people.Person:
    """A careful person to ask for a hint."""
    return _Resident(env.games[task.setup["game"]], CAREFUL, random.Random(task.id))


def demonstrations(
    tasks: Sequence[Task], env: House, habits: Habits, seed: int, keep: float = KEEP
) -> list[Trajectory]:
    """One demonstration for each task, less those whose reward is under `keep` (`people.one_each`)."""
    return people.one_each(demonstrate, tasks, env, habits, seed, keep)


def transcripts(n: int, seed: int) -> Iterator[Trajectory]:
    """`n` episodes of people of all sorts in generated households, for the base model's corpus."""
    rng = random.Random(f"house transcripts/{seed}")
    for number in range(n):
        game, kind = other_game(rng)
        task = Task(f"p{seed}-{number}", "house", "pretrain", game.instruction, {"game": "g", "type": kind})
        trajectory = demonstrate(task, House({"g": game}, [task]), _someone(rng), rng)
        trajectory.agent, trajectory.seed = "transcript", seed
        yield trajectory


def _someone(rng: random.Random) -> Habits:
    if rng.random() < 0.3:
        return Habits()
    return Habits(
        fixed_order=rng.random(),
        opens_all=rng.random() * 0.5,
        forgets=rng.random() if rng.random() < 0.2 else 0.0,
        wanders=rng.uniform(0, 0.2) if rng.random() < 0.4 else 0.0,
        fumbles=rng.uniform(0, 0.2) if rng.random() < 0.4 else 0.0,
    )


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]


def _is_openable(game: Game, receptacle: str) -> bool:
    return ("openable", receptacle) in game.static
