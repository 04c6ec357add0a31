"""The household: ALFWorld's text games without TextWorld, Fast Downward or Java.

What actions need, change and say follows the domain and grammar that the released games embed
(json_2.1.1: `put X in/on Y`), as their engine plays them, quirks included; the wrapping of messages
follows IPR (`eval_agent/envs/alfworld_env.py`). `moves=True` gives ALFWorld 0.4's `move X to Y`.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.house.game import FLUENTS, Fact, Game, Literal
from ipr_lite.records import Task

PREFIX = "Observation: "
NO_ACTION = "Observation: Error Input. Your input must contains 'Action: '"
NOTHING = "Nothing happens."
AGENT = "agent1"
TOOLS = {
    "clean": ("cleanable", ("sinktype", "sinkbasintype")),
    "heat": ("heatable", ("microwavetype",)),
    "cool": ("coolable", ("fridgetype",)),
}
KNIVES = ("knifetype", "butterknifetype")


class House(TextEnv):
    """ALFWorld in text. One episode is one game: reward 1 the moment its goal holds, else 0.

    `games` by the name that a task's `setup["game"]` gives; `tasks` are those that `reset()` draws
    from. After `max_steps` actions without a win the episode is truncated.
    """

    name = "house"
    system_prompt = (
        "You are a household robot. Reply with a Thought and an Action. Actions: go to, open, close, "
        "take ... from, put ... in/on, clean/heat/cool/slice ... with, use, examine, look, inventory."
    )
    max_steps = 20

    def __init__(self, games: Mapping[str, Game], tasks: Sequence[Task], moves: bool = False):
        super().__init__()
        self.games, self.tasks, self.moves = games, tuple(tasks), moves
        self._task: Task | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Starts `options["task"]`, or a task drawn with `seed`. Returns the room and the task.

        Raises ValueError for a task of another world or of a game that is not there.
        """
        task = self.task_of(seed, options)
        game = self.games.get(task.setup.get("game"))
        if game is None:
            raise ValueError(f"task {task.id}: no game {task.setup.get('game')!r} in this household world")
        self._task, self._game, self._map = task, game, _map(game)
        # Where the agent stands and what it holds change most often and are kept aside.
        self._here = next(fact[2] for fact in game.fluent if fact[0] == "atlocation")
        self._held = next((fact[2] for fact in game.fluent if fact[0] == "holds"), None)
        self._facts = {fact for fact in game.fluent if fact[0] not in ("atlocation", "holds")}
        self._left: frozenset[Fact] = frozenset()
        self._steps, self._over = 0, False
        return f"{self._room(game.receptacles)}\n\nYour task is to: {game.instruction}", {"task": task}

    def parse(self, message: str) -> str | None:
        """The command after the first `Action:`, as IPR's wrapper reads it."""
        found = re.search(r"Action:\s?(.*)", message.strip(), re.DOTALL)
        return found.group(1).strip() if found else None

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Takes a whole message; see `TextEnv`. Raises RuntimeError outside an episode."""
        if self._task is None or self._over:
            raise RuntimeError("nobody is at home: call reset() before step()")
        command = self.parse(action)
        info = {"task": self._task, "action": command, "invalid": command is None, "success": False}
        observation = NO_ACTION
        if command is not None:
            text = self.act(command)
            info["invalid"] = text == NOTHING
            # IPR's wrapper cuts the number of the place, which means nothing to a player.
            observation = PREFIX + re.sub(r"^You arrive at loc \d+\. ", "", text)
        won = info["success"] = not info["invalid"] and self.won()
        self._steps += 1
        self._over = won or self._steps >= self.max_steps
        return observation, float(won), won, self._over and not won, info

    def clone(self) -> House:
        """A copy of the episode; the games and tasks are shared."""
        other = copy.copy(self)
        other._facts = set(self._facts) if self._task is not None else set()
        other._np_random = copy.deepcopy(self._np_random)
        return other

    def state(self) -> dict[str, object]:
        """Where the agent stands, what it holds, what is open or clean or where, and what it has left behind."""
        return {"here": self._here, "held": self._held, "facts": set(self._facts), "left": self._left}

    # --- the engine -----------------------------------------------------------------------------

    def act(self, command: str) -> str:
        """The engine's answer to a command, which must be exact; `NOTHING` where it cannot be done."""
        if command == "look":
            return self._look()
        if command == "inventory":
            return f"You are carrying: {_a(self._held)}." if self._held else "You are not carrying anything."
        if "\n" in command:
            return NOTHING  # no pattern matches, but some look at every `from` in it for every other
        for pattern, method in _COMMANDS:
            found = pattern.fullmatch(command)
            if found and (text := method(self, *found.groups())) is not None:
                return text
        return NOTHING

    def won(self) -> bool:
        """Does the goal hold now?"""
        facts = _by_predicate(fact for fact in self._facts if fact[0] in self._map.watched)
        facts["atlocation"] = {("atlocation", AGENT, self._here)}
        facts["holds"] = {("holds", AGENT, self._held)} if self._held else set()
        dynamic = self._map.dynamic
        return any(next(_bindings(dynamic, facts, start), None) is not None for start in self._map.starts)

    def admissible(self) -> list[str]:
        """Every command that would be answered with something else than `NOTHING`, sorted."""
        receptacles, objects = self._game.receptacles, self._game.objects
        held = self._held
        commands = ["look", "inventory"]
        commands += [f"{verb} {r}" for r in receptacles for verb in ("go to", "open", "close", "examine")]
        commands += [f"{verb} {o}" for o in objects for verb in ("use", "examine")]
        commands += [f"take {o} from {r}" for o in objects for r in receptacles]
        if held:
            put = "move {} to {}" if self.moves else "put {} in/on {}"
            commands += [put.format(held, r) for r in receptacles]
            commands += [f"{verb} {held} with {r}" for verb in TOOLS for r in receptacles]
            commands += [f"slice {o} with {held}" for o in objects]
        possible = []
        for command in commands:
            trial = copy.copy(self)
            trial._facts = set(self._facts)
            if trial.act(command) != NOTHING:
                possible.append(command)
        return sorted(possible)

    def _go(self, receptacle: str) -> str | None:
        place = self._map.place.get(receptacle)
        if place is None or place == self._here:  # the engine drops actions that change nothing
            return None
        self._here = place
        return f"You arrive at {receptacle if self.moves else place}. {self._contents(receptacle)}"

    def _open(self, receptacle: str) -> str | None:
        if not self._reach(receptacle) or not self._is("openable", receptacle) or self._is("opened", receptacle):
            return None
        self._facts.add(("opened", receptacle))
        return f"You open the {receptacle}. {self._contents(receptacle)}"

    def _close(self, receptacle: str) -> str | None:
        if not self._reach(receptacle) or not self._is("openable", receptacle) or not self._is("opened", receptacle):
            return None
        self._facts.remove(("opened", receptacle))
        return f"You close the {receptacle}."

    def _take(self, thing: str, receptacle: str) -> str | None:
        inside = ("inreceptacle", thing, receptacle)
        if self._held or not self._is("pickupable", thing) or inside not in self._facts:
            return None
        if not self._reach(receptacle) or self._shut(receptacle):
            return None
        self._facts -= {inside, ("objectatlocation", thing, self._here)}
        self._held = thing
        self._left |= {inside}
        return f"You pick up the {thing} from the {receptacle}."

    def _put(self, thing: str, receptacle: str) -> str | None:
        if self._held != thing or not self._reach(receptacle) or self._shut(receptacle):
            return None
        kinds = ((r, o) for r in self._map.kinds[receptacle] for o in self._map.kinds[thing])
        if not any(self._is("cancontain", *pair) for pair in kinds):
            return None
        inside = ("inreceptacle", thing, receptacle)
        self._facts |= {inside, ("objectatlocation", thing, self._here)}
        self._held = None
        self._left -= {inside}
        if self.moves:
            return f"You move the {thing} to the {receptacle}."
        return f"You put the {thing} in/on the {receptacle}."

    def _place_by(self, moves: bool, thing: str, receptacle: str) -> str | None:
        return self._put(thing, receptacle) if moves == self.moves else None

    def _treat(self, verb: str, thing: str, receptacle: str) -> str | None:
        """Clean, heat or cool what is held. The fridge and the microwave need not be open."""
        able, kinds = TOOLS[verb]
        if self._held != thing or not self._is(able, thing) or not self._reach(receptacle):
            return None
        if not any(kind in kinds for kind in self._map.kinds[receptacle]):
            return None
        if verb == "clean":
            self._facts.add(("isclean", thing))
        else:
            now, before = ("ishot", "iscool") if verb == "heat" else ("iscool", "ishot")
            self._facts.add((now, thing))
            self._facts.discard((before, thing))
        return f"You {verb} the {thing} using the {receptacle}."

    def _use(self, thing: str) -> str | None:
        if not self._is("toggleable", thing):
            return None
        if not any(("inreceptacle", thing, r) in self._facts for r in self._nearby()):
            return None
        self._facts.add(("istoggled", thing))
        return f"You turn on the {thing}."  # always: nothing in the domain ever clears isToggled

    def _slice(self, thing: str, knife: str) -> str | None:
        if self._held != knife or not any(kind in KNIVES for kind in self._map.kinds[knife]):
            return None
        if not self._is("sliceable", thing) or ("objectatlocation", thing, self._here) not in self._facts:
            return None
        self._facts.add(("issliced", thing))
        return f"You sliced the {thing} with the {knife}."

    def _examine(self, what: str) -> str | None:
        if self._reach(what):
            return self._contents(what)
        return self._describe(what) if what == self._held else None

    # --- what is seen ----------------------------------------------------------------------------

    def _contents(self, receptacle: str) -> str:
        if self._shut(receptacle):
            return f"The {receptacle} is closed."
        inside = [_a(o) for o in self._game.objects if ("inreceptacle", o, receptacle) in self._facts]
        if self._is("openable", receptacle):
            return f"The {receptacle} is open. In it, you see {_listed(inside)}."
        return f"On the {receptacle}, you see {_listed(inside)}."

    def _describe(self, thing: str) -> str:
        if self._is("isreceptacleobject", thing):
            inside = [_a(o) for o in self._game.objects if self._is("inreceptacleobject", o, thing)]
            return f"This is a normal {thing}. In it, you see {_listed(inside)}."
        clean, sliced = self._is("isclean", thing), self._is("issliced", thing)
        warmth = "hot" if self._is("ishot", thing) else "cool" if self._is("iscool", thing) else ""
        if warmth == "cool" and not clean and not sliced:
            warmth = "cold"
        states = " and ".join(filter(None, (warmth, clean and "clean")))
        if states:
            return f"This is a {states} {'sliced ' * sliced}{thing}."
        if self._is("toggleable", thing) and self._is("istoggled", thing):
            return f"This {thing} is on."
        if sliced and self._is("sliceable", thing):
            return f"This is a sliced {thing}."
        return f"There's nothing special about {thing}."

    def _look(self) -> str:
        nearby = self._nearby()
        if not nearby:
            return self._room([])
        # The engine knows that something is *not* in a receptacle only after it was taken out of it.
        beside = [
            _a(o) for o in self._game.objects
            if ("objectatlocation", o, self._here) in self._facts and any(("inreceptacle", o, r) in self._left for r in nearby)
        ]  # fmt: skip
        return f"You are facing the {_listed(nearby)}. Next to it, you see {_listed(beside)}."

    def _room(self, receptacles: Sequence[str]) -> str:
        seen = _listed([_a(r) for r in receptacles])
        return f"You are in the middle of a room. Looking quickly around you, you see {seen}."

    # --- what holds ------------------------------------------------------------------------------

    def _is(self, *fact: str) -> bool:
        return fact in (self._facts if fact[0] in FLUENTS else self._game.static)

    def _nearby(self) -> list[str]:
        return [r for r in self._game.receptacles if self._map.place.get(r) == self._here]

    def _reach(self, receptacle: str) -> bool:
        return receptacle in self._map.place and self._map.place[receptacle] == self._here

    def _shut(self, receptacle: str) -> bool:
        return self._is("openable", receptacle) and not self._is("opened", receptacle)


