"""The book's forest plots, and the pages that a comparison ends with."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ipr_lite import envs
from ipr_lite.methods.base import CAREFUL
from ipr_lite.records import write_atomically
from ipr_lite.study import plots
from ipr_lite.study.report import figure_html
from ipr_lite.study.results import difference, effect_cells, effect_table, markdown_table, read_results
from ipr_lite.study.tables.budgets import budgets_figure
from ipr_lite.study.tables.lab import lab_figure
from ipr_lite.study.tables.map import map_cells
from ipr_lite.study.tables.results import FIRST_BASE, RESULTS_FOLDER, SEEDLESS, WORLDS, Results
from ipr_lite.study.viewer import page, table_html

FRONT = {
    "base": "base: no training",
    "sft": "sft: a clone",
    "sft-long": "sft-long: cloned longer",
    "random-pairs": "random-pairs: control",
    "eto": "eto: outcomes alone",
    "ipr": "ipr: step rewards",
    "sft-careful": "sft-careful: better clone",
    CAREFUL.name: "careful person",
}
"""The rows of the front figure, and what they are called there."""


def figures(folder: Path = RESULTS_FOLDER) -> dict[str, Figure]:
    """The book's forest plots by name; those whose results are not there yet are left out."""
    found = {}
    two = Results("table2", folder).rows
    for env in dict.fromkeys(env for env, _, _ in WORLDS.values()):
        rows = two[(two["env"] == env) & (two["setting"] == "default") & ~two["method"].isin(SEEDLESS)]
        if len(rows):
            found[f"{env}_table2"] = plots.effect_forest(effect_table(rows))
    if len(two):
        found["worlds"] = worlds_figure(folder)
    cells = []
    for env, setting, name, source in map_cells(folder / FIRST_BASE):
        eto, ipr = (source.rewards(env, "test", method, setting) for method in ("eto", "ipr"))
        mean, low, high, seeds = difference(ipr, eto)
        if seeds:
            cells.append(
                (name.split(",")[0] if setting != "default" or env != "shop" else "the default", mean, low, high, seeds)
            )
    if cells:
        sure = [cell[0] for cell in cells if cell[2] > 0]
        takeaway = "interval above 0: " + ", ".join(sure) if sure else "no interval lies above zero"
        found["map"] = plots.forest(cells, "IPR minus ETO, paired by seed (95 % interval)", "When steps help", takeaway)
    for name, drawn in (("lab", lab_figure), ("budgets", budgets_figure)):
        if figure := drawn(folder):
            found[name] = figure
    return found


def worlds_figure(folder: Path = RESULTS_FOLDER) -> Figure:
    """All worlds side by side, on the seeds that IPR, its clone and its control have in every world; what they say."""
    results = Results("table2", folder)
    names = list(dict.fromkeys(results.rows["env"]))
    names.sort(key=list(envs.PLACES).index)
    needed = [results.rewards(env, "test", method) for env in names for method in ("sft", "random-pairs", "ipr")]
    seeds = sorted(set.intersection(*(set(found) for found in needed)))
    panels, above = {}, {method: [] for method in ("sft", "base")}
    for env in names:
        found = {m: results.rewards(env, "test", m, seeds=seeds) for m in FRONT}
        shared = {
            m: {s: by_seed[s] for s in seeds} if by_seed.keys() >= set(seeds) else {} for m, by_seed in found.items()
        }
        panels[env] = {m: list(by_seed.values())[: 1 if m in SEEDLESS else None] for m, by_seed in shared.items()}
        for method, worlds in above.items():
            if difference(shared["ipr"], shared[method])[1] > 0:
                worlds.append(env)
    clone, base = (f"in {' and '.join(worlds)}" if worlds else "nowhere" for worlds in above.values())
    title = f"IPR is surely better than its clone {clone}, surely better than the untrained base {base}"
    return plots.method_panels(panels, FRONT, len(seeds), title)


def write_comparison(results: Path, stem: Path) -> list[Path]:
    """A results file as a table in Markdown and as an HTML page with a forest plot, `STEM.md` and `STEM.html`."""
    rows = read_results(results)
    splits = [name for name in ("test", "dev") if (rows["split"] == name).any()]
    table = effect_table(rows, split=splits[0])
    header, lines = effect_cells(table)
    picture = ""
    if table["difference"].notna().sum() > (table["method"] == "sft").sum():
        picture = figure_html(plots.effect_forest(table), "Gain over SFT, paired by seed.")
    body = table_html(header, lines) + picture
    return [
        write_atomically(stem.with_suffix(".md"), markdown_table(header, lines)),
        write_atomically(stem.with_suffix(".html"), page(f"Comparison: {results.name}", body)),
    ]
