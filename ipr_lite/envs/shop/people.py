"""People who shop: careful ones, people with habits, and all sorts for the base model's corpus.

A demonstrator reads what the page shows and the instruction. Of the task's setup it uses only what
a reader of the instruction knows: which words are the product, its attributes and its options.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from ipr_lite.envs import people
from ipr_lite.envs.shop.env import PREFIX, SEP, Shop
from ipr_lite.envs.shop.generated import SIZE_LIKE, pretraining_world
from ipr_lite.records import Task


@dataclass(frozen=True)
class Habits:
    """How a person shops; every number is a probability in [0, 1].

    Drawn once a task: `skip_size` and `skip_colour` (leave out the options that say how big or how
    many; those that say which kind: colour, scent, flavour, style), `first_hit` (search without the
    options, open the first hit whatever it says, and never go back). Drawn each step: `noise` (some
    other action that the page allows), `invalid` (a malformed message, or a click on what is not
    there), `detour` (on an item: read a sub-page, go back, or choose a wrong option before the
    right one), `repeat` (click the option chosen last once more: pages do not show what is chosen).
    """

    skip_size: float = 0.0
    skip_colour: float = 0.0
    first_hit: float = 0.0
    noise: float = 0.0
    invalid: float = 0.0
    detour: float = 0.0
    repeat: float = 0.0


_THOUGHTS = {
    "search": ("I should search for {noun} first.", "Let me look for {noun} in the shop.", "I need {noun}, so I search for it."),
    "open": ("The {noun} {asin} fits and its price is fine.", "{asin} looks like what I want, so I open it.", "I think {asin} is the right {noun}."),
    "next": ("Nothing here fits well, so I look at the next page.", "I do not see the right {noun} yet, maybe on the next page."),
    "option": ("The instruction asks for {value}, so I choose {value}.", "I want it in {value}, so I click {value}.", "Now I pick {value} as the {kind}."),
    "back": ("This {noun} is not what I want, so I go back.", "I go back to look for a better {noun}."),
    "return": ("I have read this page and go back to the item.", "That is enough, back to the product page."),
    "buy": ("This is what I need, so I buy it now.", "The product is ready, so I click buy now.", "I am done choosing and buy the {noun}."),
    "read": ("Let me read more about this {noun} first.", "I want to see the details of this {noun}."),
    "other": ("Maybe I should try this one instead.", "I am not sure, so I try something else.", "Let me see what this does."),
}  # fmt: skip


@dataclass
class _Shopper:
    """One person in one episode: what they want, and what they remember of the item they look at.

    `astray`: somebody else led them here, where they would not be.
    """

    task: Task
    habits: Habits
    rng: random.Random
    wanted: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    item: str = ""
    pages_seen: int = 1
    careless: bool = False
    astray: bool = False

    def __post_init__(self):
        goal = self.task.setup
        kinds = goal.get("option_kinds") or [f"option {i}" for i in range(len(goal["goal_options"]))]
        skip = {k: self._skips(k) for k in sorted({_like(k) for k in kinds})}
        self.wanted = {k: v for k, v in zip(kinds, goal["goal_options"], strict=True) if not skip[_like(k)]}
        self.careless = self.rng.random() < self.habits.first_hit

    def _skips(self, likeness: str) -> bool:
        chance = self.habits.skip_size if likeness == "size" else self.habits.skip_colour
        return self.rng.random() < chance

    def act(self, page: str) -> str:
        """The next message for what the page shows."""
        roll = self.rng.random()
        parts = page.removeprefix(PREFIX).split(SEP)
        if roll < self.habits.invalid:
            return self._invalid(parts)
        if roll < self.habits.invalid + self.habits.noise:
            return self._anything(parts)
        if parts[0] == "WebShop" or self.astray and not self._is_right(parts):
            return self._search()
        if _is_results(parts):
            return self._choose_hit(parts)
        return self._use_item(parts) if "Buy Now" in parts else self._say("return", "click[< Prev]")

    def finishes(self, message: str) -> bool:
        """A purchase."""
        return message.endswith("click[Buy Now]")

    def look_again(self, page: str) -> str:
        """Back to the hits or to a search, or to what else the shop says of the item."""
        why, button = self.rng.choice(
            (
                ("back", "Back to Search"),
                ("back", "< Prev"),
                ("read", "Description"),
                ("read", "Features"),
                ("read", "Reviews"),
            )
        )
        return self._say(why, f"click[{button}]")

    def did(self, page: str, action: str) -> None:
        """They remember what somebody else chose for them, and whether that leads where they would not be."""
        parts = page.removeprefix(PREFIX).split(SEP)
        verb, _, text = action.rstrip("]").partition("[")
        if verb == "search":
            self.chosen, self.pages_seen = {}, 1
            self.astray = text != self._query().lower()
        elif text in (part.lower() for part in parts):
            if _is_results(parts):
                self.chosen, self.item = {}, text.upper()
                self.astray |= text != "back to search"
            elif "Buy Now" in parts and text not in _BUTTONS:
                self._remember(text)

    def _remember(self, value: str) -> None:
        kind = next((kind for kind, wanted in self.wanted.items() if wanted.lower() == value), None)
        if kind is None:  # what it took the place of, a page does not always tell: all are chosen again
            self.chosen.clear()
        else:
            self.chosen[kind] = self.wanted[kind]

    def _say(self, why: str, action: str, **words: str) -> str:
        thought = self.rng.choice(_THOUGHTS[why]).format(noun=self.task.setup["query"], **words)
        return f"Thought: {thought}\nAction: {action}"

    def _search(self) -> str:
        self.chosen, self.item, self.pages_seen, self.astray = {}, "", 1, False
        return self._say("search", f"search[{self._query()}]")

    def _query(self) -> str:
        words = [*self.task.setup["attributes"], self.task.setup["query"]]
        if not self.careless:
            words += [v for k, v in self.wanted.items() if _like(k) != "size"]
        return " ".join(words)

    def _choose_hit(self, parts: list[str]) -> str:
        self.chosen, self.item = {}, ""
        hits = _hits(parts)
        if not hits:
            return self._say("back", "click[Back to Search]")
        if self.careless:
            return self._open(hits[0][0])
        fresh = [h for h in hits if h[0] not in self.rejected] or hits
        scores = [self._fit(title, price) for _, title, price in fresh]
        best = max(range(len(fresh)), key=lambda i: (scores[i], -i))
        if scores[best] < 1 and self.pages_seen < 2 and len(hits) == _page_size(parts):
            self.pages_seen += 1
            return self._say("next", "click[Next >]")
        return self._open(fresh[best][0])

    def _open(self, asin: str) -> str:
        self.item = asin
        return self._say("open", f"click[{asin}]", asin=asin)

    def _fit(self, title: str, price: float) -> float:
        """1 for the right kind of product, 1 for each attribute in the title, 1 for a fine price.

        A price over the limit takes 2 away, so that no hit scores under 1 unless it costs too much.
        """
        goal, title = self.task.setup, title.lower()
        nouns = goal["query"].lower().split()
        right = sum(noun in title for noun in nouns) / len(nouns)
        affordable = 1.0 if price <= goal["price_upper"] else -2.0
        return right + affordable + sum(a.lower() in title for a in goal["attributes"])

    def _is_right(self, parts: list[str]) -> bool:
        """Is this the page of an item that could not fit better?"""
        if "Buy Now" not in parts or not set(self.wanted.values()) <= set(parts):
            return False
        place = next(i for i, p in enumerate(parts) if p.startswith("Price: "))
        best = 2 + len(self.task.setup["attributes"])
        return self._fit(parts[place - 1], float(parts[place].split()[1].lstrip("$"))) == best

    def _use_item(self, parts: list[str]) -> str:
        options = _options(parts, self.task.setup.get("option_kinds") or ())
        missing = [k for k, v in self.wanted.items() if v not in parts]
        if missing and not self.careless and not self.rejected:
            self.rejected.add(self.item)
            return self._say("back", "click[< Prev]")
        if self.rng.random() < self.habits.detour:
            return self._detour(options)
        if self.chosen and self.rng.random() < self.habits.repeat:
            return self._choose(*list(self.chosen.items())[-1])
        for kind, value in self.wanted.items():
            if self.chosen.get(kind) != value and value in parts:
                return self._choose(kind, value)
        return self._say("buy", "click[Buy Now]")

    def _choose(self, kind: str, value: str) -> str:
        self.chosen[kind] = value
        return self._say("option", f"click[{value}]", value=value, kind=kind.split()[0])

    def _detour(self, options: dict[str, list[str]]) -> str:
        wrong = [(k, v) for k, vs in options.items() for v in vs if v != self.wanted.get(k)]
        roll = self.rng.random()
        if wrong and roll < 0.5:
            return self._choose(*self.rng.choice(wrong))
        if roll < 0.85:
            page = self.rng.choice(("Description", "Features", "Features", "Reviews"))
            return self._say("read", f"click[{page}]")
        return self._say("back", self.rng.choice(("click[< Prev]", "click[Back to Search]")))

    def _anything(self, parts: list[str]) -> str:
        """Any action that the page allows; a purchase is rarer than chance would have it."""
        if parts[0] == "WebShop" or self.rng.random() < 0.1:
            words = self.task.instruction.replace(",", "").split()
            start = self.rng.randrange(len(words))
            self.pages_seen = 1
            return self._say("other", f"search[{' '.join(words[start : start + 3])}]")
        hits = [asin for asin, _, _ in _hits(parts)]
        values = _options(parts, self.task.setup.get("option_kinds") or ())
        buttons = ("Back to Search", "< Prev", "Next >", "Description", "Features", "Reviews")
        texts = [p for p in parts if p in buttons] + hits + [v for vs in values.values() for v in vs]
        if "Buy Now" in parts and self.rng.random() < 0.3:
            texts.append("Buy Now")
        text = self.rng.choice(texts or ["Back to Search"])
        if text in hits:
            self.item = text
        for kind, kind_values in values.items():
            if text in kind_values:
                self.chosen[kind] = text
        return self._say("other", f"click[{text}]")

    def _invalid(self, parts: list[str]) -> str:
        asin = f"B0{self.rng.randrange(10_000):04d}"
        absent = [asin, "Search", "red", "size 8", "Buy Now", "< Prev", *self.wanted.values()]
        absent = [text for text in absent if text not in parts] or [asin]
        thought = self.rng.choice(_THOUGHTS["other"])
        one, other, bare, unnamed = (self.rng.choice(absent) for _ in range(4))
        said = (
            f"\nAction: click[{one}]",
            f"\nAction: click[{other}]",
            f"\nAction: {bare.lower()}",
            f"\nclick[{unnamed}]",
            "",
        )
        return f"Thought: {thought}{self.rng.choice(said)}"


def _like(kind: str) -> str:
    """`size` for an option that says how big or how many, else `colour`."""
    return "size" if kind in SIZE_LIKE or "size" in kind else "colour"


def _is_results(parts: Sequence[str]) -> bool:
    return any(p.startswith("Page ") and "(Total results" in p for p in parts)


def _hits(parts: Sequence[str]) -> list[tuple[str, str, float]]:
    """(asin, title, lowest price) of every hit that a result page shows."""
    start = next((i for i, p in enumerate(parts) if p == "Next >"), None)
    if start is None:
        return []
    rows = [parts[i : i + 3] for i in range(start + 1, len(parts) - 2, 3)]
    return [(asin, title, float(tag.split()[0].lstrip("$"))) for asin, title, tag in rows]


def _page_size(parts: Sequence[str]) -> int:
    """How many hits the page has if there may be more after it, else -1."""
    hits = len(_hits(parts))
    counter = next(p for p in parts if p.startswith("Page "))
    page, total = int(counter.split()[1]), int(counter.split()[-1].rstrip(")"))
    return hits if page * hits < total else -1


_BUTTONS = ("back to search", "< prev", "description", "features", "reviews", "buy now")
_NAMES = frozenset(SIZE_LIKE | {"color", "scent", "flavor", "style"})


def _options(parts: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Option name -> values, read off an item page; {} on any other page."""
    if "Buy Now" not in parts:
        return {}
    end = next(i for i, p in enumerate(parts) if p.startswith("Price: ")) - 1
    options: dict[str, list[str]] = {}
    for text in parts[parts.index("< Prev") + 1 : end]:
        if text in _NAMES or text in names:
            options[text] = []
        elif options:
            options[list(options)[-1]].append(text)
    return options


def _elsewhere(seed: int, each: int = 60) -> Iterator[tuple[Task, Shop, random.Random]]:
    """Tasks in generated shops, `each` in one."""
    rng = random.Random(f"transcripts/{seed}")
    for number in count():
        if number % each == 0:
            env, world = pretraining_world(rng.randrange(2**31))
        yield rng.choice(world), env, rng


PEOPLE = people.People(
    lambda task, env, habits, rng: _Shopper(task, habits, rng),
    careful=Habits(),
    habitual=Habits(skip_size=0.6, skip_colour=0.3, first_hit=0.5),
    keep=0.5,
    others={"skips-size": Habits(skip_size=0.6), "takes-first": Habits(first_hit=0.5)},
    elsewhere=_elsewhere,
    mixed=((1, 1), (1, 1), (1, 1), (0.4, 0.3), (0.4, 0.2), (0.4, 0.4), (0.3, 0.3)),
)
CAREFUL, HABITUAL, KEEP, SORTS = PEOPLE.careful, PEOPLE.habitual, PEOPLE.keep, PEOPLE.sorts
demonstrate, demonstrations, guide = PEOPLE.demonstrate, PEOPLE.demonstrations, PEOPLE.guide
transcripts = PEOPLE.transcripts
