"""WebShop's reward: how well a purchase fits the goal, part by part.

Follows `web_agent_site/engine/goal.py` and `normalize.py` of princeton-nlp/WebShop (MIT). The one
part that is replaced is spaCy's part-of-speech tagger, by `noun_words`; `spacy_nouns` gives the
original's tagger to whoever has spaCy and a model installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rapidfuzz import fuzz

Tagger = Callable[[str], Sequence[str]]

COLOURS = tuple(
    """alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown
    burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac
    copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia gold granite
    grape graphite grass gray green grey heather indigo ivory ivy khaki lavender lemon leopard light
    lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom mustard natural
    navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire
    seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet
    walnut wheat white wine yellow""".split()
)

_STOP_WORDS = frozenset(
    """a about all also am an and any are as at be but by can do does each for from get has have he
    her his how i if in into is it its just me more most my new no not of off on one only or our out
    over per she so some such than that the their them these they this those to under up us use used
    very was we what when which while who will with without you your""".split()
)
_ADJECTIVES = frozenset(
    """adjustable amazing available automatic basic best better big bright casual classic clean clear
    comfortable compatible complete cool cozy cute daily deep digital double dry durable easy elastic
    elegant extra fast fine flat flexible foldable free fresh full funny genuine good great handmade
    happy hard healthy heavy high hot huge ideal indoor inner large lightweight listed little long
    loose low magnetic mini modern multi multiple natural nice old open optical organic original
    outdoor perfect personal portable premium professional pure quick raw real reusable rich round
    safe sexy short single slim small smart soft solid special spicy stainless standard stretchy
    strong stylish super sweet thick thin tight tiny traditional unique universal upgraded
    vegan vintage warm washable waterproof wide wireless wooden young""".split()
)

# As spaCy splits words: a hyphen stays beside a digit, a number loses its unit's company (4gb -> gb).
_WORD = re.compile(r"[^\W_]+(?:(?:[.']|(?<=\d)-|-(?=\d))[^\W_]+)*")
_UNITS = re.compile(r"^\d[\d.]*(?=(?:km|m|cm|mm|ft|yd|mi|kg|g|mg|lb|oz|ml|mb|kb|gb|tb|k)$)")


@dataclass(frozen=True)
class Product:
    """One product of a shop. `options` maps an option's name to its values, in page order."""

    asin: str
    title: str
    query: str = ""
    product_category: str = ""
    category: str = ""
    description: str = ""
    bullets: Sequence[str] = ()
    attributes: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    price: float = 100.0
    price_tag: str = "$100.0"


def normalize_color(text: str) -> str:
    """The first colour word (in alphabetical order) that `text` contains, else `text` itself."""
    for colour in COLOURS:
        if colour in text:
            return colour
    return text


@lru_cache(maxsize=65536)
def similarity(first: str, second: str) -> int:
    """thefuzz's `token_set_ratio` with its `full_process`: 0 to 100, word order does not count."""
    a, b = _full_process(first), _full_process(second)
    return int(round(fuzz.token_set_ratio(a, b))) if a and b else 0


def _full_process(text: str) -> str:
    ascii_only = "".join(c for c in text if ord(c) < 128)
    return re.sub(r"[^\w]|_", " ", ascii_only).lower().strip()


@lru_cache(maxsize=16384)
def noun_words(title: str) -> tuple[str, ...]:
    """A light stand-in for spaCy's nouns: words less numbers, stop words, adjectives and colours.

    Its word lists were fitted to the few titles whose score the original's tests and logs give, so
    agreement there does not measure agreement on other titles.
    """
    words = [_UNITS.sub("", word) for word in _WORD.findall(title.lower())]
    return tuple(
        w
        for w in words
        if w not in _STOP_WORDS and w not in _ADJECTIVES and w not in COLOURS and not re.fullmatch(r"[\d.]*|x", w)
    )


def spacy_nouns(model: str = "en_core_web_lg") -> Tagger:
    """The original's tagger (WebShop: en_core_web_sm, IPR: en_core_web_lg), if spaCy is installed.

    Raises ImportError or OSError, from spaCy, where the library or the model is missing.
    """
    import spacy

    nlp = spacy.load(model)
    return lambda title: [t.text.lower() for t in nlp(title) if t.pos_ in ("PNOUN", "NOUN", "PROPN")]


def type_reward(product: Product, goal: Mapping[str, Any], nouns: Tagger = noun_words) -> dict:
    """Is it the right kind of thing? `r_type` is 1, 0.5, 0.1 or 0; the flags say why.

    A title that shares (almost) no noun with the goal's overrides a matching query or category,
    as in the original.
    """
    query_match = product.query == goal["query"]
    bought = {part.strip() for part in product.product_category.split("›")}
    wanted = {part.strip() for part in goal["product_category"].split("›")}
    category_match = len(bought & wanted) >= 2
    goal_nouns = nouns(goal["name"])
    shared = set(nouns(product.title)) & set(goal_nouns)
    title_score = len(shared) / len(goal_nouns) if goal_nouns else 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return {"r_type": r_type, "query_match": query_match, "category_match": category_match, "title_score": title_score}


def attribute_matches(product: Product, attributes: Sequence[str]) -> int:
    """How many of the goal's attributes the product has: 0 to len(attributes)."""
    texts = (product.title.lower(), " ".join(product.bullets).lower(), product.description.lower())
    return sum(
        any(similarity(own, wanted) > 85 for own in product.attributes) or any(wanted in text for text in texts)
        for wanted in attributes
    )


def option_matches(chosen: Sequence[str], goal_options: Sequence[str] | Mapping[str, str]) -> int:
    """How many of the goal's options were chosen: 0 to len(goal_options).

    A list holds values (crowd-written goals). A mapping is taken by its items (WebShop's synthetic
    goals), which the original compares as the text of a pair.
    """
    if isinstance(goal_options, Mapping):
        wanted = [str(item) for item in goal_options.items()]
    else:
        wanted = [normalize_color(value) for value in goal_options]
    values = [normalize_color(value) for value in chosen]
    return sum(any(similarity(value, w) > 85 for value in values) for w in wanted)


def purchase_reward(
    product: Product, goal: Mapping[str, Any], price: float, chosen: Mapping[str, str], nouns: Tagger = noun_words
) -> tuple[float, dict]:
    """WebShop's reward in [0, 1] for buying `product` with the options `chosen`, and its parts.

    `goal` holds `query`, `product_category`, `name`, `attributes`, `goal_options` and `price_upper`
    (dollars). The parts: `r_type` and its flags, `r_att`, `r_option` (None without goal options),
    `r_price` (a bool).
    """
    parts = type_reward(product, goal, nouns)
    attributes, options = goal["attributes"], goal["goal_options"]
    n_attributes = attribute_matches(product, attributes)
    n_options = option_matches(list(chosen.values()), options)
    r_price = price <= goal["price_upper"]
    total = (n_attributes + n_options + r_price) / (len(attributes) + len(options) + 1)
    parts["r_att"] = n_attributes / len(attributes) if attributes else None
    parts["r_option"] = n_options / len(options) if options else None
    parts["r_price"] = r_price
    return total * parts["r_type"], parts
