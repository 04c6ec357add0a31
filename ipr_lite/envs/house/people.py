"""People at home: they look for a thing, treat it, and put it where it belongs.

A demonstrator reads what the world says and the task. Of the game it uses only what a reader of the
task and common sense know: the kinds of things the task names, and which furniture can hold them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from ipr_lite.envs import people
from ipr_lite.envs.house.env import NOTHING, PREFIX, TOOLS, House
from ipr_lite.envs.house.game import Game
from ipr_lite.envs.house.generated import other_game
from ipr_lite.records import Task


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
    "hold": (
        "Not yet, I look around with {name} first.",
        "I keep {name} for now.",
        "Is this the right place for {name}?",
    ),
    "use": ("I turn on the light to look at it.", "With {name} in hand I use the lamp."),
}

# What the house says that was done: the verb, the thing or the furniture, and where.
_DONE = re.compile(r"You (open|close|pick up|put|move|clean|heat|cool) the (\w+ \d+)(?: [a-z/]+ the (\w+ \d+))?")


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
    treated: set[str] = field(default_factory=set)
    home: str | None = None
    last: str = ""
    blocked: bool = False

    def __post_init__(self):
        self.errand = Errand.of(self.game)
        self.fixed = self.rng.random() < self.habits.fixed_order
        self.opens_all = self.rng.random() < self.habits.opens_all
        self.forgetful = self.habits.forgets > 0 and self.rng.random() < self.habits.forgets

    # --- reading ---------------------------------------------------------------------------------

    def read(self, observation: str) -> None:
        """Take in what the world says, above all to what was done last."""
        text = observation.removeprefix(PREFIX)
        if found := re.search(r"(?:On the (.+?)|The (.+?) is open\. In it), you see (.+)\.", text):
            self.seen[found.group(1) or found.group(2)] = re.findall(r"a ([a-z]+ \d+)", found.group(3))
        if found := re.search(r"The (.+) is closed\.", text):
            self.shut.add(found.group(1))
        verb, _, place = self.last.partition(" to ")
        went = verb == "go" and place in self.game.receptacles
        self.here = place if went else self.here
        # The house does not let one go where one already is, as furniture that shares a place is.
        self.blocked = went and text == NOTHING
        if found := _DONE.match(text):
            self._note(*found.groups())

    def _note(self, verb: str, thing: str, place: str | None) -> None:
        """What somebody did to a thing, or to furniture."""
        errand = self.errand
        if verb == "open":
            self.shut.discard(thing)
        elif verb == "close":
            self.shut.add(thing)
        elif verb == "pick up":
            self.held = thing
            for names in self.seen.values():
                names[:] = [name for name in names if name != thing]
            if self.home == place and place not in dict(self._known(errand.thing)).values():
                self.home = None
        elif verb in ("put", "move"):
            self.seen.setdefault(place, []).append(thing)
            self.held, self.forgetful = None, False  # if forgotten it did not count: back to it, and treated this time
            if errand.count == 2 and _kind(place) == errand.target and _kind(thing) == errand.thing:
                self.home = place
        elif verb == errand.treatment:
            self.treated.add(thing)
        elif {verb, errand.treatment} == {"heat", "cool"}:
            self.treated.discard(thing)

    # --- deciding --------------------------------------------------------------------------------

    def act(self, observation: str) -> str:
        """The next message, after what the house answered to the last one."""
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
        if _kind(self.held) != errand.thing:
            return self._put_down()
        if errand.lamp:
            return self._use_lamp()
        if errand.treatment and not self.forgetful and self.held not in self.treated:
            return self._treat()
        return self._deliver()

    def finishes(self, message: str) -> bool:
        """To put the thing, or the second of two, where it belongs; to turn on the lamp with it in hand."""
        verb, _, rest = self.last.partition(" ")
        last = self.errand.count == 1 or self.home is not None
        return verb == "use" or verb == "put" and last and _kind(rest.partition(" in/on ")[0]) == self.errand.thing

    def look_again(self, observation: str) -> str:
        """At the place where they are, or somewhere else, with the thing in hand."""
        if self.rng.random() < 0.4:
            return self._say("hold", f"examine {self.here}")
        return self._go(self.rng.choice([r for r in self.game.receptacles if r != self.here]), "hold")

    def _fetch(self) -> str:
        for name, place in sorted(self._known(self.errand.thing), key=lambda one: one[0] not in self.treated):
            if place != self.home and not self._counts(place):
                if place != self.here:
                    return self._go(place, "return")
                if place in self.shut:
                    return self._say("open", f"open {place}")
                return self._say("take", f"take {name} from {place}", name=name)
        return self._search(self.errand.thing)

    def _known(self, kind: str) -> list[tuple[str, str]]:
        """Things of a kind, and where they were seen."""
        return [(name, place) for place, names in self.seen.items() for name in names if _kind(name) == kind]

    def _counts(self, place: str) -> bool:
        """Of two things to bring, one may stand in its place from the start: the other joins it."""
        ready = self.errand.count == 2 and _kind(place) == self.errand.target and self.home in (None, place)
        if ready:
            self.home = place
        return ready

    def _use_lamp(self) -> str:
        for name, place in self._known(self.errand.lamp):
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
        return self._put(self.home if self.home in goals else next((r for r in goals if r == self.here), goals[0]))

    def _put_down(self) -> str:
        """Somebody took what was not asked for: it goes where it may be, here if it can."""
        fitting = [r for r in self.game.receptacles if self._may_hold(r, _kind(self.held))]
        return self._put(min(fitting, key=lambda r: (r != self.here, r in self.shut)))

    def _put(self, goal: str) -> str:
        if self.here != goal:
            return self._go(goal, "carry")
        if goal in self.shut:
            return self._say("open", f"open {goal}")
        return self._say("put", f"put {self.held} in/on {goal}")

    def _search(self, kind: str) -> str:
        if self.here in self.shut and self.here not in self.seen:
            return self._say("open", f"open {self.here}")
        wide = _is_openable(self.game, self.here) and self.here not in self.shut
        if self.opens_all and wide and self.here in self.seen:
            return self._say("close", f"close {self.here}")
        fresh = [r for r in self.game.receptacles if r not in self.seen and r not in self.shut]
        fresh += [r for r in self.game.receptacles if r in self.shut and r not in self.seen]
        if not self.fixed:
            fresh.sort(key=lambda r: (not self._may_hold(r, kind), _is_openable(self.game, r)))
        if not fresh:  # it must have been overlooked
            self.seen.clear()
            return self._search(kind)
        return self._go(fresh[0], "search", thing=kind)

    def _may_hold(self, receptacle: str, kind: str) -> bool:
        return ("cancontain", f"{_kind(receptacle)}type", f"{kind}type") in self.game.static

    def _go(self, place: str, why: str, **words: str) -> str:
        return self._say(why, f"go to {place}", place=place, **words)

    def did(self, observation: str, action: str) -> None:
        """They stand and hold what they would after this action, once the house has answered it."""
        self.read(observation)
        self.last = action

    def _say(self, why: str, command: str, **words: str) -> str:
        known = {"thing": self.errand.thing, "place": self.here or "it", "name": self.held or "it", "verb": ""}
        self.last = command
        return f"Thought: {self.rng.choice(_THOUGHTS[why]).format(**known | words)}\nAction: {command}"


def _elsewhere(seed: int) -> Iterator[tuple[Task, House, random.Random]]:
    """Generated households."""
    rng = random.Random(f"house transcripts/{seed}")
    for number in count():
        game, kind = other_game(rng)
        task = Task(f"p{seed}-{number}", "house", "pretrain", game.instruction, {"game": "g", "type": kind})
        yield task, House({"g": game}, [task]), rng


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]


def _is_openable(game: Game, receptacle: str) -> bool:
    return ("openable", receptacle) in game.static


PEOPLE = people.People(
    lambda task, env, habits, rng: _Resident(env.games[task.setup["game"]], habits, rng),
    careful=Habits(),
    habitual=Habits(fixed_order=1.0, opens_all=0.6),
    keep=0.0,  # those that the step cap ended stay too: they are what a habit costs
    elsewhere=_elsewhere,
    mixed=((1, 1), (1, 0.5), (0.2, 1), (0.4, 0.2), (0.4, 0.2)),
    finishes=0.25,  # a put, or a lamp, is one action of eighteen
)
CAREFUL, HABITUAL, KEEP, SORTS = PEOPLE.careful, PEOPLE.habitual, PEOPLE.keep, PEOPLE.sorts
demonstrate, demonstrations, guide = PEOPLE.demonstrate, PEOPLE.demonstrations, PEOPLE.guide
transcripts = PEOPLE.transcripts
