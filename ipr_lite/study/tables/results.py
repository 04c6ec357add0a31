"""What tables are made of: the results of all seeds, cells with intervals, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ipr_lite import DATA, envs
from ipr_lite.evaluation import student_interval
from ipr_lite.methods.base import BASE, CAREFUL
from ipr_lite.records import DataError
from ipr_lite.study import power
from ipr_lite.study.power import Moments, detectable
from ipr_lite.study.results import RESULTS, read_results, show, show_interval, show_signed

RESULTS_FOLDER = DATA / "results"
FIRST_BASE = "first_base"
"""The folder in it with what was run on `data/first-base`, under the defaults of that time."""

WORLDS = {
    title: (name, split, paper) for name in envs.PLACES for title, (split, paper) in envs.world(name).columns.items()
}
"""Where a column's numbers are: its title -> results file's world, split, and the paper's name for it."""


SEEDLESS = (BASE.name, CAREFUL.name)
"""Methods without seeds of their own: every seed says the same of them, so that no interval is theirs."""


class Results:
    """The rows of the files in `data/results` whose name holds a word, such as `table2`."""

    def __init__(self, word: str, folder: Path = RESULTS_FOLDER):
        frames = [read_results(path) for path in sorted(folder.glob(f"*_{word}.csv"))]
        self.rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=RESULTS)

    def of(self, env: str, split: str, method: str) -> pd.DataFrame:
        """The rows of a method, whatever its setting."""
        rows = self.rows
        return rows[(rows["env"] == env) & (rows["split"] == split) & (rows["method"] == method)]

    def rewards(
        self, env: str, split: str, method: str, setting: str = "default", iteration: int | None = None,
        column: str = "reward", scale: str = "tiny", seeds: Iterable[int] = (),
    ) -> dict[int, float]:  # fmt: skip
        """Mean reward (or another column) by seed: of the iterate that dev chose, or of a given one.

        What no seed changes (`SEEDLESS`) has been run once, and is the same for all `seeds`.
        """
        found = self.of(env, split, method)
        found = found[(found["setting"] == setting) & (found["scale"] == scale)]
        found = found[found["selected"] == 1] if iteration is None else found[found["iteration"] == iteration]
        if found["seed"].duplicated().any():
            raise DataError(
                f"results: two rows for {env} {method} {setting} {split}; run one precision and scale a file"
            )
        by_seed = dict(zip(found["seed"], found[column], strict=True))
        return dict.fromkeys(seeds or by_seed, by_seed[min(by_seed)]) if method in SEEDLESS and by_seed else by_seed


def mean_cell(by_seed: dict[int, float], method: str = "") -> str:
    """`0.658 ± 0.031 [9]`: mean over seeds, half of its 95 % interval, seeds; a dash where nothing was run.

    Of a method without seeds of its own the mean alone.
    """
    if not by_seed:
        return "-"
    if method in SEEDLESS:
        return f"{next(iter(by_seed.values())):.3f}"
    mean, low, _ = student_interval([by_seed[seed] for seed in sorted(by_seed)])
    half = "" if math.isnan(low) else f" ± {mean - low:.3f}"
    return f"{mean:.3f}{half} [{len(by_seed)}]"


def difference_cell(found: tuple[float, float, float, int]) -> str:
    """`+0.101 (0.048 to 0.153), sees 0.074 [9]`: mean, 95 % interval, the smallest true difference that these seeds see
    with 80 % probability, seeds; a dash where no seed has both."""
    mean, low, high, seeds = found
    if not seeds:
        return "-"
    sees = f", sees {show(detectable(Moments.behind(mean, low, seeds).sd, seeds))}" if seeds > 1 else ""
    return f"{show_signed(mean)} ({show_interval(low, high)}){sees} [{seeds}]"


def verdicts(found: Sequence[tuple[float, float, float, int]], paper: Sequence[float]) -> list[str]:
    """`power.verdicts` of differences as `study.results.difference` tells them."""
    return power.verdicts([Moments.behind(mean, low, seeds) for mean, low, _, seeds in found], paper)
