"""An ALFWorld game: what stands where, what is true of it, and the goal; read from its PDDL problem.

A released game (`game.tw-pddl`) embeds a domain, a grammar and a problem. Domain and grammar are the
same in all of them, so that `house.py` states them as code; this module reads the problem.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

Fact = tuple[str, ...]

# Facts that an action can change; all others stand for the whole game.
FLUENTS = frozenset(
    "inreceptacle objectatlocation opened ishot iscool isclean istoggled issliced holds atlocation".split()
)


@dataclass(frozen=True)
class Literal:
    """A fact, or its negation, whose arguments may be variables (`?o`). `=` compares two of them."""

    fact: Fact
    positive: bool = True


@dataclass(frozen=True)
class Game:
    """A household and a task. Things are called by the names that the player sees (`cabinet 3`).

    receptacles, objects: the names, in the order in which the engine lists things.
    static, fluent: facts that hold for good and at the start, as (predicate, argument, ...).
    goal: literals that must hold together for some values of their variables.
    """

    receptacles: tuple[str, ...]
    objects: tuple[str, ...]
    locations: tuple[str, ...]
    static: frozenset[Fact]
    fluent: frozenset[Fact]
    goal: tuple[Literal, ...]
    instruction: str

    def __deepcopy__(self, memo: dict) -> Game:
        return self  # nothing in it changes


def read_problem(problem: str, instruction: str, where: str = "problem") -> Game:
    """A `Game` from the text of a PDDL problem. Raises ValueError that names `where` and the part."""
    tree = _parse(problem, where)
    parts = {item[0]: item[1:] for item in tree[1:] if isinstance(item, list) and item}
    for part in (":objects", ":init", ":goal"):
        if part not in parts:
            raise ValueError(f"{where}: no {part} in the PDDL problem; is the file cut off?")
    kinds = defaultdict(list)
    for name, kind in _typed(parts[":objects"]):
        kinds[kind].append(name)
    called = _names([*kinds["receptacle"], *kinds["object"], *kinds["location"]])
    static, fluent = set(), set()
    for fact in parts[":init"]:
        if fact[0] == "=":  # distances, which no action reads
            continue
        fact = (fact[0], *(called.get(argument, argument) for argument in fact[1:]))
        (fluent if fact[0] in FLUENTS else static).add(fact)
    if not any(fact[0] == "atlocation" for fact in fluent):
        raise ValueError(f"{where}: the :init says nowhere at which location the agent stands")

    def listed(kind: str) -> tuple[str, ...]:
        return tuple(called[name] for name in sorted(kinds[kind]) if name in called)

    goal = tuple(_literals(parts[":goal"][0], {}, iter(range(1000)), where))
    return Game(
        listed("receptacle"), listed("object"), listed("location"), frozenset(static), frozenset(fluent),
        goal, instruction,
    )  # fmt: skip


def write_problem(game: Game) -> str:
    """The PDDL problem of a game, as the released games embed it; `read_problem` gives the game back."""
    kinds = {"receptacle": game.receptacles, "object": game.objects, "location": game.locations}
    called = {name: _id(name) for names in kinds.values() for name in names}

    def written(fact: Fact) -> str:
        return f"({' '.join(called.get(word, word) for word in fact)})"

    things = [f"{called[name]} - {kind}" for kind, names in kinds.items() for name in names]
    things += [f"{kind} - {of}" for of, kinds in _types(game).items() for kind in sorted(kinds)]
    goal = []
    for literal in game.goal:
        goal.append(written(literal.fact) if literal.positive else f"(not {written(literal.fact)})")
    variables = {word: _type(literal.fact, word) for literal in game.goal for word in literal.fact if word[0] == "?"}
    head = " ".join(f"{name} - {kind}" for name, kind in variables.items())
    lines = [
        "(define (problem house)", "(:domain alfred)", "(:objects", "agent1 - agent", *things, ")",
        "(:init", *sorted(map(written, game.static | game.fluent)), ")",
        "(:goal", f"(exists ({head})", "(and", *goal, "))))",
    ]  # fmt: skip
    return "\n".join(lines)


def _types(game: Game) -> dict[str, set[str]]:
    """The kinds of receptacles and of objects that facts name, with those of the domain's own actions."""
    facts = game.static | {literal.fact for literal in game.goal}
    kinds = {"rtype": {fact[-1] for fact in facts if fact[0] == "receptacletype"}}
    kinds["otype"] = {fact[-1] for fact in facts if fact[0] == "objecttype"}
    for fact in facts:
        if fact[0] == "cancontain":
            kinds["rtype"].add(fact[1])
            kinds["otype"].add(fact[2])
    kinds["rtype"] |= {"microwavetype", "fridgetype", "sinktype", "sinkbasintype"}
    kinds["otype"] |= {"knifetype", "butterknifetype"}
    return kinds


