"""How good an agent is, and how sure one can be: means, intervals, differences, tables.

Intervals are Student's t at 95 %: a percentile bootstrap over five seeds covers only 84 %.
Two agents are compared by the differences between their results on the same tasks or seeds,
which is sharper than comparing two intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from ipr_lite.jsonl import SCHEMA_VERSION, DataError, write_whole
from ipr_lite.trajectory import Trajectory

METHODS = (
    "base", "sft", "sft-long", "rft", "best-of-n", "best-of-n-oracle", "ppo", "step-ppo", "naive-step-dpo",
    "eto", "random-pairs", "ipr", "sft-careful", "expert",
)  # fmt: skip
METRICS = ("agent", "split", "n", "reward", "low", "high", "success", "reward_per_step", "steps", "invalid")
RESULTS = (
    "env", "method", "setting", "seed", "iteration", "selected", "split", "precision", "scale", "n",
    "reward", "success", "steps", "env_steps", "updates", "tokens",
)  # fmt: skip

# The 97.5 % quantile of Student's t for 1 to 10 degrees of freedom; above, the series is right to 2e-4.
_T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with `degrees` >= 1 degrees of freedom.

    Above ten it is the Cornish-Fisher series (Abramowitz and Stegun 26.7.5), right to 2e-4.
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}")
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = 1.959963984540054
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (mean, low, high); low and high are NaN for a single value.

    Raises ValueError without values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return mean, mean - half, mean + half


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of a - b, element by element (the same task or the same seed).

    Raises ValueError when the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must come in equal numbers, not {len(a)} and {len(b)}")
    return student_interval([x - y for x, y in zip(a, b)])


def compare_agents(a: Iterable[Trajectory], b: Iterable[Trajectory]) -> tuple[float, float, float, int]:
    """How much more reward `a` got than `b` on the tasks that both did: mean, low, high, n tasks.

    Raises ValueError when they share no task.
    """
    first = {trajectory.id: trajectory.reward for trajectory in a}
    second = {trajectory.id: trajectory.reward for trajectory in b}
    shared = sorted(first.keys() & second.keys())
    return *paired_difference([first[i] for i in shared], [second[i] for i in shared]), len(shared)


def summarize(trajectories: Sequence[Trajectory], agent: str, split: str) -> dict:
    """The metrics of one agent on one split: a row with the columns `METRICS`.

    `reward` is the mean outcome with its 95 % interval (`low`, `high`) over tasks, `success` the
    share of tasks solved, `reward_per_step` the mean of reward / steps, `steps` the mean number of
    actions, `invalid` the share of actions that the world refused (each trajectory's
    `extra["invalid"]` counts them; NaN where one does not say).

    Raises ValueError without trajectories.
    """
    reward, low, high = student_interval([t.reward for t in trajectories])
    n, actions = len(trajectories), sum(t.steps for t in trajectories)
    refused = sum(t.extra.get("invalid", math.nan) for t in trajectories)
    return {
        "agent": agent,
        "split": split,
        "n": n,
        "reward": reward,
        "low": low,
        "high": high,
        "success": sum(t.success for t in trajectories) / n,
        "reward_per_step": math.fsum(t.reward / max(t.steps, 1) for t in trajectories) / n,
        "steps": actions / n,
        "invalid": refused / max(actions, 1),
    }


def by_part(trajectories: Sequence[Trajectory], split: str) -> dict[str, list[Trajectory]]:
    """The trajectories of a split by name: all of them under `split`, then its parts, where it has any.

    A household test is `test_seen` and `test_unseen`; of all worlds together, `test_shop` and so on.
    """
    found = {split: list(trajectories)}
    several = len({t.task.env for t in trajectories}) > 1
    for trajectory in trajectories:
        part = f"{split}_{trajectory.task.env}" if several else trajectory.task.split
        if part != split:
            found.setdefault(part, []).append(trajectory)
    return found


def write_metrics(path: str | Path, rows: Sequence[dict]) -> Path:
    """Write metrics.csv: splits in alphabetical order, in each base, sft, ..., ipr-1, ..., ipr, expert.

    Six decimals, so that equal runs have equal bytes. `pandas.read_csv(path, comment="#")` reads it.
    """
    rows = sorted(rows, key=lambda row: (row["split"], agent_order(row["agent"])))
    return _write_csv(path, rows, METRICS, f"schema {SCHEMA_VERSION}")


def read_metrics(path: str | Path) -> list[dict]:
    """The rows of metrics.csv. Raises DataError with file and column."""
    return read_table(path, METRICS).to_dict("records")


def add_results(path: str | Path, rows: Sequence[dict], command: str) -> Path:
    """Put rows into a results file (columns of `RESULTS`), in place of rows of the same run and agent; see `keep_rows`."""
    keys = ("env", "method", "setting", "seed", "iteration", "split", "precision", "scale")

    def order(row: dict[str, str]) -> tuple:
        return (row["env"], row["setting"] != "default", row["setting"], row["precision"], row["scale"],
                agent_order(row["method"]), int(row["seed"]), int(row["iteration"]), row["split"])  # fmt: skip

    return keep_rows(path, rows, RESULTS, keys, command, order)


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
    new = [_cells(path, number, row, columns) for number, row in enumerate(rows, start=1)]
    if path.exists():
        read_table(path, columns)
        lines = path.read_text(encoding="utf-8").splitlines()
        made = [line[2:] for line in lines if line.startswith("# ") and not line.startswith("# schema")]
        commands = [*made, *({command} - set(made))]
        head, *body = [line.split(",") for line in lines if not line.startswith("#")]
        old = [dict(zip(head, cells)) for cells in body]
    mine = {tuple(row[key] for key in keys) for row in new}
    kept = [row for row in old if tuple(row[key] for key in keys) not in mine]
    return _write_csv(path, sorted([*kept, *new], key=order), columns, *commands, f"schema {SCHEMA_VERSION}")


def read_results(path: str | Path) -> pd.DataFrame:
    """The rows of a results file. Raises DataError with file and column."""
    return read_table(path, RESULTS)


def agent_order(agent: str) -> tuple[int, int, str]:
    """Sorts agents and methods: as in `METHODS`, the iterates just before `ipr`, the expert last."""
    iterate = re.fullmatch(r"ipr-(\d+)", agent)
    if iterate:
        return METHODS.index("ipr") * 2 - 1, int(iterate.group(1)), agent
    known = METHODS.index(agent) if agent in METHODS else METHODS.index("random-pairs")
    return known * 2, 0, agent


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are padded, so that it reads as plain text too.

    The first column is aligned left, the others right.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(columns))]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]) + " |"
        for row in cells
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
    reward = {key: dict(zip(group["seed"], group["reward"])) for key, group in rows.groupby(keys)}
    table = []
    for key, by_seed in reward.items():
        env, setting, precision, scale, method = key
        against = reward.get((env, setting, precision, scale, baseline))
        if against is None:
            against = reward.get((env, "default", precision, scale, baseline), {})
        shared = sorted(by_seed.keys() & against.keys())
        mean, low, high = student_interval([by_seed[seed] for seed in sorted(by_seed)])
        gain = (math.nan,) * 3
        if shared:
            gain = paired_difference([by_seed[s] for s in shared], [against[s] for s in shared])
        table.append((*key, len(by_seed), mean, low, high, *gain, len(shared)))
    columns = [*keys, "seeds", "mean", "low", "high", "difference", "difference_low", "difference_high", "pairs"]
    table.sort(key=lambda row: (row[0], row[1] != "default", row[1:4], agent_order(row[4])))
    found = pd.DataFrame(table, columns=columns)
    found.attrs["baseline"] = baseline
    return found


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
        means = dict(zip(rows["method"], rows["mean"]))
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


def _write_csv(path: str | Path, rows: Sequence[dict], columns: Sequence[str], *comments: str) -> Path:
    cells = [_cells(path, number, row, columns) for number, row in enumerate(rows, start=1)]
    lines = [f"# {comment}" for comment in comments] + [",".join(columns), *(",".join(row.values()) for row in cells)]
    return write_whole(path, "\n".join(lines) + "\n")


def _cells(path: str | Path, number: int, row: dict, columns: Sequence[str]) -> dict[str, str]:
    """A row as texts, real numbers with six decimals."""
    missing = [column for column in columns if column not in row]
    if missing:
        raise DataError(f"{path}, row {number}: no {', '.join(missing)}; every row needs all columns")
    cells = {c: f"{row[c]:.6f}" if isinstance(row[c], float) else str(row[c]) for c in columns}
    wrong = [cell for cell in cells.values() if re.search(r'[,#"\n]', cell)]
    if wrong:
        raise DataError(f'{path}, row {number}: {wrong[0]!r} holds , # " or a line break; leave them out')
    return cells


def read_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of a CSV file behind its comments. Raises DataError with file and column."""
    try:
        table = pd.read_csv(path, comment="#", encoding="utf-8", keep_default_na=False, na_values=["nan"])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table ({error}); write the file anew") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; its columns must be {', '.join(columns)}")
    return table
