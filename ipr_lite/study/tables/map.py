"""When step rewards beat outcomes: IPR against ETO where what should matter is varied."""

from __future__ import annotations

from pathlib import Path

from ipr_lite.study.results import difference, markdown_table
from ipr_lite.study.tables.results import RESULTS_FOLDER, Results, difference_cell, mean_cell

MAP_METHODS = ("sft", "eto", "ipr")
MAP = (
    ("shop", "default", "one purchase, three habits, 160 demonstrations, N = 5, 2 rounds"),
    ("shop-2", "iterations=1", "two purchases, one outcome, 1 round"),
    ("shop-3", "iterations=1", "three purchases, one outcome, 1 round"),
    ("shop", "habits=skips-size", "one habit: leaves out the size"),
    ("shop", "habits=takes-first", "one habit: takes the first hit"),
    ("shop", "demonstrations=40", "40 demonstrations"),
    ("shop", "demonstrations=80", "80 demonstrations"),
    ("shop", "demonstrations=320", "320 demonstrations"),
    ("shop", "samples=1", "N = 1"),
    ("shop", "samples=20", "N = 20"),
    ("shop", "iterations=4", "4 rounds"),
)


def map_cells(folder: Path = RESULTS_FOLDER) -> list[tuple[str, str, str, Results]]:
    """World, setting, name and rows of every cell: Table 2 has the default in the shop, the map's own files the rest."""
    two, rest = Results("table2", folder), Results("map", folder)
    return [(env, setting, name, two if (env, setting) == ("shop", "default") else rest) for env, setting, name in MAP]


def when_steps_help(folder: Path = RESULTS_FOLDER) -> str:
    """IPR against ETO where what should matter is varied: one line a cell, after the round that dev chose."""
    two = Results("table2", folder)
    rows = []
    for env, setting, name, source in map_cells(folder):
        sft, eto, ipr = (source.rewards(env, "test", method, setting) for method in MAP_METHODS)
        if not sft:
            sft = two.rewards(env, "test", "sft")  # settings that leave SFT as it is
            sft = {seed: sft[seed] for seed in ipr if seed in sft}
        first = difference(
            source.rewards(env, "test", "ipr", setting, 1), source.rewards(env, "test", "eto", setting, 1)
        )
        rows.append((
            name, mean_cell(sft), mean_cell(eto), mean_cell(ipr), difference_cell(difference(ipr, eto)), difference_cell(first),
        ))  # fmt: skip
    header = ("cell", "SFT", "ETO", "IPR", "IPR minus ETO, 95 % interval [seeds]", "after round 1, nothing chosen")
    return markdown_table(header, rows)
