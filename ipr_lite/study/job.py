"""The main job: IPR from the demonstrations to the report."""

from __future__ import annotations

import traceback
from pathlib import Path

from ipr_lite.config import Config
from ipr_lite.engine.folder import write_manifest
from ipr_lite.ipr import ipr
from ipr_lite.methods.judge import judge_of
from ipr_lite.records import write_atomically
from ipr_lite.run import Run
from ipr_lite.study.plan import pairs_line, plan
from ipr_lite.study.report import report
from ipr_lite.study.results import results_table
from ipr_lite.study.showcase import showcase


def run(config: Config, folder: Path, quiet: bool = False) -> Path:
    """All stages in order, then the report, whose path is returned.

    A run that fails leaves error.txt and a report that says why, and the error goes on.
    """
    one = Run(config, folder, quiet)
    with one.locked():
        (one.folder / "error.txt").unlink(missing_ok=True)
        try:
            one.say("resuming: finished stages are kept" if one.resumed else plan(one))
            for number, stage, _ in ipr(one, judge_of(one)):
                if stage == "pairs":
                    one.say(pairs_line(one, number))
            showcase(one)
            rows = one.metrics()
            write_manifest(one.folder, config.seed)
            one.say(results_table([row for row in rows if row["split"].startswith("test")]))
        except Exception as error:
            write_atomically(one.folder / "error.txt", f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
            report(one.folder)
            raise
        return report(one.folder)
