"""Intervals against numbers worked out by hand and by integration; tables byte for byte."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ipr_lite.evaluation import (
    METRICS,
    by_part,
    compare_agents,
    paired_difference,
    read_metrics,
    student_interval,
    summarize,
    t_quantile,
    write_metrics,
)
from ipr_lite.records import DataError, Task, Trajectory
from ipr_lite.study.results import (
    add_results,
    agent_order,
    effect_markdown,
    effect_table,
    read_results,
    results_table,
    worlds_markdown,
)

ROOT = Path(__file__).parent.parent


def coverage(limit: float, degrees: int, pieces: int = 20_000) -> float:
    """P(|T| < limit), by Simpson's rule over the angle whose tangent is T / sqrt(degrees)."""
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    end = math.atan(limit / math.sqrt(degrees))
    heights = [math.cos(end * i / pieces) ** (degrees - 1) for i in range(pieces + 1)]
    total = heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
    return 2 * math.exp(log_scale) * total * end / pieces / 3


@pytest.mark.parametrize("degrees", [*range(1, 16), 30, 99, 299])
def test_the_quantile_leaves_five_percent_outside(degrees):
    assert coverage(t_quantile(degrees), degrees) == pytest.approx(0.95, abs=2e-5)


def test_the_quantile_equals_scipys():
    # scipy.stats.t.ppf(0.975, [4, 9, 19, 49, 249]), scipy 1.17.1
    known = {4: 2.7764451, 9: 2.2621572, 19: 2.0930241, 49: 2.0095752, 249: 1.9695369}
    for degrees, value in known.items():
        assert t_quantile(degrees) == pytest.approx(value, abs=2e-5)
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0)


def test_an_interval_by_hand():
    # 1, 2, 3: mean 2, standard deviation 1, t(2) = 4.302653, half width 4.302653 / sqrt(3) = 2.484138
    mean, low, high = student_interval([1, 2, 3])
    assert (mean, low, high) == pytest.approx((2, -0.484138, 4.484138), abs=1e-5)
    mean, low, high = student_interval([0.5])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="at least one value"):
        student_interval([])


def test_a_paired_difference_removes_what_the_seeds_share():
    a, b = [0.9, 0.5, 0.7], [0.8, 0.4, 0.6]
    assert paired_difference(a, b) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="not 3 and 2"):
        paired_difference(a, b[:2])


def episode(identity: str, reward: float, steps: int, **extra) -> Trajectory:
    turns = [{"role": "user", "content": "o"}, {"role": "assistant", "content": "a"}] * steps
    return Trajectory(Task(identity, "shop", "test", "x"), turns, reward, reward == 1.0, "sft", 0, extra)


def test_a_summary_by_hand():
    row = summarize([episode("1", 1.0, 2, invalid=0), episode("2", 0.5, 5, invalid=2)], "sft", "test")
    assert list(row) == list(METRICS)
    assert (row["n"], row["reward"], row["success"], row["steps"]) == (2, 0.75, 0.5, 3.5)
    assert row["reward_per_step"] == pytest.approx((0.5 + 0.1) / 2)
    assert row["invalid"] == pytest.approx(2 / 7)
    assert row["high"] - row["reward"] == pytest.approx(12.706205 * 0.25)
    assert math.isnan(summarize([episode("1", 1.0, 2)], "sft", "test")["invalid"])


def test_parts_of_a_split_by_hand():
    def numbered(number: str, env: str, split: str) -> Trajectory:
        one = episode(number, 1.0, 2)
        return replace(one, task=replace(one.task, env=env, split=split))

    shop = [numbered("1", "shop", "test"), numbered("2", "shop", "test")]
    house = [
        numbered("3", "house", "test_seen"),
        numbered("4", "house", "test_unseen"),
        numbered("5", "house", "test_seen"),
    ]
    assert by_part(shop, "test") == {"test": shop}
    assert by_part(house, "test") == {"test": house, "test_seen": house[::2], "test_unseen": house[1:2]}
    assert by_part(house[:1], "test_seen") == {"test_seen": house[:1]}
    assert by_part(shop + house, "test") == {"test": shop + house, "test_shop": shop, "test_house": house}


