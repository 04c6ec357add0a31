"""Generated households: rooms like the originals', furnished and given an errand, from a seed.

A *layout* is a room's furniture and where it stands; many games share it. The splits `train`, `dev`
and `test_seen` use one set of layouts, `test_unseen` another. Rules and words are ALFWorld's; which
furniture there is, and what may lie in it, is written here by hand.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from ipr_lite.envs.house.env import AGENT, TOOLS, House
from ipr_lite.envs.house.game import FLUENTS, Game, Literal
from ipr_lite.envs.house.original import load, splits_of
from ipr_lite.records import Task

WORLD_SEED = 30
SIZES = {"train": 400, "dev": 100, "test_seen": 150, "test_unseen": 150}
LAYOUTS = {"seen": 80, "unseen": 32}
OPENABLE = frozenset("cabinet drawer fridge microwave safe".split())
LAMPS = ("desklamp", "floorlamp")
ROWS = ("cabinet", "drawer", "shelf", "stoveburner")
GROWTH = (1, 1, 1, 1, 2, 4)
"""Of a home of the base model's corpus, drawn: ALFWorld's list 25 places on average and up to 55, ours 15."""

# Room -> furniture -> fewest and most of it.
ROOMS = {
    "kitchen": {
        "cabinet": (2, 5), "drawer": (1, 3), "countertop": (1, 2), "fridge": (1, 1), "microwave": (1, 1),
        "sinkbasin": (1, 1), "stoveburner": (1, 3), "coffeemachine": (0, 1), "toaster": (0, 1), "garbagecan": (0, 1),
        "diningtable": (0, 2), "shelf": (0, 2),
    },
    "bedroom": {
        "bed": (1, 1), "desk": (1, 2), "drawer": (2, 5), "shelf": (1, 4), "sidetable": (1, 2), "dresser": (0, 1),
        "garbagecan": (0, 1), "laundryhamper": (0, 1), "safe": (0, 1), "armchair": (0, 1),
    },
    "livingroom": {
        "sofa": (1, 2), "armchair": (1, 2), "coffeetable": (1, 1), "sidetable": (1, 2), "diningtable": (0, 1),
        "tvstand": (0, 1), "shelf": (0, 3), "drawer": (0, 4), "cabinet": (0, 2), "dresser": (0, 1),
        "garbagecan": (0, 1), "ottoman": (0, 1),
    },
    "bathroom": {
        "sinkbasin": (1, 2), "toilet": (1, 1), "toiletpaperhanger": (1, 1), "towelholder": (1, 2),
        "handtowelholder": (1, 2), "bathtubbasin": (0, 1), "cabinet": (1, 4), "drawer": (0, 3), "countertop": (1, 1),
        "garbagecan": (0, 1), "shelf": (0, 2), "cart": (0, 1),
    },
}  # fmt: skip

_TABLES = "countertop diningtable sidetable"
_DESKS = f"{_TABLES} coffeetable desk dresser shelf"
_BATH = "cabinet drawer shelf countertop toilet cart garbagecan"
_FOOD = f"{_TABLES} fridge microwave sinkbasin garbagecan"
# Thing -> what can be done with it (None: it stays where it is), and where it may be put.
_THINGS = {
    **dict.fromkeys(("apple", "potato", "tomato", "egg"), ("cleanable heatable coolable sliceable", _FOOD)),
    "lettuce": ("cleanable coolable sliceable", f"{_TABLES} fridge sinkbasin garbagecan"),
    "bread": ("heatable coolable sliceable", f"{_TABLES} fridge microwave garbagecan"),
    "mug": ("cleanable heatable coolable", f"{_TABLES} desk shelf cabinet fridge microwave sinkbasin coffeemachine"),
    **dict.fromkeys(
        ("cup", "plate"), ("cleanable heatable coolable", f"{_TABLES} shelf cabinet fridge microwave sinkbasin")
    ),
    "bowl": ("cleanable coolable", f"{_DESKS} cabinet fridge sinkbasin"),
    "pan": ("cleanable coolable", f"{_TABLES} cabinet fridge stoveburner sinkbasin"),
    "pot": ("cleanable coolable", f"{_TABLES} shelf cabinet fridge stoveburner sinkbasin"),
    "winebottle": ("coolable", f"{_TABLES} shelf cabinet fridge garbagecan"),
    **dict.fromkeys(("fork", "spoon", "spatula", "knife", "butterknife"), ("cleanable", f"{_TABLES} drawer sinkbasin")),
    "ladle": ("cleanable", "countertop diningtable drawer cabinet sinkbasin"),
    **dict.fromkeys(("saltshaker", "peppershaker"), ("", f"{_TABLES} cabinet drawer shelf")),
    **dict.fromkeys(("dishsponge", "soapbar"), ("cleanable", f"{_BATH} sinkbasin bathtubbasin")),
    **dict.fromkeys(("soapbottle", "spraybottle"), ("", _BATH)),
    "toiletpaper": ("", f"{_BATH} toiletpaperhanger"),
    "cloth": ("cleanable", f"{_BATH} sinkbasin bathtubbasin laundryhamper desk dresser"),
    "towel": ("", "towelholder"),
    "handtowel": ("", f"{_BATH} handtowelholder sinkbasin bathtubbasin"),
    "candle": ("", "cabinet drawer shelf countertop toilet cart coffeetable sidetable dresser diningtable"),
    "cd": ("", f"{_TABLES} desk dresser shelf drawer safe garbagecan"),
    **dict.fromkeys(("pencil", "pen"), ("", f"{_DESKS} drawer garbagecan")),
    **dict.fromkeys(("keychain", "creditcard"), ("", f"{_DESKS} drawer safe sofa armchair ottoman")),
    "cellphone": ("", f"{_DESKS} drawer safe bed sofa armchair ottoman"),
    "remotecontrol": ("", f"{_DESKS} drawer sofa armchair ottoman"),
    "watch": ("", "diningtable sidetable coffeetable desk dresser shelf drawer"),
    "alarmclock": ("", f"{_TABLES} desk dresser shelf"),
    "book": ("", f"{_DESKS} drawer cabinet bed sofa armchair ottoman"),
    "newspaper": ("", "diningtable sidetable coffeetable dresser shelf drawer sofa armchair ottoman garbagecan"),
    "laptop": ("", f"{_TABLES} coffeetable desk dresser bed sofa armchair ottoman"),
    "pillow": ("", "bed sofa armchair ottoman"),
    "vase": ("", f"{_DESKS} cabinet safe"),
    "statue": ("", f"{_DESKS} safe"),
    "box": ("", "diningtable sidetable coffeetable desk dresser shelf cabinet sofa armchair ottoman"),
    "tissuebox": ("", f"{_DESKS} cabinet drawer tvstand garbagecan toilet"),
    "desklamp": (None, "desk sidetable dresser shelf"),
    "floorlamp": (None, "armchair sofa ottoman"),
}
_ROOM_THINGS = {
    "kitchen": "apple potato tomato lettuce bread egg mug cup plate bowl pan pot winebottle fork spoon ladle spatula "
    "knife butterknife dishsponge saltshaker peppershaker soapbottle",
    "bedroom": "alarmclock book cd cellphone creditcard keychain laptop pencil pen pillow mug bowl "
    "cloth statue box vase watch tissuebox",
    "livingroom": "remotecontrol newspaper keychain creditcard laptop book pillow vase statue watch box tissuebox plate "
    "cellphone candle",
    "bathroom": "soapbar soapbottle toiletpaper towel handtowel cloth spraybottle candle dishsponge",
}
_ERRANDS = {
    "pick_and_place_simple": ("put a {thing} in {target}.", "put some {thing} on {target}."),
    "pick_two_obj_and_place": ("put two {thing} in {target}.", "find two {thing} and put them in {target}."),
    "pick_clean_then_place_in_recep": (
        "put a clean {thing} in {target}.",
        "clean some {thing} and put it in {target}.",
    ),
    "pick_heat_then_place_in_recep": ("put a hot {thing} in {target}.", "heat some {thing} and put it in {target}."),
    "pick_cool_then_place_in_recep": ("put a cool {thing} in {target}.", "cool some {thing} and put it in {target}."),
    "look_at_obj_in_light": ("look at {thing} under the {target}.", "examine the {thing} with the {target}."),
}
_TREATMENT = {"clean": "isclean", "heat": "ishot", "cool": "iscool"}


@dataclass(frozen=True)
class Layout:
    """A room's furniture, by name, and the place of each piece; neighbours may share one."""

    room: str
    places: tuple[tuple[str, str], ...]

    @property
    def door(self) -> str:
        """Where the agent stands at first: a place without furniture."""
        return f"loc {len({place for _, place in self.places}) + 1}"


