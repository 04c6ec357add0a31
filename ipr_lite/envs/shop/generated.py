"""A generated shop: products, instructions and splits that need no download.

It speaks WebShop's language with short texts, so that a tiny model on a CPU can read its pages, and
its result pages are small (4 hits a page, at most 12); every rule is the original's. Everything is
drawn from a seed. `make` and `tasks` are what `ipr_lite.envs` calls.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ipr_lite.envs.shop.env import Catalogue, Shop
from ipr_lite.envs.shop.original import load, price_upper
from ipr_lite.envs.shop.reward import Product
from ipr_lite.records import Task

WORLD_SEED = 20
SIZES = {"train": 400, "dev": 100, "test": 300}
SMALL = {"results_per_page": 4, "max_results": 12}

# The option names that say how much or how big; the others say which kind (colour, scent, ...).
SIZE_LIKE = frozenset({"size", "volume", "length", "count", "weight"})

_COLOURS = "black white navy red green pink gray".split()
_SCENTS = "lavender rose lemon mint coconut unscented".split()
_FLAVOURS = "chocolate vanilla peach salted ginger berry".split()
_STYLES = "modern classic rustic floral striped".split()
_CLOTHES = ["small", "medium", "large"]
_SHOES = ["6", "7", "8", "9"]
_VOLUMES = ["2 oz", "4 oz", "8 oz"]
_WEIGHTS = ["1 lb", "3 lb", "5 lb"]
_LENGTHS = ["3 ft", "6 ft", "9 ft"]
_COUNTS = ["1 pack", "3 pack", "6 pack"]

_ATTRIBUTES = {
    pool: tuple(" ".join(a.split()) for a in text.split("|"))
    for pool, text in {
        "care": """long lasting|cruelty free|paraben free|alcohol free|fragrance free|sulfate free|plant
            based|dermatologist tested|oil free|anti aging|travel sized|non toxic|deeply hydrating|fast
            absorbing""",
        "cable": """fast charging|heavy duty|easy to install|high speed|gold plated|energy saving|plug and
            play|tangle free|flame retardant|surge protected|corrosion resistant|extra flexible""",
        "gadget": """water resistant|ultra slim|shock proof|dust proof|scratch resistant|hands free|noise
            cancelling|easy to carry|non slip|high definition|light weight|wireless charging""",
        "clothes": """machine washable|slim fit|quick drying|moisture wicking|long sleeve|high
            waisted|wrinkle free|hand made|elastic waist|relaxed fit|fleece lined|stretchy fabric""",
        "shoes": """slip resistant|arch support|wide width|rubber sole|memory foam|quick drying|hand
            made|light weight|open toe|ankle strap|moisture wicking|vegan leather""",
        "food": """gluten free|dairy free|low sodium|sugar free|keto friendly|individually wrapped|ready
            to eat|family owned|fair trade|freshly made|nut free|certified organic""",
        "home": """easy to clean|space saving|stain resistant|eco friendly|hand made|fade resistant|non
            toxic|heavy duty|mid century|child safe|odor free|long lasting""",
    }.items()
}

# Noun -> (group, path below it, article, attributes, price range in dollars, options).
_KINDS = {
    "hand cream": ("beauty", "Skin Care", "", "care", (6, 30), {"scent": _SCENTS, "volume": _VOLUMES}),
    "shampoo": ("beauty", "Hair Care", "", "care", (6, 35), {"volume": _VOLUMES, "scent": _SCENTS}),
    "lip balm": ("beauty", "Skin Care", "", "care", (4, 18), {"scent": _SCENTS, "count": _COUNTS}),
    "nail polish": ("beauty", "Nails", "", "care", (4, 22), {"color": _COLOURS, "count": _COUNTS}),
    "body lotion": ("beauty", "Skin Care", "", "care", (7, 38), {"volume": _VOLUMES, "scent": _SCENTS}),
    "usb cable": ("electronics", "Cables", "a", "cable", (5, 30), {"color": _COLOURS, "length": _LENGTHS}),
    "headphones": ("electronics", "Audio", "", "gadget", (15, 80), {"color": _COLOURS}),
    "phone case": ("electronics", "Phones", "a", "gadget", (6, 35), {"color": _COLOURS, "style": _STYLES}),
    "speaker wire": ("electronics", "Audio", "", "cable", (8, 40), {"length": _LENGTHS, "color": _COLOURS}),
    "power strip": ("electronics", "Power", "a", "cable", (9, 50), {"color": _COLOURS, "length": _LENGTHS}),
    "t-shirt": ("fashion", "Shirts", "a", "clothes", (8, 40), {"size": _CLOTHES, "color": _COLOURS}),
    "hoodie": (
        *("fashion", "Shirts", "a", "clothes", (16, 70)),
        {"color": _COLOURS, "size": _CLOTHES, "style": _STYLES},
    ),
    "leggings": ("fashion", "Pants", "", "clothes", (10, 45), {"color": _COLOURS, "size": _CLOTHES}),
    "running shoes": ("fashion", "Shoes", "", "shoes", (20, 90), {"color": _COLOURS, "size": _SHOES}),
    "sandals": ("fashion", "Shoes", "", "shoes", (12, 60), {"size": _SHOES, "color": _COLOURS}),
    "trail mix": ("grocery", "Snacks", "", "food", (6, 30), {"flavor": _FLAVOURS, "weight": _WEIGHTS}),
    "green tea": ("grocery", "Drinks", "", "food", (5, 28), {"flavor": _FLAVOURS, "count": _COUNTS}),
    "protein bars": ("grocery", "Snacks", "", "food", (8, 40), {"count": _COUNTS, "flavor": _FLAVOURS}),
    "throw pillow": ("home", "Bedding", "a", "home", (9, 45), {"color": _COLOURS, "size": _CLOTHES}),
    "table lamp": ("home", "Lighting", "a", "home", (18, 85), {"style": _STYLES, "color": _COLOURS}),
}

_HEADS = (
    "i am looking for {thing}",
    "i need {thing}",
    "find me {thing}",
    "i want to buy {thing}",
    "can you show me {thing}",
    "looking for {thing}",
    "get me {thing}",
)
_PHRASES = {
    "color": ("in {}", "in the color {}", "{} colored"),
    "scent": ("with {} scent", "in {} scent"),
    "flavor": ("in {} flavor", "with {} flavor"),
    "style": ("in {} style", "with a {} look"),
    "size": ("in size {}", "size {}", "in a size {}"),
    "volume": ("in {}", "that comes in {}"),
    "weight": ("in {}", "that weighs {}"),
    "length": ("that is {} long", "{} long"),
    "count": ("as a {}", "in a {}"),
}


def invented_brands(rng: random.Random, n: int, avoid: frozenset[str] = frozenset()) -> list[str]:
    """`n` brand names of 4 to 7 letters that mean nothing, none of them in `avoid`."""
    brands: dict[str, None] = {}
    while len(brands) < n:
        parts = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))]
        name = ("".join(parts) + rng.choice(("", "n", "r", "x", "l"))).capitalize()
        if name not in avoid:
            brands[name] = None
    return list(brands)


def catalogue(
    seed: int | str, products: int, brands: Sequence[str], avoid: frozenset[str] = frozenset()
) -> list[Product]:
    """`products` products with titles that differ; asins are `B` and 4 digits, none in `avoid`."""
    rng = random.Random(f"catalogue/{seed}")
    free = [a for a in (f"B{i:04d}" for i in range(10_000)) if a not in avoid]
    asins = rng.sample(free, products)
    nouns = list(_KINDS)
    found: list[Product] = []
    titles = set()
    while len(found) < products:
        noun = nouns[len(found) % len(nouns)]
        product = _product(rng, asins[len(found)], noun, rng.choice(brands))
        if product.title not in titles:
            titles.add(product.title)
            found.append(product)
    rng.shuffle(found)
    return found


def _product(rng: random.Random, asin: str, noun: str, brand: str) -> Product:
    group, path, _, pool, (low, high), values = _KINDS[noun]
    own = rng.sample(_ATTRIBUTES[pool], 4)
    in_title = 2 if len(f"{brand} {own[0]} {own[1]} {noun}") <= 43 and rng.random() < 0.4 else 1
    shown, hidden = own[:in_title], own[in_title:]
    title = " ".join([brand, *(a.title() for a in shown), noun.title()])
    price = round(rng.randint(low, high - 1) + rng.choice((0.49, 0.95, 0.99)), 2)
    text = f"{brand} {noun}, {hidden[0]}."
    bullets = [f"{hidden[-1].capitalize()} and made to last", shown[0].capitalize()]
    return Product(
        asin=asin,
        title=title,
        query=noun,
        product_category=f"{group.title()} › {path} › {noun.title()}",
        category=group,
        description=text[0].upper() + text[1:],
        bullets=tuple(bullets),
        attributes=tuple(own),
        options=_options(rng, values),
        price=price,
        price_tag=f"${price}",
    )


def _options(rng: random.Random, pools: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Every size, as shops have them, but only 3 or 4 of the colours; one product in 16 has none."""
    if rng.random() < 1 / 16:
        return {}
    options = {}
    for name, pool in pools.items():
        if name in SIZE_LIKE:
            options[name] = tuple(pool)
        elif rng.random() < 0.95:
            options[name] = tuple(rng.sample(pool, rng.choice((3, 4))))
    return options


