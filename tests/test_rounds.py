"""What every round of a run has made, from its files."""

import json
import math
import shutil

from ipr_lite.__main__ import main
from ipr_lite.model import TINY_BASE
from ipr_lite.records import read_pairs, read_step_rewards
from ipr_lite.study.results import read_table
from ipr_lite.study.rounds import COLUMNS, round_rows

SHOWCASE = TINY_BASE.parent / "showcase"


def test_rounds_of_the_shipped_run():
    sft, first, second = round_rows(SHOWCASE)
    assert set(first) == set(COLUMNS) == set(sft)
    assert [row["iteration"] for row in (sft, first, second)] == [0, 1, 2]
    assert math.isnan(sft["dev"]), "the shipped run has no dev episodes"
    dev = json.loads((SHOWCASE / "selected.json").read_text(encoding="utf-8"))["dev"]
    assert [first["dev"], second["dev"]] == list(dev.values())
    earlier = set()
    for number, row in ((1, first), (2, second)):
        place = SHOWCASE / f"iteration-{number}"
        pairs = read_pairs(place / "pairs.jsonl")
        ends = [row[f"{kind}_{end}"] for kind in ("outcome", "step") for end in ("win", "lose")]
        assert sum(ends) == len(pairs)
        assert row["reject_end"] == sum(
            p.kind == "step" and "click[Buy Now]" in p.rejected[0]["content"] for p in pairs
        )
        scored = {(r.id, r.step, r.action) for r in read_step_rewards(place / "step_rewards.jsonl")}
        assert (row["scored"], row["reused"]) == (len(scored), len(scored & earlier))
        earlier |= scored
    assert first["reused"] == 0 < second["reused"]


def test_unfinished_rounds_are_left_out(tmp_path):
    shutil.copytree(SHOWCASE, tmp_path / "run")
    (tmp_path / "run" / "iteration-2" / "pair_counts.json").unlink()
    (tmp_path / "run" / "iteration-1" / "train_log.csv").unlink()
    rows = round_rows(tmp_path / "run")
    assert [row["iteration"] for row in rows] == [0, 1] and math.isnan(rows[1]["margin"])


def test_the_command_puts_rounds_beside_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(SHOWCASE, tmp_path / "runs" / name)
    path = tmp_path / "runs" / "b" / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    assert main(["rounds", "runs/b", "--results", "rounds.csv"]) == 0
    assert main(["rounds", str(tmp_path / "runs" / "*"), "--results", "rounds.csv"]) == 0
    table = read_table(tmp_path / "rounds.csv", COLUMNS)
    assert table["seed"].tolist() == [0, 0, 0, 1, 1, 1] and table["iteration"].tolist() == [0, 1, 2] * 2
    assert (
        (tmp_path / "rounds.csv").read_text(encoding="utf-8").startswith("# python -m ipr_lite rounds runs/b --results")
    )
    assert main(["rounds", "runs/c", "--results", "rounds.csv"]) == 2