def layout(rng: random.Random, room: str, growth: int = 1) -> Layout:
    """A room of its kind, drawn; `growth` times as much at most of the furniture that rooms have in rows."""
    names = [
        f"{kind} {number}"
        for kind, (least, most) in ROOMS[room].items()
        for number in range(rng.randint(least, most * growth if kind in ROWS else most), 0, -1)
    ]
    places, number = [], 0
    for name in names:
        # A drawer or cabinet may be reached from where its neighbour is reached.
        if not (places and name.split()[0] in ("cabinet", "drawer", "shelf") and rng.random() < 0.25):
            number += 1
        places.append((name, f"loc {number}"))
    return Layout(room, tuple(sorted(places, key=lambda place: _listing(place[0]))))


@lru_cache(maxsize=4)
def layouts(which: str, seed: int = WORLD_SEED) -> list[Layout]:
    """The layouts of the `seen` or the `unseen` rooms: as many of each kind of room, no two alike."""
    rng = random.Random(f"house/{seed}/layouts")
    found: dict[Layout, None] = {}
    rooms = list(ROOMS)
    while len(found) < sum(LAYOUTS.values()):
        found[layout(rng, rooms[len(found) % len(rooms)])] = None
    everything = list(found)
    return everything[: LAYOUTS["seen"]] if which == "seen" else everything[LAYOUTS["seen"] :]