_COMMANDS = [
    (re.compile(pattern), method)
    for pattern, method in (
        (r"go to (.+)", House._go),
        (r"open (.+)", House._open),
        (r"close (.+)", House._close),
        (r"take (.+) from (.+)", House._take),
        (r"put (.+) in/on (.+)", lambda house, *names: house._place_by(False, *names)),
        (r"move (.+) to (.+)", lambda house, *names: house._place_by(True, *names)),
        (r"(clean|heat|cool) (.+) with (.+)", House._treat),
        (r"slice (.+) with (.+)", House._slice),
        (r"use (.+)", House._use),
        (r"examine (.+)", House._examine),
    )
]


class _Map:
    """What never changes in a game, by name: places, kinds, and where a search for the goal starts."""

    def __init__(self, game: Game):
        facts = _by_predicate(game.static)
        self.place = {fact[1]: fact[2] for fact in facts["receptacleatlocation"]}
        self.kinds = defaultdict(list)
        for fact in (*facts["receptacletype"], *facts["objecttype"]):
            self.kinds[fact[1]].append(fact[2])
        static = [literal for literal in game.goal if _is_static(literal)]
        self.starts = list(_bindings(static, facts, {}))
        self.dynamic = [literal for literal in game.goal if not _is_static(literal)]
        self.watched = {literal.fact[0] for literal in self.dynamic}