def shop_tasks(products: Sequence[Product], sizes: dict[str, int], seed: int | str) -> dict[str, list[Task]]:
    """Tasks by split. Each product is the target of at most one, so splits share no target."""
    rng = random.Random(f"tasks/{seed}")
    targets = rng.sample(list(products), sum(sizes.values()))
    tasks: dict[str, list[Task]] = {}
    for split, n in sizes.items():
        chosen, targets = targets[:n], targets[n:]
        tasks[split] = [_task(rng, p, f"shop-{seed}-{split}-{i:03d}", split) for i, p in enumerate(chosen)]
    return tasks


def _task(rng: random.Random, product: Product, task_id: str, split: str) -> Task:
    attributes = rng.sample(product.attributes[:3], rng.choice((1, 1, 1, 2)))
    n_options = min(len(product.options), rng.choices((3, 2, 1, 0), (40, 47, 10, 3))[0])
    kinds = rng.sample(sorted(product.options), n_options)
    values = [rng.choice(product.options[kind]) for kind in kinds]
    limit = price_upper(product.price, rng)
    text = _instruction(rng, product, attributes, dict(zip(kinds, values, strict=True)), limit)
    setup = {
        "asin": product.asin,
        "category": product.category,
        "query": product.query,
        "name": product.title,
        "product_category": product.product_category,
        "attributes": attributes,
        "goal_options": values,
        "option_kinds": kinds,
        "price_upper": limit,
    }
    return Task(task_id, "shop", split, text, setup)