def _id(name: str) -> str:
    """An id that the engine calls `name`: ids of a kind sort opposite to their numbers."""
    kind, _, number = name.rpartition(" ")
    place = f"{kind.removesuffix('basin')}_bar_{9999 - int(number):04d}"
    return place + ("_bar_basin" if kind.endswith("basin") else "")


def _type(fact: Fact, variable: str) -> str:
    """The type of a variable, from where it stands in a fact of the domain."""
    signature = {
        "receptacletype": ("receptacle",), "receptacleatlocation": ("receptacle", "location"),
        "inreceptacle": ("object", "receptacle"), "atlocation": ("agent", "location"), "holds": ("agent", "object"),
    }  # fmt: skip
    return signature.get(fact[0], ("object", "object"))[fact.index(variable) - 1]


def _parse(text: str, where: str) -> list:
    """Nested lists from S-expressions, in lower case, comments left out."""
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text).lower())
    stack: list[list] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise ValueError(f"{where}: a closing bracket too many in the PDDL problem")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"{where}: the brackets of the PDDL problem do not close; is the file cut off?")
    return stack[0][0]


def _typed(tokens: list[str]) -> Iterator[tuple[str, str]]:
    """(name, type) from `a b - type c - type`."""
    names: list[str] = []
    rest = iter(tokens)
    for token in rest:
        if token == "-":
            kind = next(rest)
            yield from ((name, kind) for name in names)
            names = []
        else:
            names.append(token)


def _names(ids: list[str]) -> dict[str, str]:
    """Id -> the player's name. Of one kind the ids are numbered downwards in sorted order."""
    of_kind = defaultdict(list)
    for identity in sorted(ids):
        kind, bar, rest = identity.partition("_bar_")
        if bar:  # without a place it is the name of a kind, not a thing
            of_kind[kind + ("basin" if "basin" in rest else "")].append(identity)
    return {
        identity: f"{kind} {number}"
        for kind, members in of_kind.items()
        for number, identity in zip(range(len(members), 0, -1), members, strict=True)
    }


def _literals(tree: list, renamed: dict[str, str], fresh: Iterator[int], where: str) -> Iterator[Literal]:
    """The goal as one conjunction: `exists` only brings variables, which get names of their own."""
    head = tree[0]
    if head == "and":
        for part in tree[1:]:
            yield from _literals(part, renamed, fresh, where)
    elif head == "exists":
        inner = {name: f"{name}_{next(fresh)}" for name, _ in _typed(tree[1])}
        yield from _literals(tree[2], renamed | inner, fresh, where)
    elif head == "not":
        (literal,) = _literals(tree[1], renamed, fresh, where)
        yield Literal(literal.fact, not literal.positive)
    elif head in ("or", "forall", "imply", "when"):
        raise ValueError(f"{where}: the goal uses {head!r}; ALFWorld's goals are conjunctions")
    else:
        yield Literal((head, *(renamed.get(argument, argument) for argument in tree[1:])))