def test_agents_are_compared_on_the_tasks_that_both_did():
    a = [episode("1", 1.0, 1), episode("2", 0.5, 1), episode("3", 0.0, 1)]
    b = [episode("2", 0.25, 1), episode("1", 0.75, 1)]
    assert compare_agents(a, b) == pytest.approx((0.25, 0.25, 0.25, 2))


def metrics(agent: str, split: str = "test", reward: float = 0.5) -> dict:
    return {**dict.fromkeys(METRICS, 0.25), "agent": agent, "split": split, "n": 40, "reward": reward, "low": math.nan}


def test_metrics_keep_the_order_of_agents_within_a_split_and_have_fixed_bytes(tmp_path):
    rows = [metrics(agent) for agent in ("base", "sft", "ipr-2", "ipr-10", "ipr", "careful")] + [metrics("sft", "dev")]
    path = write_metrics(tmp_path / "metrics.csv", rows)
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[:3] == [
        "# schema 1",
        "agent,split,n,reward,low,high,success,reward_per_step,steps,invalid",
        "sft,dev,40,0.500000,nan,0.250000,0.250000,0.250000,0.250000,0.250000",
    ]
    found = read_metrics(path)
    assert [row["agent"] for row in found[1:]] == ["base", "sft", "ipr-2", "ipr-10", "ipr", "careful"]
    assert math.isnan(found[0]["low"]) and found[0]["n"] == 40
    assert write_metrics(path, found).read_text(encoding="utf-8") == text
    assert list(pd.read_csv(path, comment="#").columns) == list(METRICS)


def test_a_metrics_table_reads_as_markdown_and_as_text():
    table = results_table([metrics("sft"), metrics("ipr", reward=0.75)])
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("|-") and lines[3].split("|")[4].strip() == "0.750"
    assert lines[2].split("|")[5].strip() == "-"


def result(method: str, seed: int, reward: float, **other) -> dict:
    row = {
        "env": "shop", "method": method, "setting": "default", "seed": seed, "iteration": 1, "selected": 1,
        "split": "test", "precision": "nf4", "scale": "tiny", "n": 100, "reward": reward, "success": 0.5,
        "steps": 4, "env_steps": 10, "updates": 5, "tokens": 1000,
    }  # fmt: skip
    return {**row, **other}


def results() -> list[dict]:
    rows = [result("sft", seed, round(0.6 + 0.1 * seed, 1)) for seed in range(3)]
    rows += [result("ipr", seed, round(0.7 + 0.1 * seed, 1)) for seed in range(3)]
    rows += [result("ipr", 0, 0.0, selected=0), result("ipr", 0, 0.0, split="dev"), result("eto", 2, 0.9)]
    return rows + [result("ipr", 1, 0.75, setting="expert-wins")]


def test_results_survive_a_round_trip_behind_their_command(tmp_path):
    command = 'python -m ipr_lite compare --out "my, runs" # note'
    path = add_results(tmp_path / "main.csv", results(), command)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "# " + command
    found = read_results(path)
    unmarked = {"budget": "", "panel": "", "episodes": ""}
    assert sorted(found.to_dict("records"), key=str) == sorted((row | unmarked for row in results()), key=str)
    assert list(found["method"]) == sorted(found["method"], key=agent_order)
    first = path.read_bytes()
    assert add_results(path, found.to_dict("records"), command).read_bytes() == first


def test_a_file_of_before_the_hashes_takes_rows_that_have_them(tmp_path):
    path = add_results(tmp_path / "main.csv", results(), "compare")
    old = [line.removesuffix(",budget,panel,episodes").removesuffix(",,,") for line in path.read_text().splitlines()]
    path.write_text("\n".join(old) + "\n")
    assert "panel" not in path.read_text() and set(read_results(path)["panel"]) == {""}
    add_results(path, [results()[0] | {"panel": "abcdefgh", "episodes": "hgfedcba"}], "compare")
    found = read_results(path)
    assert len(found) == len(results()) and sorted(set(found["panel"])) == ["", "abcdefgh"]


