"""Results files: a row a cell, beside the commands that made them; what a method gains; tables for people."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ipr_lite.evaluation import cells_of, paired_difference, read_table, student_interval, write_csv
from ipr_lite.methods import METHODS
from ipr_lite.records import SCHEMA_VERSION, DataError

RESULTS = (
    "env", "method", "setting", "seed", "iteration", "selected", "split", "precision", "scale", "n",
    "reward", "success", "steps", "env_steps", "updates", "tokens", "budget", "panel", "episodes",
)  # fmt: skip
LATER = ("budget", "panel", "episodes")
"""Columns that older files lack: what a method might explore (`Config.budget`, in `setting` too, if it is not "equal"), and
hashes of which tasks were played, and of all that was said in them and earned."""


KEYS = ("env", "method", "setting", "seed", "iteration", "split", "precision", "scale")
"""What a row of a results file is about: no two rows have all of these alike."""

TASKS = (*KEYS, "selected", "panel", "rewards")
"""Columns of a `_tasks` file: what a results row is the mean of, in thousandths, a number a task, joined by blanks."""


def add_results(path: str | Path, rows: Sequence[dict], command: str) -> Path:
    """Put rows into a results file (columns of `RESULTS`), in place of rows of the same run and agent; see `keep_rows`."""
    rows = [dict.fromkeys(LATER, "") | {column: row[column] for column in RESULTS if column in row} for row in rows]
    return keep_rows(path, rows, RESULTS, KEYS, command, _order)


def add_task_rewards(path: str | Path, rows: Sequence[dict], command: str) -> Path:
    """Put the rewards, task by task, of rows that have them (`rewards`, a list) beside a results file, as `tasks_file` names it."""
    whole = [row | {"rewards": " ".join(f"{1000 * r:.0f}" for r in row["rewards"])} for row in rows if "rewards" in row]
    whole = [{column: row[column] for column in TASKS} for row in whole]
    return keep_rows(tasks_file(path), whole, TASKS, KEYS, command, _order)


def tasks_file(path: str | Path) -> Path:
    """Where the single tasks of a results file are: `shop_table2.csv` has them in `shop_table2_tasks.csv`."""
    return Path(path).with_name(f"{Path(path).stem}_tasks.csv")


def _order(row: dict[str, str]) -> tuple:
    return (row["env"], row["setting"] != "default", row["setting"], row["precision"], row["scale"],
            agent_order(row["method"]), int(row["seed"]), int(row["iteration"]), row["split"])  # fmt: skip


def keep_rows(
    path: str | Path, rows: Sequence[dict], columns: Sequence[str], keys: Sequence[str], command: str,
    order: Callable[[dict[str, str]], tuple],
) -> Path:  # fmt: skip
    """Put rows into a CSV file, new or beside what other commands put there.

    A row whose `keys` are those of a new one goes; the others keep their bytes; `order` sorts all, whatever order they
    came in. The first lines, after `# `, are the commands that made the file and its schema. Raises DataError for rows
    that do not make a table.
    """
    if "\n" in command:
        raise DataError(f"{path}: the command has a line break; write it in one line")
    path, commands, old = Path(path), [command], []
    new = [cells_of(path, number, row, columns) for number, row in enumerate(rows, start=1)]
    if path.exists():
        read_table(path, [column for column in columns if column not in LATER])
        lines = path.read_text(encoding="utf-8").splitlines()
        made = [line[2:] for line in lines if line.startswith("# ") and not line.startswith("# schema")]
        commands = [*made, *({command} - set(made))]
        head, *body = [line.split(",") for line in lines if not line.startswith("#")]
        old = [dict.fromkeys(columns, "") | dict(zip(head, cells, strict=True)) for cells in body]
    mine = {tuple(row[key] for key in keys) for row in new}
    kept = [row for row in old if tuple(row[key] for key in keys) not in mine]
    return write_csv(path, sorted([*kept, *new], key=order), columns, *commands, f"schema {SCHEMA_VERSION}")


def read_results(path: str | Path) -> pd.DataFrame:
    """The rows of a results file. Raises DataError with file and column."""
    rows = read_table(path, [column for column in RESULTS if column not in LATER])
    for column in LATER:
        rows[column] = rows[column].fillna("") if column in rows else ""
    return rows.replace({"method": {"expert": "careful"}})  # the name in older files


def agent_order(agent: str) -> tuple[int, int, str]:
    """Sorts agents and methods: as in `METHODS`, the iterates just before `ipr`, the careful person last."""
    order = list(METHODS)
    iterate = re.fullmatch(r"ipr-(\d+)", agent)
    if iterate:
        return order.index("ipr") * 2 - 1, int(iterate.group(1)), agent
    known = order.index(agent if agent in order else "random-pairs")
    return known * 2, 0, agent


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are padded, so that it reads as plain text too.

    The first column is aligned left, the others right.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(columns))]
    lines = [
        "| " + " | ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(row, widths[1:], strict=True))]) + " |"
        for first, *row in cells
    ]
    rule = "|-" + "-" * widths[0] + "-|" + "".join("-" + "-" * width + ":|" for width in widths[1:])
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


METRICS_HEADER = ("agent", "split", "n", "reward", "95 % interval", "success", "reward/step", "steps", "invalid")


def results_table(rows: Sequence[dict]) -> str:
    """The metrics of a run as a table that is Markdown and readable as plain text."""
    return markdown_table(METRICS_HEADER, [metrics_cells(row) for row in rows])


def metrics_cells(row: dict) -> list[str]:
    """One metrics row as the texts under `METRICS_HEADER`."""
    return [
        str(row["agent"]), str(row["split"]), str(int(row["n"])), show(row["reward"]),
        show_interval(row["low"], row["high"]), show(row["success"]), show(row["reward_per_step"]),
        show(row["steps"], 1), show(row["invalid"]),
    ]  # fmt: skip


def effect_table(results: pd.DataFrame, baseline: str = "sft", split: str = "test") -> pd.DataFrame:
    """What every method gains over the baseline: one row per env, setting, precision, scale, method.

    Uses the rows of `split` with `selected` = 1 (the iterate chosen on dev). `mean` is the mean
    reward over the `seeds`, with its 95 % interval; `difference` the mean over the `pairs` seeds
    that the baseline has too, with its own interval. The baseline is that of the same setting, or
    of the setting `default` where the ablation has none of its own.

    Raises DataError where a method has two selected rows for one seed.
    """
    rows = results[(results["split"] == split) & (results["selected"] == 1)]
    keys = ["env", "setting", "precision", "scale", "method"]
    twice = rows[rows.duplicated([*keys, "seed"])]
    if len(twice):
        place = ", ".join(f"{key} {twice.iloc[0][key]}" for key in [*keys, "seed"])
        raise DataError(f"results: two selected rows for {place}; mark one of them with selected 1")
    reward = {key: dict(zip(group["seed"], group["reward"], strict=True)) for key, group in rows.groupby(keys)}
    table = []
    for key, by_seed in reward.items():
        env, setting, precision, scale, method = key
        against = reward.get((env, setting, precision, scale, baseline))
        if against is None:
            against = reward.get((env, "default", precision, scale, baseline), {})
        mean, low, high = student_interval([by_seed[seed] for seed in sorted(by_seed)])
        table.append((*key, len(by_seed), mean, low, high, *difference(by_seed, against)))
    columns = [*keys, "seeds", "mean", "low", "high", "difference", "difference_low", "difference_high", "pairs"]
    table.sort(key=lambda row: (row[0], row[1] != "default", row[1:4], agent_order(row[4])))
    found = pd.DataFrame(table, columns=columns)
    found.attrs["baseline"] = baseline
    return found


def difference(first: dict[int, float], second: dict[int, float]) -> tuple[float, float, float, int]:
    """Mean and 95 % interval of first - second over the seeds that both have, and their number."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return math.nan, math.nan, math.nan, 0
    return *paired_difference([first[s] for s in shared], [second[s] for s in shared]), len(shared)