def game(rng: random.Random, room: Layout, kind: str) -> Game | None:
    """A game of this kind in this room, things placed anew; None where the room does not allow it."""
    furniture = [name for name, _ in room.places]
    lamp = rng.choice(LAMPS) if kind == "look_at_obj_in_light" else None
    wish = _wish(rng, room, kind, lamp)
    if wish is None:
        return None
    thing, target = wish
    count = 2 if kind == "pick_two_obj_and_place" else 1
    things = Counter({thing: count + (rng.random() < 0.3)})
    if lamp:
        things[lamp] = 1
    for other in rng.sample(_ROOM_THINGS[room.room].split(), k=min(8, len(_ROOM_THINGS[room.room].split()))):
        things[other] = max(things[other], rng.choice((1, 1, 1, 2)))
    where = {}
    for one, number in things.items():
        homes = [f for f in furniture if _fits(one, f)]
        if one == thing:  # what is asked for is not yet where it should be
            homes = [f for f in homes if _kind(f) != target]
        for n in range(1, number + 1) if homes else ():
            where[f"{one} {n}"] = rng.choice(homes)
    return Game(
        receptacles=tuple(furniture),
        objects=tuple(sorted(where, key=_listing)),
        locations=tuple(sorted({place for _, place in room.places} | {room.door}, key=_listing)),
        goal=tuple(_goal(kind, thing, target)),
        instruction=rng.choice(_ERRANDS[kind]).format(thing=thing, target=target),
        **_facts(room, where),
    )


def _wish(rng: random.Random, room: Layout, kind: str, lamp: str | None) -> tuple[str, str] | None:
    """A thing and the kind of furniture (or the lamp) that it is wanted at."""
    kinds = sorted({_kind(name) for name, _ in room.places})
    verb = next((verb for verb in TOOLS if f"_{verb}_" in kind), None)
    if verb and not any(f"{k}type" in TOOLS[verb][1] for k in kinds):
        return None
    if lamp and not any(_fits(lamp, f) for f in kinds):
        return None
    wishes = []
    for thing in _ROOM_THINGS[room.room].split():
        homes = [k for k in kinds if _fits(thing, k)]
        if (verb and TOOLS[verb][0] not in _THINGS[thing][0]) or not homes:
            continue
        if lamp:
            wishes.append((thing, lamp))
        elif len(homes) > 1:
            wishes += [(thing, home) for home in homes]
    return rng.choice(wishes) if wishes else None


def hindsight(house: House, task: Task, rng: random.Random) -> str | None:
    """The errand that an episode did, whatever `task` asked for: what was moved (clean, hot, cool, or two of a kind), else
    what is held under a lamp that is on."""
    state = house.state()
    moved = sorted(f for f in state["facts"] - house.games[task.setup["game"]].fluent if f[0] == "inreceptacle")
    if moved:
        _, thing, place = moved[0]
        of_a_kind = {name for _, name, at in moved if (_kind(name), _kind(at)) == (_kind(thing), _kind(place))}
        treated = next((verb for verb, fact in _TREATMENT.items() if (fact, thing) in state["facts"]), None)
        kind = f"pick_{treated}_then_place_in_recep" if treated else "pick_and_place_simple"
        kind = "pick_two_obj_and_place" if len(of_a_kind) > 1 else kind
        return rng.choice(_ERRANDS[kind]).format(thing=_kind(thing), target=_kind(place))
    lamp = next((f[1] for f in sorted(state["facts"]) if f[0] == "istoggled" and _kind(f[1]) in LAMPS), None)
    if lamp and state["held"]:
        return rng.choice(_ERRANDS["look_at_obj_in_light"]).format(thing=_kind(state["held"]), target=_kind(lamp))
    return None


