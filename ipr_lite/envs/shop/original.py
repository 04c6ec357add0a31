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
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, TypeAdapter

from ipr_lite.envs.shop.env import Catalogue
from ipr_lite.envs.shop.reward import Product
from ipr_lite.records import DataError, Task, checked, read_json

FILES = {
    "products": ("items_shuffle_1000.json", "items_shuffle.json"),
    "attributes": ("items_ins_v2_1000.json", "items_ins_v2.json"),
    "goals": ("items_human_ins.json",),
}
SPLITS = ("train", "dev", "test")
NO_LIMIT = 1_000_000


class _Value(BaseModel):
    value: str


class _Product(BaseModel):
    """A record of the products' file, as far as it is read."""

    asin: str
    name: str
    query: str
    product_category: str
    category: str
    full_description: str
    small_description: Annotated[list[str], BeforeValidator(lambda told: [told] if isinstance(told, str) else told)]
    pricing: str | None = None
    customization_options: Annotated[dict[str, list[_Value] | None], BeforeValidator(lambda told: told or {})] = {}


class _Attributes(BaseModel):
    attributes: tuple[str, ...] = ("DUMMY_ATTR",)


class _Goal(BaseModel):
    instruction: str
    instruction_attributes: list[str]
    instruction_options: list[str] | dict[str, str]


_PRODUCT, _ATTRIBUTES, _GOALS = map(TypeAdapter, (_Product, _Attributes, list[_Goal]))


def load(folder: str | Path) -> tuple[Catalogue, dict[str, list[Task]]]:
    """The catalogue in `folder` and its human goals as tasks, by split (80/10/10 by product).

    Raises FileNotFoundError for a missing file and DataError for a bad one; the message names the
    file, the record, the field and the remedy.
    """
    products_path, products = _read(folder, "products", list)
    attributes_path, attributes = _read(folder, "attributes", dict)
    goals_path, goals = _read(folder, "goals", dict)
    found: dict[str, Product] = {}
    for number, record in enumerate(products):
        asin = record.get("asin") if isinstance(record, dict) else None
        if isinstance(asin, str) and (asin == "nan" or len(asin) > 10 or asin in found):
            continue
        read = _checked(_PRODUCT, record, f"{products_path}, record {number}")
        known = _checked(_ATTRIBUTES, attributes.get(asin, {}), f"{attributes_path}, record {asin}")
        found[asin] = _product(read, known.attributes, f"{products_path}, record {number}")
    if not found:
        raise DataError(f"{products_path}: no usable product; take the original file")
    tasks: dict[str, list[Task]] = {split: [] for split in SPLITS}
    for asin, split in _splits([asin for asin in found if asin in goals]).items():
        for number, goal in enumerate(_checked(_GOALS, goals[asin], f"{goals_path}, record {asin}")):
            if goal.instruction_attributes:
                tasks[split].append(_task(found[asin], goal, number, split))
    return Catalogue(found.values(), stem=_has_stemmer()), tasks


def _checked(adapter: TypeAdapter, record: Any, where: str) -> Any:
    try:
        return checked(adapter, record)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


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


def _product(read: _Product, attributes: tuple[str, ...], where: str) -> Product:
    prices, tag = _prices(read.pricing, where)
    return Product(
        asin=read.asin,
        title=read.name,
        query=read.query.lower().strip(),
        product_category=read.product_category,
        category=read.category,
        description=read.full_description,
        bullets=read.small_description,
        attributes=attributes,
        options={
            name.lower(): tuple(one.value.strip().replace("/", " | ").lower() for one in values)
            for name, values in read.customization_options.items()
            if values is not None
        },
        price=prices[0] if len(prices) == 1 else _rng(f"price/{read.asin}").uniform(*prices),
        price_tag=tag,
    )


def _prices(text: str | None, where: str) -> tuple[list[float], str]:
    if not text:
        return [100.0], "$100.0"
    try:
        prices = [float(Decimal(re.sub(r"[^\d.]", "", part))) for part in text.split("$")[1:]]
    except InvalidOperation:
        prices = []
    if not prices:
        raise DataError(f"{where}: field 'pricing' is {text!r}; write it like $19.99 or $9.99$19.99")
    return prices[:2], " to ".join(f"${price}" for price in prices[:2])


def _task(product: Product, goal: _Goal, number: int, split: str) -> Task:
    limit = price_upper(product.price, _rng(f"limit/{product.asin}/{number}"))
    text = goal.instruction.strip(".")
    if limit != NO_LIMIT:
        text += f", and price lower than {limit:.2f} dollars"
    setup = {
        "asin": product.asin,
        "category": product.category,
        "query": product.query,
        "name": product.title,
        "product_category": product.product_category,
        "attributes": goal.instruction_attributes,
        "goal_options": goal.instruction_options,
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