def _instruction(
    rng: random.Random, product: Product, attributes: list[str], options: dict[str, str], limit: float
) -> str:
    """Somebody asks for a product like this, with these attributes and options."""
    article = _KINDS[product.query][2] if product.query in _KINDS else ""
    if len(attributes) == 2 and rng.random() < 0.4:
        thing = f"{article} {product.query}, {' and '.join(attributes)},".strip()
    else:
        article = "an" if article and attributes[0][0] in "aeiou" else article
        thing = f"{article} {' and '.join(attributes)} {product.query}".strip()
    phrases = [rng.choice(_PHRASES.get(kind, ("with {}",))).format(value) for kind, value in options.items()]
    text = " ".join([rng.choice(_HEADS).format(thing=thing), rng.choice((", ", " ")).join(phrases)])
    return f"{text.strip(' ,')}, and price lower than {limit:.2f} dollars"


def hindsight(shop: Shop, task: Task, rng: random.Random) -> str | None:
    """What the purchase fulfils to the full, whatever `task` asked for: an attribute of its title, the options that were chosen."""
    product, chosen = shop.purchase()
    if product is None:
        return None
    limit = price_upper(product.price, rng)
    return _instruction(rng, product, list(product.attributes[:1]), chosen, limit)


@lru_cache(maxsize=1)
def _shipped() -> tuple[Catalogue, dict[str, list[Task]]]:
    brands = invented_brands(random.Random(f"brands/{WORLD_SEED}"), 48)
    products = catalogue(WORLD_SEED, sum(SIZES.values()), brands)
    return Catalogue(products), shop_tasks(products, SIZES, WORLD_SEED)


@lru_cache(maxsize=2)
def _loaded(folder: str) -> tuple[Catalogue, dict[str, list[Task]]]:
    return load(folder)


def make(data: str | Path | None = None) -> Shop:
    """The shipped world's shop, or the shop of WebShop's own files in the folder `data`."""
    if data is None:
        shared, by_split = _shipped()
        return Shop(shared, by_split["train"], **SMALL)
    shared, by_split = _loaded(str(data))
    return Shop(shared, by_split["train"])


def tasks(split: str, data: str | Path | None = None) -> list[Task]:
    """The tasks of a split (`train`, `dev`, `test`). Raises ValueError for another name."""
    by_split = (_shipped() if data is None else _loaded(str(data)))[1]
    if split not in by_split:
        raise ValueError(f"no split {split!r}; the shop has {', '.join(by_split)}")
    return list(by_split[split])


def pretraining_world(seed: int, products: int = 160, n_tasks: int = 120) -> tuple[Shop, list[Task]]:
    """Another shop and its tasks, for the base model's corpus.

    It shares no brand, hence no title, and no asin with the shipped world; words are the same.
    """
    shipped = _shipped()[0].products
    known = frozenset(p.title.split()[0] for p in shipped.values())
    rng = random.Random(f"pretraining/{seed}")
    brands = invented_brands(rng, 24, avoid=known)
    goods = catalogue(f"pretraining/{seed}", products, brands, avoid=frozenset(shipped))
    by_split = shop_tasks(goods, {"pretrain": n_tasks}, f"p{seed}")
    return Shop(Catalogue(goods), by_split["pretrain"], **SMALL), by_split["pretrain"]