def _facts(room: Layout, where: dict[str, str]) -> dict[str, frozenset]:
    place = dict(room.places)
    facts = {("atlocation", AGENT, room.door)}
    for name, at in room.places:
        facts |= {("receptacletype", name, f"{_kind(name)}type"), ("receptacleatlocation", name, at)}
        if _kind(name) in OPENABLE:
            facts.add(("openable", name))
        facts |= {("cancontain", f"{_kind(name)}type", f"{thing}type") for thing in _THINGS if _fits(thing, name)}
    for name, home in where.items():
        able = _THINGS[_kind(name)][0]
        facts |= {("objecttype", name, f"{_kind(name)}type"), ("inreceptacle", name, home)}
        facts.add(("objectatlocation", name, place[home]))
        facts |= {("toggleable", name)} if able is None else {(word, name) for word in ("pickupable", *able.split())}
    fluent = frozenset(fact for fact in facts if fact[0] in FLUENTS)
    return {"static": frozenset(facts) - fluent, "fluent": fluent}


def _goal(kind: str, thing: str, target: str) -> list[Literal]:
    """The goal as the originals write it, for the six kinds of task."""
    if kind == "look_at_obj_in_light":
        facts = [
            ("objecttype", "?lamp", f"{target}type"), ("toggleable", "?lamp"), ("istoggled", "?lamp"),
            ("receptacleatlocation", "?r", "?l"), ("atlocation", "?a", "?l"), ("inreceptacle", "?lamp", "?r"),
            ("objecttype", "?o", f"{thing}type"), ("holds", "?a", "?o"),
        ]  # fmt: skip
        return [Literal(fact) for fact in facts]
    facts = [
        ("objecttype", "?o", f"{thing}type"),
        ("receptacletype", "?r", f"{target}type"),
        ("inreceptacle", "?o", "?r"),
    ]
    facts += [(fact, "?o") for verb, fact in _TREATMENT.items() if f"_{verb}_" in kind]
    if kind != "pick_two_obj_and_place":
        return [Literal(fact) for fact in facts]
    facts += [("objecttype", "?o2", f"{thing}type"), ("inreceptacle", "?o2", "?r")]
    return [*(Literal(fact) for fact in facts), Literal(("=", "?o", "?o2"), positive=False)]


def games(split: str, seed: int = WORLD_SEED) -> tuple[dict[str, Game], list[Task]]:
    """The games of a split and their tasks, in a fixed order. Raises ValueError for another split."""
    if split not in SIZES:
        raise ValueError(f"no split {split!r}; the splits are {', '.join(SIZES)}")
    rng = random.Random(f"house/{seed}/{split}")
    rooms = layouts("unseen" if split == "test_unseen" else "seen", seed)
    found, tasks, kinds = {}, [], list(_ERRANDS)
    while len(tasks) < SIZES[split]:
        kind = kinds[len(tasks) % len(kinds)]
        room = rng.choice(rooms)
        one = game(rng, room, kind)
        if one is None:
            continue
        name = f"house-{split}-{len(tasks)}"
        found[name] = one
        tasks.append(Task(name, "house", split, one.instruction, {"game": name, "type": kind, "room": room.room}))
    return found, tasks


@lru_cache(maxsize=8)
def _split(split: str, data: str | None) -> tuple[dict[str, Game], list[Task]]:
    return games(split) if data is None else load(data, split)


def make(data: str | Path | None = None) -> House:
    """The generated households, or those of ALFWorld's own games in the folder `data`.

    Of a folder, the splits that it has; at least one must be there.
    """
    folder = None if data is None else str(data)
    # Where a folder has no split at all, "train" raises and says what was looked for.
    splits = list(SIZES) if folder is None else splits_of(folder) or ["train"]
    each = [_split(split, folder) for split in splits]
    return House({name: game for found, _ in each for name, game in found.items()}, each[0][1])


def tasks(split: str, data: str | Path | None = None) -> list[Task]:
    """The games of a split; `test` is `test_seen` and `test_unseen` in turn. Raises ValueError for another name."""
    parts = ("test_seen", "test_unseen") if split == "test" else (split,)
    each = [_split(part, None if data is None else str(data))[1] for part in parts]
    return [task for together in zip_longest(*each) for task in together if task is not None]


@lru_cache(maxsize=1)
def _shipped_layouts() -> frozenset[Layout]:
    return frozenset(layouts("seen") + layouts("unseen"))


def other_game(rng: random.Random) -> tuple[Game, str]:
    """A game for the base model's corpus and its kind, in a layout that no shipped game has."""
    while True:
        room = layout(rng, rng.choice(list(ROOMS)), rng.choice(GROWTH))
        kind = rng.choice(list(_ERRANDS))
        if room not in _shipped_layouts() and (found := game(rng, room, kind)):
            return found, kind


def _fits(thing: str, furniture: str) -> bool:
    return furniture.split()[0] in _THINGS[thing][1].split()


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]


def _listing(name: str) -> tuple[str, int]:
    """As the engine lists: kinds by the alphabet, of one kind the highest number first."""
    kind, _, number = name.rpartition(" ")
    return kind, -int(number)
