"""The shop: WebShop's text mode without its server.

Pages, actions, buttons and reward follow princeton-nlp/WebShop (MIT, Yao et al. 2022) to the
letter, and the wrapping of messages follows IPR (`eval_agent/envs/webshop_env.py`). What differs:
search is BM25 over an index in memory, with Lucene's formula and constants but its own order among
equal scores; the noun tagger is light (see `shop_reward`); a step that buys nothing gives reward 0,
as in WebShop (IPR's patched copy gives such steps a partial reward, which no method here needs).
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
from collections.abc import Iterable, Sequence

import bm25s
import numpy as np

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.shop.reward import Product, Tagger, noun_words, purchase_reward
from ipr_lite.records import Task

SEP = " [SEP] "
PREFIX = "Observation:\n"
NO_ACTION = "Observation: Invalid format. The input must contains 'Action: '"
SUB_PAGES = ("Description", "Features", "Reviews")

# Lucene's English stop words, which WebShop's index uses.
_STOP_WORDS = frozenset(
    """a an and are as at be but by for if in into is it no not of on or such that the their then
    there these they this to was will with""".split()
)


class Catalogue:
    """Products and their search index. Immutable after construction, so that copies share it.

    `stem`: use the Porter stemmer, as Lucene does; needs PyStemmer. The generated worlds do
    without, so that they are the same on every machine.
    """

    def __init__(self, products: Iterable[Product], stem: bool = False):
        self.products: dict[str, Product] = {p.asin: p for p in products}
        self._asins = tuple(self.products)
        self._stem = None
        if stem:
            import Stemmer

            self._stem = Stemmer.Stemmer("porter").stemWords
        self._index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        documents = [self._tokens(_document(p)) for p in self.products.values()]
        self._vocabulary = {word for words in documents for word in words}
        self._index.index(documents, show_progress=False)
        self._cache: dict[tuple[str, int], tuple[str, ...]] = {}

    def search(self, query: str, limit: int) -> tuple[str, ...]:
        """The asins of at most `limit` products that share a word with `query`, best first.

        Equal scores keep the order of the catalogue. A query that begins with `<r>`, `<c>` or `<q>`
        is WebShop's special search: random products, a category, a query of the catalogue. (The
        original draws `<r>` anew each time; here the draw is fixed by the query.) Raises ValueError
        for `<a>`, which the original's text mode cannot do, and for a special search without a word.
        """
        key = (query, limit)
        if key not in self._cache:
            if len(self._cache) > 50_000:
                self._cache.clear()
            special = self._special(query, limit)
            self._cache[key] = self._rank(query, limit) if special is None else special
        return self._cache[key]

    def _special(self, query: str, limit: int) -> tuple[str, ...] | None:
        kind, *words = query.split(" ")
        if kind == "<r>":
            return tuple(random.Random(query).sample(self._asins, min(limit, len(self._asins))))
        if kind == "<a>" or (kind == "<c>" and not words):
            raise ValueError(f"the shop cannot search for {query!r}")
        if kind == "<c>":
            wanted = words[0].strip()
            return tuple(a for a, p in self.products.items() if p.category == wanted)
        if kind == "<q>":
            wanted = " ".join(words).strip()
            return tuple(a for a, p in self.products.items() if p.query == wanted)
        return None

    def _rank(self, query: str, limit: int) -> tuple[str, ...]:
        words = [w for w in self._tokens(query) if w in self._vocabulary]
        if not words:
            return ()
        scores = self._index.get_scores(words)
        best = np.argsort(-scores, kind="stable")[:limit]
        return tuple(self._asins[i] for i in best if scores[i] > 0)

    def _tokens(self, text: str) -> list[str]:
        words = re.findall(r"[^\W_]+(?:[.'][^\W_]+)*", text.lower())
        words = [w.removesuffix("'s") for w in words if w not in _STOP_WORDS]
        return self._stem(words) if self._stem else words


def _document(product: Product) -> str:
    options = ", and ".join(f"{name}: {', '.join(v)}" for name, v in product.options.items())
    first = product.bullets[0] if product.bullets else ""
    return " ".join([product.title, product.description, first, options])


class Shop(TextEnv):
    """WebShop in text mode. One episode is one purchase for one instruction.

    `tasks` are those that `reset()` draws from when none is given. `results_per_page` and
    `max_results` are the original's unless the world is a small one. The reward comes with the
    purchase; after `max_steps` actions without one the episode is truncated with reward 0.
    `info["success"]` is WebShop's: the reward is 1. After a purchase `info["parts"]` holds the
    parts of the reward.
    """

    name = "shop"
    system_prompt = (
        "You are a shopping agent. Reply with a Thought and an Action. "
        "Actions: search[keywords] or click[something on the page]."
    )
    max_steps = 10

    def __init__(
        self,
        catalogue: Catalogue,
        tasks: Sequence[Task],
        results_per_page: int = 10,
        max_results: int = 50,
        nouns: Tagger = noun_words,
    ):
        super().__init__()
        self.catalogue = catalogue
        self.tasks = tuple(tasks)
        self.results_per_page = results_per_page
        self.max_results = max_results
        self._nouns = nouns
        self._task: Task | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Starts `options["task"]`, or a task drawn with `seed`. Returns the search page.

        Raises ValueError for a task of another world or about a product that this shop lacks.
        """
        task = self.task_of(seed, options)
        self._task = task
        self._steps = 0
        self._over, self._reward = False, 0.0
        self._forget()
        return self._render(), {"task": task}

    def parse(self, message: str) -> str | None:
        """`search[...]` or `click[...]` in lower case; the bare text where it is neither."""
        action = _action_text(message)
        if action is None:
            return None
        name, argument = _split(action)
        return action.strip().lower() if argument is None else f"{name}[{argument}]"

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Takes a whole message; see `TextEnv`. Raises RuntimeError outside an episode."""
        if self._task is None or self._over:
            raise RuntimeError("the shop is closed: call reset() before step()")
        info = {"task": self._task, "action": self.parse(action), "success": False}
        reward, bought = 0.0, False
        if info["action"] is None:
            observation, info["invalid"] = NO_ACTION, True
        else:
            info["invalid"] = not self._act(*_split(_action_text(action)))
            bought = self._page == "done"
            if bought:
                reward, info["parts"] = self._buy()
                self._reward = reward
                info["success"] = reward == 1.0
            observation = PREFIX + self._render()
        self._steps += 1
        self._over = bought or self._steps >= self.max_steps
        return observation, reward, bought, self._over and not bought, info

    def clone(self) -> Shop:
        """A copy of the episode; the catalogue, its index and the tasks are shared."""
        other = copy.copy(self)
        other._chosen = dict(self._chosen) if self._task is not None else {}
        other._np_random = copy.deepcopy(self._np_random)
        return other

    def clickables(self) -> list[str]:
        """What `click[...]` accepts on the current page, in lower case."""
        return list(self._clickables())

    def purchase(self) -> tuple[Product | None, dict[str, str]]:
        """What was bought and with which options; None where nothing was."""
        return (self._product(), dict(self._chosen)) if self._page == "done" else (None, {})

    def page_score(self) -> float:
        """AgentBoard's score of the page shown, which the paper takes for the truth about a step (section 5.3).

        A results page is worth its best product, a product's page the product with its best options, a purchase its
        reward; the search page nothing.
        """
        if self._page == "start":
            return 0.0
        if self._page == "done":
            return self._reward
        asins = self._shown() if self._page == "results" else (self._asin,)
        return max((self._best(self.catalogue.products[asin]) for asin in asins), default=0.0)

    def _best(self, product: Product) -> float:
        """The reward of buying a product with the options that suit the task best."""
        values = itertools.product(*product.options.values())
        chosen = (dict(zip(product.options, one, strict=True)) for one in values)
        return max(purchase_reward(product, self._task.setup, product.price, each, self._nouns)[0] for each in chosen)

    def _forget(self) -> None:
        self._page, self._number = "start", 1
        self._hits: tuple[str, ...] = ()
        self._asin: str | None = None
        self._chosen: dict[str, str] = {}

    def _product(self) -> Product:
        return self.catalogue.products[self._asin]

    def _clickables(self) -> dict[str, str | None]:
        """Text to click -> the option's name, where it is an option's value, else None."""
        if self._page == "start" or self._page == "done":
            return {}
        buttons = ["back to search"]
        if self._page == "results":
            buttons += ["next >"] + (["< prev"] if self._number > 1 else [])
            return dict.fromkeys(buttons + [asin.lower() for asin in self._shown()])
        buttons.append("< prev")
        if self._page != "item":
            return dict.fromkeys(buttons)
        buttons += [name.lower() for name in SUB_PAGES] + ["buy now"]
        values = {v: name for name, vs in self._product().options.items() for v in vs}
        return {**dict.fromkeys(buttons), **values}

    def _shown(self) -> tuple[str, ...]:
        first = (self._number - 1) * self.results_per_page
        return self._hits[first : first + self.results_per_page]

    def _act(self, name: str, argument: str | None) -> bool:
        """Changes the page; False where the action is not understood and nothing changes."""
        if argument is None:
            return False
        if name == "search":
            try:
                self._search(argument)
            except ValueError:
                return False
            return True
        if name != "click" or argument not in self._clickables():
            return False
        self._click(argument)
        return True

    def _search(self, query: str) -> None:
        self._hits = self.catalogue.search(query, self.max_results)
        self._number = 1
        self._show_results()

    def _show_results(self) -> None:
        self._page, self._asin, self._chosen = "results", None, {}

    def _click(self, text: str) -> None:
        if text == "buy now":
            self._page = "done"
        elif text == "back to search":
            self._forget()
        elif text == "next >":
            self._number += 1
        elif text == "< prev":
            if self._page == "results":
                self._number -= 1
            elif self._page == "item":
                self._show_results()
            else:
                self._page = "item"
        elif text in [name.lower() for name in SUB_PAGES]:
            self._page = text
        elif self._page == "results":
            self._page, self._asin = "item", next(asin for asin in self._shown() if asin.lower() == text)
        else:
            self._chosen[self._clickables()[text]] = text

    def _buy(self) -> tuple[float, dict]:
        product = self._product()
        return purchase_reward(product, self._task.setup, product.price, self._chosen, self._nouns)

    def _render(self) -> str:
        goal = ["Instruction:", self._task.instruction]
        if self._page == "start":
            parts = ["WebShop", *goal, "Search"]
        elif self._page == "done":
            parts = self._done_parts()
        elif self._page == "results":
            total = f"Page {self._number} (Total results: {len(self._hits)})"
            back = ["< Prev"] if self._number > 1 else []
            parts = [*goal, "Back to Search", total, *back, "Next >"]
            for asin in self._shown():
                product = self.catalogue.products[asin]
                parts += [asin, product.title, product.price_tag]
        else:
            parts = [*goal, "Back to Search", "< Prev", *self._item_parts()]
        return SEP.join(text for text in (part.strip() for part in parts) if text)

    def _done_parts(self) -> list[str]:
        """The page after a purchase, with the original's spelling; it fills in only three fields."""
        options = json.dumps(self._chosen, sort_keys=True)
        for char in "<>&'":
            options = options.replace(char, f"\\u{ord(char):04x}")
        page = """Thank you for shopping with us!|Your code:|None|(Paste it in your MTurk interface.)|
            Purchased|asin|{asin}|options|{options}|attrs|None|category|None|query|None|
            product category|None|Target|asin|options|attrs|price upper|instuction text|category|
            product category|query|Goal|None|Reward|Your score (min 0.0, max 1.0)|{reward}|
            Reward Details|None"""
        return [part.format(asin=self._asin, options=options, reward=self._reward) for part in page.split("|")]

    def _item_parts(self) -> list[str]:
        product = self._product()
        if self._page == "description":
            return [product.description]
        if self._page == "features":
            return list(product.bullets)
        if self._page == "reviews":
            return []
        options = [text for name, values in product.options.items() for text in (name, *values)]
        facts = [product.title, f"Price: {product.price_tag}", "Rating: N.A."]
        return [*options, *facts, *SUB_PAGES, "Buy Now"]


def _action_text(message: str) -> str | None:
    """What follows the first `Action: `, as IPR's wrapper reads it."""
    found = re.search(r"Action: (.*)", message.strip(), re.DOTALL)
    return found.group(1) if found else None


def _split(action: str) -> tuple[str, str | None]:
    """WebShop's `parse_action`: the name and the argument in lower case, None without brackets."""
    line = action.partition("\n")[0]  # as its r"(.+)\[(.+)\]", which takes quadratic time, finds them
    end = line.rfind("]")
    start = line.rfind("[", 1, end - 1) if end > 2 else -1
    return (action[:start], action[start + 1 : end].lower()) if start > 0 else (action, None)
