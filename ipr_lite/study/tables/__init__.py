"""The tables of the book, ours beside the paper's, from `data/results` alone.

A page of the book holds each table between two comments, `<!-- table NAME -->` and `<!-- end -->`;
`python -m ipr_lite tables` writes them anew, the same bytes from the same results. Verdicts are not written by hand:
`study/power.py` has their rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ipr_lite.records import write_atomically
from ipr_lite.study import plots
from ipr_lite.study.tables.ablations import deviations, table4, table4_rounds
from ipr_lite.study.tables.budgets import both_budgets, budget_claims, headline
from ipr_lite.study.tables.comparison import (
    cost,
    optimism,
    reward_model_fit,
    searched,
    table2,
    table2_claims,
    table2_controls,
    table3,
    table5,
    worlds,
)
from ipr_lite.study.tables.figures import figures, write_comparison
from ipr_lite.study.tables.lab import lab, lab_estimators
from ipr_lite.study.tables.map import when_steps_help
from ipr_lite.study.tables.papers import (
    advisers,
    all_papers,
    first_look,
    papers_claims,
    papers_gains,
    search_claims,
    searches,
)
from ipr_lite.study.tables.rates import all_rates, rate_claims
from ipr_lite.study.tables.real_llm import real_llm
from ipr_lite.study.tables.results import FIRST_BASE, RESULTS_FOLDER, Results, difference_cell, mean_cell, verdicts
from ipr_lite.study.tables.step_rewards import case_studies, estimator, fig3, fig4, same_outcome

BOOK = RESULTS_FOLDER.parents[1] / "book"


def on_first_base(table: Callable[[Path], str]) -> Callable[[Path], str]:
    """The same table from what was run on the first base: `data/results/first_base`."""
    return lambda folder: table(folder / FIRST_BASE)


TABLES: dict[str, Callable[[Path], str]] = {
    "worlds": worlds,
    "table2": table2,
    "table2-claims": table2_claims,
    "optimism": optimism,
    "first-worlds": on_first_base(worlds),
    "first-claims": on_first_base(table2_claims),
    "first-controls": on_first_base(table2_controls),
    "table3": on_first_base(table3),
    "table5": on_first_base(table5),
    "reward-model": on_first_base(reward_model_fit),
    "table4": table4,
    "first-table4": on_first_base(table4),
    "table4-rounds": on_first_base(table4_rounds),
    "deviations": on_first_base(deviations),
    "search": on_first_base(searched),
    "both-budgets": both_budgets,
    "budget-claims": budget_claims,
    "headline": headline,
    "lab": lab,
    "lab-estimators": lab_estimators,
    "map": on_first_base(when_steps_help),
    "fig3": on_first_base(fig3),
    "estimator": on_first_base(estimator),
    "fig4": on_first_base(fig4),
    "same-outcome": on_first_base(same_outcome),
    "cases": on_first_base(case_studies),
    "cost": cost,
    "real-llm": real_llm,
    "papers": all_papers,
    "papers-gains": papers_gains,
    "papers-claims": papers_claims,
    "rates": all_rates,
    "rates-claims": rate_claims,
    "papers-first": first_look,
    "papers-advisers": advisers,
    "searches": searches,
    "searches-claims": search_claims,
}

_PLACE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, folder: Path = RESULTS_FOLDER) -> str:
    """A page with its tables written anew. Raises ValueError for a table that does not exist."""

    def filled(found: re.Match) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"no table {found[2]!r}; choose of {', '.join(TABLES)}")
        return f"{found[1]}\n{TABLES[found[2]](folder)}\n{found[3]}"

    return _PLACE.sub(filled, text)


def write_tables(folder: Path = RESULTS_FOLDER) -> list[Path]:
    """Write the tables of all pages of the book and the README anew; returns the pages that changed."""
    changed = []
    for page in [BOOK.parent / "README.md", *sorted(BOOK.rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        new = fill(text, folder)
        if new != text:
            write_atomically(page, new)
            changed.append(page)
    for name, figure in figures(folder).items():
        path = BOOK / "figures" / f"{name}.png"
        image = plots.png_bytes(figure)
        if not path.exists() or path.read_bytes() != image:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, image)
            changed.append(path)
    return changed
