"""The book's forest plots, and the pages that a comparison ends with."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ipr_lite.jsonl import write_whole
from ipr_lite.study import plots
from ipr_lite.study.report import figure_html
from ipr_lite.study.results import effect_cells, effect_table, markdown_table, read_results
from ipr_lite.study.tables.map import map_cells
from ipr_lite.study.tables.results import RESULTS_FOLDER, Results, difference
from ipr_lite.study.viewer import page, table_html


def figures(folder: Path = RESULTS_FOLDER) -> dict[str, Figure]:
    """The book's forest plots by name; those whose results are not there yet are left out."""
    found = {}
    two = Results("table2", folder).rows
    for env in ("shop", "sql", "house"):
        rows = two[two["env"] == env] if len(two) else two
        if len(rows):
            found[f"{env}_table2"] = plots.effect_forest(effect_table(rows[rows["method"] != "expert"]))
    if len(two):
        shown = two[two["method"].isin(["sft", "sft-long", "random-pairs", "eto", "ipr"])]
        found["worlds"] = plots.effect_forest(effect_table(shown))
    cells = []
    for env, setting, name, source in map_cells(folder):
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
    return found


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
        write_whole(stem.with_suffix(".md"), markdown_table(header, lines)),
        write_whole(stem.with_suffix(".html"), page(f"Comparison: {results.name}", body)),
    ]
