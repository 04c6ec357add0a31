"""What `bench` says: the floor against counts made by hand, and all ways on one small job."""

import json

import pandas as pd
import pytest
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from ipr_lite.__main__ import main
from ipr_lite.config import QUICK, Config
from ipr_lite.ipr import Run
from ipr_lite.study import roofline as floor
from ipr_lite.study import speed as b
from ipr_lite.study.plots import rollout_speed


def test_the_work_of_one_conversation_is_counted_token_by_token():
    # Tokens 5 and 6 are read, 7 and 8 written: 7 sees two tokens, 8 sees three.
    assert floor.work([([5, 6, 7, 8], [2, 3])]) == floor.Work(tokens=4, context=10, written=2, passes=2, seen=5)


def test_what_conversations_share_is_done_once():
    two = [([5, 6, 7, 8], [2, 3]), ([5, 6, 7, 9], [2, 3])]
    # One more token, 9, at depth 4; in the second pass the tokens 5, 6, 7 are read once for both.
    assert floor.work(two) == floor.Work(tokens=5, context=14, written=3, passes=2, seen=5)
    assert floor.work(two, share=False) == floor.Work(tokens=8, context=20, written=4, passes=2, seen=10)
    # Written earlier by one than by the other: the tokens before are read in other passes.
    assert floor.work([([5, 6, 7], [2]), ([5, 6, 4, 7], [3])]).seen == 3
    assert floor.work([([5, 6, 7, 8], [2, 3]), ([5, 6, 4, 7], [3])]).seen == 6
    assert floor.work([]) == floor.Work()


def test_the_floor_is_operations_and_bytes_over_the_rates():
    config = LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=4, tie_word_embeddings=False)  # fmt: skip
    model = LlamaForCausalLM(config)
    work = floor.Work(tokens=10, context=55, written=4, passes=4, seen=30)
    a_layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12
    operations = 2 * 10 * 3 * a_layer + 2 * 4 * 8 * 50 + 4 * 55 * 3 * 8
    weights = 4 * (3 * (a_layer + 2 * 8) + 2 * 50 * 8 + 8)
    moved = 4 * weights + (10 + 30) * 2 * 3 * 4 * 4
    assert floor.seconds(work, model, 1e6, 1e3) == (operations / 1e6, moved / 1e3)
    assert floor.matrix_rate(model) > 0 and floor.copy_rate(model, 2**20) > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(Config(**QUICK | {"demonstrations": 10}), tmp_path_factory.mktemp("bench") / "run", quiet=True)


def test_the_bench_runs_all_ways_on_one_job(run, tmp_path, monkeypatch):
    monkeypatch.setattr(b, "HISTORIES", (300,))
    rows = b.bench(run, trajectories=1, samples=2, runs=1)
    assert tuple(rows.columns) == b.COLUMNS
    ways = rows[rows["part"] == "ways"].set_index("way")
    assert list(ways.index) == [
        "sequential", "batched", "sequential_merged", "batched_merged", "continuous", "unmerged", "unshared",
        "undrafted", "ours",
    ]  # fmt: skip
    assert ways["rollouts"].nunique() == 1
    # Ours write the same tokens with and without their savings; the others draw their own.
    assert ways.loc[["unmerged", "unshared", "undrafted"], "tokens"].eq(ways.loc["ours", "tokens"]).all()
    assert (ways["floor"] < ways["seconds"]).all() and ways.loc["ours", "floor"] < ways.loc["unshared", "floor"]
    grown = rows[rows["part"] == "samples"].set_index("samples")["rollouts"]
    assert grown[20] == 4 * grown[5] == 20 * grown[1]
    assert set(rows["part"]) == {"ways", "samples", "trajectories", "batch", "history", "iteration"}
    assert (rows["seconds"] > 0).all()
    path = b.write_bench(tmp_path / "bench.csv", rows, "the command")
    assert path.read_text().startswith("# the command\n# schema")
    again = pd.read_csv(path, comment="#")
    assert b.bench_table(again).count("\n") == 11
    assert [line.split("|")[1].strip() for line in b.stage_table(again).splitlines()[2:]] == [
        "explore", "score", "pairs", "train", "all"
    ]  # fmt: skip
    said, m = b.summary(again), b.medians(again)
    assert said["vs_sequential"] == round(m.loc["sequential", "seconds"] / m.loc["ours", "seconds"], 2)
    assert said["of_floor"] == round(m.loc["ours", "floor"] / m.loc["ours", "seconds"], 4)
    assert isinstance(rollout_speed(again), Figure)


def test_unknown_ways_and_too_many_trajectories_are_named(run):
    with pytest.raises(ValueError, match="unknown way warp; choose of sequential, batched"):
        b.bench(run, ways=("warp",))
    with pytest.raises(ValueError, match="has 10 demonstrations, not 11; give fewer --trajectories"):
        b.Job(run).episodes(11, 1)


def test_the_command_prints_json(run, capsys, monkeypatch):
    monkeypatch.setattr(b, "HISTORIES", (300,))
    options = [f"--{name}={value}" for name, value in QUICK.items() if name != "demonstrations"]
    where = ["--demonstrations=10", f"--out={run.folder}", "--trajectories=1", "--runs=1", "--ways", "ours"]
    assert main(["bench", "--json", *options, *where]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["of_floor"] > 0 and set(said["medians"]) == {"ours"} and "vs_sequential" not in said
    assert (run.folder / "bench.csv").exists()