def effect_markdown(table: pd.DataFrame) -> str:
    """An effect table as Markdown, readable as plain text."""
    return markdown_table(*effect_cells(table))


def effect_cells(table: pd.DataFrame) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and lines of an effect table, as people read them."""
    baseline = table.attrs.get("baseline", "baseline")
    header = (
        "method",
        "env",
        "setting",
        "precision",
        "seeds",
        "reward",
        "95 % interval",
        f"minus {baseline}",
        "95 % interval",
        "pairs",
    )
    rows = [
        (
            row.method, row.env, row.setting, row.precision, row.seeds, show(row.mean),
            show_interval(row.low, row.high),
            "" if row.method == baseline else show_signed(row.difference),
            "" if row.method == baseline else show_interval(row.difference_low, row.difference_high),
            row.pairs,
        )
        for row in table.itertuples()
    ]  # fmt: skip
    return header, rows


def worlds_markdown(results: pd.DataFrame, against: Sequence[str] = ("sft", "random-pairs")) -> str:
    """The effect in a line a world: every method's mean reward, what IPR gains over the methods `against`."""
    tables = {method: effect_table(results, method) for method in against}
    first = tables[against[0]]
    first = first[first["setting"] == "default"]
    methods = sorted(set(first["method"]), key=agent_order)
    header = ("env", "precision", "seeds", *methods, *(f"ipr minus {method}, 95 % interval" for method in against))
    lines = []
    for (env, precision), rows in first.groupby(["env", "precision"], sort=False):
        means = dict(zip(rows["method"], rows["mean"], strict=True))
        gains = []
        for table in tables.values():
            mine = (table["env"] == env) & (table["precision"] == precision) & (table["setting"] == "default")
            ipr = table[mine & (table["method"] == "ipr")].iloc[0]
            gains.append(f"{show_signed(ipr.difference)} ({show_interval(ipr.difference_low, ipr.difference_high)})")
        shown = [show(means.get(method, math.nan)) for method in methods]
        lines.append((env, precision, rows["seeds"].max(), *shown, *gains))
    return markdown_table(header, lines)


def show(value: float, digits: int = 3) -> str:
    """A number for people; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def show_signed(value: float) -> str:
    """A difference for people, always with its sign; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:+.3f}"


def show_interval(low: float, high: float) -> str:
    """An interval for people; a dash where it is not known."""
    return "-" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