@lru_cache(maxsize=4096)
def _map(game: Game) -> _Map:
    return _Map(game)


def _is_static(literal: Literal) -> bool:
    return literal.positive and literal.fact[0] not in FLUENTS and literal.fact[0] != "="


def _by_predicate(facts: Iterable[Fact]) -> dict[str, set[Fact]]:
    found = defaultdict(set)
    for fact in facts:
        found[fact[0]].add(fact)
    return found


def _bindings(literals: Sequence[Literal], facts: Mapping[str, set[Fact]], bound: dict[str, str]) -> Iterator[dict]:
    """All values of the variables for which the literals hold; negated ones are tested last."""
    if not literals:
        yield bound
        return
    literal = next((one for one in literals if one.positive), literals[0])
    rest = [one for one in literals if one is not literal]
    wanted = tuple(bound.get(argument, argument) for argument in literal.fact)
    if not literal.positive:
        holds = wanted[1] == wanted[2] if wanted[0] == "=" else wanted in facts[wanted[0]]
        if not holds:
            yield from _bindings(rest, facts, bound)
        return
    if not any(argument[0] == "?" for argument in wanted):
        if wanted in facts[wanted[0]]:
            yield from _bindings(rest, facts, bound)
        return
    for fact in facts[wanted[0]]:
        if len(fact) == len(wanted) and all(w == f or w[0] == "?" for w, f in zip(wanted, fact, strict=True)):
            new = {w: f for w, f in zip(wanted, fact, strict=True) if w[0] == "?"}
            yield from _bindings(rest, facts, bound | new)


def _a(name: str) -> str:
    return f"a {name}"  # also before a vowel, as the engine says it


def _listed(texts: Sequence[str]) -> str:
    if not texts:
        return "nothing"
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + ", and " + texts[-1]