@pytest.mark.parametrize(
    ("change", "message"), [({"setting": "a,b"}, "row 1: 'a,b' holds"), ({"method": "a#"}, "row 1: 'a#' holds")]
)
def test_a_cell_that_would_break_the_table_is_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        add_results(tmp_path / "a.csv", [{**results()[0], **change}], "x")


def test_a_table_without_a_column_is_refused(tmp_path):
    row = results()[0]
    del row["tokens"]
    with pytest.raises(DataError, match="row 1: no tokens"):
        add_results(tmp_path / "a.csv", [row], "x")
    path = tmp_path / "b.csv"
    path.write_text("agent,split\nsft,test\n", encoding="utf-8")
    with pytest.raises(DataError, match="b.csv: no column n, reward"):
        read_metrics(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="not a table"):
        read_metrics(path)


def test_results_of_two_commands_stand_side_by_side_and_a_second_run_replaces_the_first(tmp_path):
    path = add_results(tmp_path / "main.csv", [result("sft", 0, 0.5)], "compare nf4")
    add_results(path, [result("sft", 0, 0.6, precision="full")], "compare full")
    add_results(path, [result("sft", 0, 0.7)], "compare nf4")
    found = read_results(path)
    assert sorted(zip(found["precision"], found["reward"])) == [("full", 0.6), ("nf4", 0.7)]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# compare nf4", "# compare full"] and lines[2].startswith("# schema")


def test_effects_are_paired_by_seed_with_the_baseline_of_the_setting_or_the_default():
    table = effect_table(pd.DataFrame(results())).set_index(["setting", "method"])
    ipr = table.loc[("default", "ipr")]
    assert (ipr["seeds"], ipr["pairs"]) == (3, 3)
    assert ipr[["mean", "difference", "difference_low", "difference_high"]].tolist() == pytest.approx(
        [0.8, 0.1, 0.1, 0.1]
    )
    assert ipr["low"] == pytest.approx(0.8 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    eto = table.loc[("default", "eto")]
    assert eto["pairs"] == 1 and eto["difference"] == pytest.approx(0.1) and math.isnan(eto["difference_low"])
    assert table.loc[("expert-wins", "ipr"), "difference"] == pytest.approx(0.05)
    assert list(table.index) == [("default", "sft"), ("default", "eto"), ("default", "ipr"), ("expert-wins", "ipr")]


def test_an_effect_table_is_shown_with_its_signs():
    text = effect_markdown(effect_table(pd.DataFrame(results())))
    assert "minus sft" in text and "+0.100" in text and "0.100 to 0.100" in text


def test_a_line_a_world_says_every_mean_and_the_gains():
    rows = pd.DataFrame([*results(), result("random-pairs", 0, 0.5), result("random-pairs", 1, 0.8)])
    header, _, line = worlds_markdown(rows).splitlines()
    means = dict(zip(header.split("|"), line.split("|")))
    assert {k.strip(): v.strip() for k, v in means.items() if k} == {
        "env": "shop", "precision": "nf4", "seeds": "3", "sft": "0.700", "eto": "0.900", "random-pairs": "0.650",
        "ipr": "0.800", "ipr minus sft, 95 % interval": "+0.100 (0.100 to 0.100)",
        "ipr minus random-pairs, 95 % interval": "+0.100 (-1.171 to 1.371)",
    }  # fmt: skip


def test_two_selected_rows_for_one_seed_are_refused():
    rows = pd.DataFrame([*results(), result("ipr", 0, 0.1)])
    with pytest.raises(DataError, match="two selected rows for .*method ipr, seed 0"):
        effect_table(rows)


def test_the_order_of_agents_is_the_papers_path():
    agents = ["careful", "ipr", "ipr-1", "random-pairs", "eto", "sft", "base"]
    assert sorted(agents, key=agent_order) == agents[::-1][:4] + ["ipr-1", "ipr", "careful"]
