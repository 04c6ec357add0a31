"""WebShop's own data: three JSON files become a catalogue and tasks.

Follows `load_products` and `get_human_goals` of princeton-nlp/WebShop (MIT) with one difference:
the original draws prices (for products with a price range) and price limits from Python's global
random generator while it loads, so its draws depend on the whole file set and on the call order.
Here each draw comes from a hash of the asin (and the number of the goal of that product), so a
product keeps its price and limits whatever else is loaded; the distributions are the same.
"""

from __future__ import annotations

import hashlib
import random
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ipr_lite.envs.shop.env import Catalogue
from ipr_lite.envs.shop.reward import Product
from ipr_lite.jsonl import read_json
from ipr_lite.trajectory import Task

FILES = {
    "products": ("items_shuffle_1000.json", "items_shuffle.json"),
    "attributes": ("items_ins_v2_1000.json", "items_ins_v2.json"),
    "goals": ("items_human_ins.json",),
}
SPLITS = ("train", "dev", "test")
NO_LIMIT = 1_000_000


def load(folder: str | Path) -> tuple[Catalogue, dict[str, list[Task]]]:
    """The catalogue in `folder` and its human goals as tasks, by split (80/10/10 by product).

    Raises FileNotFoundError for a missing file and ValueError for a bad one; the message names the
    file, the record, the field and the remedy.
    """
    products_path, products = _read(folder, "products", list)
    attributes_path, attributes = _read(folder, "attributes", dict)
    goals_path, goals = _read(folder, "goals", dict)
    found: dict[str, Product] = {}
    for number, record in enumerate(products):
        product = _product(record, attributes, f"{products_path.name}, record {number}")
        if product is not None:
            found.setdefault(product.asin, product)
    if not found:
        raise ValueError(f"{products_path.name}: no usable product; take the original file")
    splits = _splits([asin for asin in found if asin in goals])
    tasks: dict[str, list[Task]] = {split: [] for split in SPLITS}
    for asin, split in splits.items():
        for number, goal in enumerate(_of(goals, asin, list, goals_path.name)):
            task = _task(found[asin], goal, number, split, f"{goals_path.name}, record {asin}")
            if task is not None:
                tasks[split].append(task)
    return Catalogue(found.values(), stem=_has_stemmer()), tasks


def price_upper(price: float, rng: random.Random) -> float:
    """The limit a goal names: the larger of two of the next four multiples of 10 dollars.

    1,000,000 (no limit) where fewer than two multiples below 1,000 are left, as in WebShop.
    """
    above = [10.0 * i for i in range(1, 100) if 10.0 * i > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_LIMIT


def _read(folder: str | Path, what: str, kind: type) -> tuple[Path, Any]:
    names = FILES[what]
    paths = [Path(folder) / name for name in names if (Path(folder) / name).is_file()]
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no {' or '.join(names)}; download WebShop's data (its setup.sh) into this folder"
        )
    return paths[0], read_json(paths[0], kind, "download WebShop's original file again")


def _of(record: Any, field: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(record, dict) or field not in record:
        raise ValueError(f"{where}: field {field!r} is missing; take WebShop's original file")
    if not isinstance(record[field], kind):
        raise ValueError(
            f"{where}: field {field!r} is {type(record[field]).__name__}, which cannot be; take WebShop's original file"
        )
    return record[field]


def _product(record: Any, attributes: dict, where: str) -> Product | None:
    asin = _of(record, "asin", str, where)
    if asin == "nan" or len(asin) > 10:
        return None
    bullets = _of(record, "small_description", (list, str), where)
    prices, tag = _prices(record, where)
    rng = _rng(f"price/{asin}")
    entry = attributes.get(asin)
    known = entry is not None and "attributes" in entry
    return Product(
        asin=asin,
        title=_of(record, "name", str, where),
        query=_of(record, "query", str, where).lower().strip(),
        product_category=_of(record, "product_category", str, where),
        category=_of(record, "category", str, where),
        description=_of(record, "full_description", str, where),
        bullets=bullets if isinstance(bullets, list) else [bullets],
        attributes=tuple(_of(entry, "attributes", list, f"attributes of {asin}")) if known else ("DUMMY_ATTR",),
        options=_options(record, where),
        price=prices[0] if len(prices) == 1 else rng.uniform(*prices),
        price_tag=tag,
    )


def _prices(record: dict, where: str) -> tuple[list[float], str]:
    if not record.get("pricing"):
        return [100.0], "$100.0"
    text = _of(record, "pricing", str, where)
    try:
        prices = [float(Decimal(re.sub(r"[^\d.]", "", part))) for part in text.split("$")[1:]]
    except InvalidOperation:
        prices = []
    if not prices:
        raise ValueError(f"{where}: field 'pricing' is {text!r}; write it like $19.99 or $9.99$19.99")
    return prices[:2], " to ".join(f"${price}" for price in prices[:2])


def _options(record: dict, where: str) -> dict[str, tuple[str, ...]]:
    options = {}
    for name, contents in (record.get("customization_options") or {}).items():
        if contents is not None:
            values = [_of(c, "value", str, f"{where}, option {name!r}") for c in contents]
            options[name.lower()] = tuple(v.strip().replace("/", " | ").lower() for v in values)
    return options


def _task(product: Product, goal: Any, number: int, split: str, where: str) -> Task | None:
    attributes = _of(goal, "instruction_attributes", list, where)
    if not attributes:
        return None
    limit = price_upper(product.price, _rng(f"limit/{product.asin}/{number}"))
    text = _of(goal, "instruction", str, where).strip(".")
    if limit != NO_LIMIT:
        text += f", and price lower than {limit:.2f} dollars"
    setup = {
        "asin": product.asin,
        "category": product.category,
        "query": product.query,
        "name": product.title,
        "product_category": product.product_category,
        "attributes": attributes,
        "goal_options": _of(goal, "instruction_options", (list, dict), where),
        "price_upper": limit,
    }
    return Task(f"webshop-{product.asin}-{number}", "shop", split, text, setup)


def _splits(asins: list[str]) -> dict[str, str]:
    ordered = sorted(asins, key=lambda asin: (_hash(f"split/{asin}"), asin))
    dev, test = round(0.8 * len(ordered)), round(0.9 * len(ordered))
    return {a: SPLITS[(i >= dev) + (i >= test)] for i, a in enumerate(ordered)}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _rng(text: str) -> random.Random:
    return random.Random(_hash(text))


def _has_stemmer() -> bool:
    try:
        import Stemmer  # noqa: F401
    except ImportError:
        return False
    return True
