"""The whole loop, small, on the shipped base: resumable, repeatable, honest about failure."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ipr_lite.__main__ import main
from ipr_lite.config import Config
from ipr_lite.engine import folder as artefacts
from ipr_lite.evaluation import read_metrics
from ipr_lite.ipr import NoPairs, ipr, round_of
from ipr_lite.methods.random_pairs import flipped
from ipr_lite.model import load_adapter_weights
from ipr_lite.pairs import PairRule, contrast, count, explore, pairs_of, steps_to_score
from ipr_lite.records import read_pairs, read_trajectories
from ipr_lite.run import Run
from ipr_lite.study.compare import DEFAULT_METHODS, compare, mark, said
from ipr_lite.study.job import run
from ipr_lite.study.results import TASKS, read_results, read_table, tasks_file

SMALL = Config(demonstrations=24, sft_epochs=1, iterations=2, samples=2, updates=3, dev=6, test=6, showcase=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    return run(SMALL, folder, quiet=True).parent


def test_a_run_leaves_every_stage_and_a_report(finished):
    for name in (
        "config.json", "manifest.json", "demonstrations.jsonl", "sft/adapter_model.safetensors",
        "demonstration_step_rewards.jsonl", "iteration-1/explorations.jsonl", "iteration-2/pairs.jsonl",
        "iteration-2/adapter/adapter_model.safetensors", "metrics.csv", "selected.json", "report.html",
    ):  # fmt: skip
        assert (finished / name).exists(), name
    rows = {(r["agent"], r["split"]): r for r in read_metrics(finished / "metrics.csv")}
    chosen = json.loads((finished / "selected.json").read_text())["agent"]
    for split in ("dev", "test"):
        assert {a for a, s in rows if s == split} == {"base", "sft", "ipr-1", "ipr-2", "ipr", "careful"}
        assert rows["ipr", split]["reward"] == rows[chosen, split]["reward"]
    best = max(("ipr-1", "ipr-2"), key=lambda agent: rows[agent, "dev"]["reward"])
    assert rows[best, "dev"]["reward"] == rows[chosen, "dev"]["reward"]
    leftovers = [p.name for p in finished.rglob("*unfinished*")]
    assert leftovers == []


PARTS = {
    "sql": {"dev", "test"},
    "house": {"dev", "test", "test_seen", "test_unseen"},
    "all": {f"{split}{world}" for split in ("dev", "test") for world in ("", "_shop", "_sql", "_house")},
}


@pytest.mark.parametrize("world", PARTS)
def test_every_world_runs_to_its_report(world, tmp_path):
    """The main job in the other worlds: real demonstrations, pairs, a trained iterate, rows for every part."""
    config = replace(SMALL, env=world, demonstrations=12, iterations=1, samples=1, updates=2, test=9, showcase=1)
    assert run(config, tmp_path, quiet=True).name == "report.html"
    rows = {(r["agent"], r["split"]): r for r in read_metrics(tmp_path / "metrics.csv")}
    assert {split for _, split in rows} == PARTS[world]
    assert rows["careful", "test"]["reward"] > 0.9 and rows["careful", "test"]["n"] == 9
    assert sum(rows["sft", part]["n"] for part in PARTS[world] if part.startswith("test_")) in (0, 9)
    assert {t.task.env for t in read_trajectories(tmp_path / "demonstrations.jsonl")} == (
        {world} if world != "all" else {"shop", "sql", "house"}
    )
    assert len(read_pairs(tmp_path / "iteration-1" / "pairs.jsonl")) > 5


def test_explorations_cut_short_give_the_same_pairs(finished):
    lab = Run(SMALL, finished, quiet=True)
    demonstrations, rule = lab.demonstrations(), PairRule()
    states, found, spent = lab.states(demonstrations), [], []
    for whole in (True, False):
        player = lab.player(lab.sft(), 0.0, "sft")
        explorations = explore(demonstrations, states, player, 0, whole=whole)
        spent.append(player.actions_taken)
        contrasts = contrast(demonstrations, explorations, lab.env, rule)
        steps = [(s.id, s.step, s.who, s.action, s.outcome) for s in steps_to_score(contrasts, states)]
        whole_pairs = [p for p in pairs_of(contrasts, rule) if p.kind == "outcome"]
        cut = sum(t.extra.get("stopped", False) for t in explorations)
        assert cut == (0 if whole else count(contrasts)["step"]["same_action"])
        found.append((count(contrasts), steps, whole_pairs))
    assert found[0] == found[1] and cut > 0 and found[0][2]
    assert spent[1] < spent[0]


def test_what_an_earlier_round_has_scored_is_not_scored_again(finished):
    """Round 2 asks for actions that round 1 has scored: they cost nothing, and say the same."""
    first, second = ({(r.id, r.step, r.action): r for r in round_of(Run(SMALL, finished), n, "score")} for n in (1, 2))
    both = first.keys() & second.keys()
    assert both and all(first[key].samples == second[key].samples for key in both)


def test_plain_rollouts_make_the_same_run(finished, tmp_path):
    """`--engine plain`: one episode after the other, and the same pairs."""
    plain = Run(replace(SMALL, engine="plain", iterations=1), tmp_path / "plain", quiet=True)
    shutil.copytree(finished / "sft", plain.folder / "sft")
    for name in ("explore", "pairs"):
        made = round_of(plain, 1, name)
        theirs = round_of(Run(SMALL, finished), 1, name)
        assert [one.to_record() for one in made] == [one.to_record() for one in theirs]


def test_transfer_tries_the_agents_elsewhere(finished, tmp_path, capsys):
    """On the run's own test tasks it must find what the run found; in another world it must run."""
    assert main(["transfer", str(finished), "--split", "test", "--limit", str(SMALL.test)]) == 0
    assert "| careful |" in capsys.readouterr().out
    own = {row["agent"]: row for row in read_metrics(finished / "metrics.csv") if row["split"] == "test"}
    tried = {row["agent"]: row for row in read_metrics(finished / "transfer-test.csv")}
    assert set(tried) == {"base", "sft", "ipr", "careful"}
    assert all(tried[agent] == own[agent] for agent in tried)
    results = tmp_path / "effect.csv"
    assert (
        main(["transfer", str(finished), "--env", "house", "--split", "dev", "--limit", "2", "--results", str(results)])
        == 0
    )
    added = read_results(results)
    assert set(added["method"]) == {"base", "sft", "ipr", "careful"} and set(added["setting"]) == {"transfer"}
    assert set(added["env"]) == {"house"} and set(added["n"]) == {2}
    ipr = added[added["method"] == "ipr"].iloc[0]
    assert f"ipr-{ipr['iteration']}" in (finished / "selected.json").read_text()
    rows = read_metrics(finished / "transfer-dev.csv")
    assert [row["n"] for row in rows] == [2] * 4 and rows[-1]["reward"] == 1
    elsewhere = ["transfer", str(finished), "--env", "shop-renamed", "--limit", "3"]
    assert main([*elsewhere, "--agents", "sft", "ipr-1", "--results", str(results)]) == 0
    added = read_results(results)[lambda rows: rows["env"] == "shop-renamed"]
    assert dict(zip(added["method"], added["n"], strict=True)) == {"sft": 3, "ipr-1": 3}
    assert main([*elsewhere, "--agents", "nobody"]) == 2
    capsys.readouterr()
    assert main([*elsewhere, "--agents", "sft", "mpo-1"]) == 2
    assert "mpo-1: this method does not play by its adapter alone" in capsys.readouterr().err
    for left in finished.glob("transfer-*.csv"):
        left.unlink()
    assert main(["transfer", str(tmp_path)]) == 2
    assert "no finished run there" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_bytes_also_after_a_kill(finished, tmp_path, monkeypatch):
    again = tmp_path / "again"
    learn = Run.learn

    def killed(self, pairs, start, number):
        if number == 2:
            raise KeyboardInterrupt
        return learn(self, pairs, start, number)

    monkeypatch.setattr(Run, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, again, quiet=True)
    assert (again / "iteration-2" / "pairs.jsonl").exists() and not (again / "metrics.csv").exists()
    monkeypatch.setattr(Run, "learn", learn)
    run(SMALL, again, quiet=True)
    for name in ("metrics.csv", "iteration-2/pairs.jsonl", "iteration-2/train_log.csv"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


def test_in_round_two_the_reference_is_still_the_sft_policy(finished):
    logs = [(finished / f"iteration-{i}" / "train_log.csv").read_text().splitlines() for i in (1, 2)]
    first = [dict(zip(log[0].split(","), log[1].split(","))) for log in logs]
    assert abs(float(first[0]["loss_outcome"]) - 0.693147) < 1e-4
    assert abs(float(first[1]["loss_outcome"]) - 0.693147) > 1e-4


def test_other_settings_in_the_same_folder_are_refused(finished):
    with pytest.raises(ValueError, match="other settings \\(beta\\)"):
        Run(replace(SMALL, beta=0.2), finished)


def test_the_stages_come_in_the_order_of_algorithm_1(finished):
    stages = [(number, stage) for number, stage, _ in ipr(Run(SMALL, finished))]
    assert stages == [(number, stage) for number in (1, 2) for stage in ("explore", "score", "pairs", "train")]


def test_two_processes_in_one_folder_are_told_apart(finished):
    with Run(SMALL, finished).locked():
        with pytest.raises(RuntimeError, match="another process works in this folder"):
            run(SMALL, finished, quiet=True)
    assert not (finished / "error.txt").exists()


def test_a_history_longer_than_the_context_makes_no_pair(tmp_path):
    """The README advises a smaller --max-length: what does not fit is counted and said, not an error."""
    short = replace(SMALL, max_length=700, iterations=1, demonstrations=12)
    folder = run(short, tmp_path / "short", quiet=True).parent
    counts = json.loads((folder / "iteration-1" / "pair_counts.json").read_text())
    assert counts["step"]["too_long"] > 0
    assert "did not fit 700 tokens" in (folder / "iteration-1" / "warnings.txt").read_text()


def test_no_pairs_is_a_clear_stop_with_a_report(tmp_path):
    with pytest.raises(NoPairs, match="lower it, or raise"):
        run(replace(SMALL, tau_outcome=2.0), tmp_path / "none", quiet=True)
    page = (tmp_path / "none" / "report.html").read_text(encoding="utf-8")
    assert "built no pair" in page
    assert "NoPairs" in (tmp_path / "none" / "error.txt").read_text(encoding="utf-8")


def test_a_half_written_stage_does_not_count(tmp_path):
    target = tmp_path / "stage"

    def broken(aside: Path):
        aside.mkdir()
        (aside / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError):
        artefacts.fill_atomically(target, broken)
    assert not target.exists()
    artefacts.fill_atomically(target, lambda aside: aside.mkdir())
    assert target.is_dir() and list(target.iterdir()) == []


def test_stages_one_by_one_give_the_same_pairs(finished, tmp_path):
    options = [
        f"--{k.replace('_', '-')}={getattr(SMALL, k)}"
        for k in ("demonstrations", "sft_epochs", "iterations", "samples", "updates", "dev", "test", "showcase")
    ]
    for stage in ("sft", "explore", "score", "pairs"):
        assert main([stage, "--out", str(tmp_path / "steps"), *options]) == 0
    mine = tmp_path / "steps" / "iteration-1" / "pairs.jsonl"
    assert mine.read_bytes() == (finished / "iteration-1" / "pairs.jsonl").read_bytes()


def test_a_broken_file_is_named_with_its_line(finished, tmp_path, capsys):
    copy = tmp_path / "broken"
    shutil.copytree(finished, copy)
    path = copy / "demonstrations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[4])
    record["reward"] = "much"
    lines[4] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (copy / "metrics.csv").unlink()
    options = [f"--{k.replace('_', '-')}={v}" for k, v in vars(SMALL).items() if v != getattr(Config(), k)]
    assert main(["run", "--out", str(copy), *options]) == 2
    error = capsys.readouterr().err
    assert "demonstrations.jsonl" in error and "line 5" in error and "reward" in error
    assert not (copy / "metrics.csv").exists()


def test_compare_puts_the_controls_beside_the_run(finished, tmp_path):
    place = tmp_path / SMALL.setting.replace(" ", ",") / "seed-0"
    shutil.copytree(finished, place)
    results = tmp_path / "results.csv"
    rows = compare(SMALL, list(DEFAULT_METHODS), ["default"], [0], tmp_path, results, "compare", quiet=True)
    found = {(row["method"], row["iteration"]) for row in rows}
    assert found == {
        ("base", 0), ("sft", 0), ("ipr", 1), ("ipr", 2), ("careful", 0),
        ("sft-long", 0), ("sft-careful", 0), ("random-pairs", 1), ("random-pairs", 2),
    }  # fmt: skip
    by = {row["method"]: row for row in rows if row["selected"]}
    spent = len((finished / "sft_log.csv").read_text().splitlines()) - 1
    assert by["sft"]["updates"] == spent
    assert by["sft-long"]["updates"] == spent + SMALL.iterations * SMALL.updates
    control = {row["iteration"]: row for row in rows if row["method"] == "random-pairs"}
    assert [control[i]["updates"] for i in (1, 2)] == [spent + SMALL.updates, spent + 2 * SMALL.updates]
    dev = json.loads((place / "selected-random-pairs.json").read_text())["dev"]
    assert by["random-pairs"] is control[1 if dev["random-pairs-1"] >= dev["random-pairs-2"] else 2]
    table = {(r["agent"], r["split"]): r for r in read_metrics(finished / "metrics.csv")}
    assert by["ipr"]["reward"] == pytest.approx(table["ipr", "test"]["reward"], abs=1e-6)
    assert by["careful"]["reward"] > 0.9
    assert len(read_results(results)) == len(rows)
    tasks = read_table(tasks_file(results), TASKS)
    assert len(tasks) == len(rows)
    for row, single in zip(read_results(results).itertuples(), tasks.itertuples(), strict=True):
        assert (single.method, single.iteration, single.panel) == (row.method, row.iteration, row.panel)
        earned = [int(cell) / 1000 for cell in single.rewards.split()]
        assert len(earned) == row.n and sum(earned) / row.n == pytest.approx(row.reward, abs=5e-4)
    # One panel of tasks for all; the chosen iterate's episodes are those in the run's folder.
    assert len({row["panel"] for row in rows if row["split"] == "test"}) == 1
    chosen = read_trajectories(
        place / "evaluations" / f"{json.loads((place / 'selected.json').read_text())['agent']}-test.jsonl"
    )
    assert by["ipr"]["episodes"] == mark(map(said, chosen)) != by["base"]["episodes"]
    assert mark(["a", "b"]) != mark(["b", "a"]) and mark(["a", "b"]).isalpha()


def test_a_stage_that_is_run_again_spends_once(finished, tmp_path):
    lab = Run(SMALL, tmp_path)
    assert not any(lab.spent(["iteration-1"]).values())
    for _ in range(2):
        lab.spend("iteration-1/explore", env_steps=7, tokens=20)
    lab.spend("iteration-1/train", updates=3)
    lab.spend("iteration-10/train", updates=5)
    assert lab.spent(["iteration-1"]) == {"env_steps": 7, "tokens": 20, "updates": 3}
    assert Run(SMALL, finished).spent(["iteration-1", "iteration-2"])["updates"] == 2 * SMALL.updates


def test_a_flipped_pair_prefers_the_other_and_flips_back(finished):
    pair = read_pairs(finished / "iteration-1" / "pairs.jsonl")[0]
    other = flipped(pair)
    assert (other.chosen, other.rejected) == (pair.rejected, pair.chosen)
    assert other.chosen_outcome == pair.rejected_outcome and other.prompt == pair.prompt
    assert flipped(other) == pair


def test_real_records_run_end_to_end(tmp_path):
    """WebShop's own records and goals, cut down: from real text to pairs to a trained adapter."""
    root = os.environ.get("IPR_LITE_REAL_DATA")
    if not root:
        pytest.skip("IPR_LITE_REAL_DATA is unset: the real WebShop records are not at hand")
    folder = tmp_path / "real"
    options = "--demonstrations 6 --keep 0.1 --sft-epochs 1 --iterations 1 --samples 1 --showcase 1"
    options += " --updates 2 --batch-size 4 --dev 1 --test 1"
    data = Path(root) / "webshop" / "three_files"
    assert main(["run", "--env", "shop", "--data", str(data), "--out", str(folder), *options.split()]) == 0
    first = read_trajectories(folder / "demonstrations.jsonl")[0]
    page = first.as_steps()[0].observation
    assert re.match(
        r"Observation:\nInstruction: \[SEP\] .+ \[SEP\] Back to Search \[SEP\] Page 1 \(Total results: \d+\)", page
    )
    explored = read_trajectories(folder / "iteration-1" / "explorations.jsonl")
    # An agent that hardly learnt reads page after page, so that some of its trips outgrow the context.
    assert sum(not t.extra.get("overflow") for t in explored) / len(explored) >= 0.5
    assert read_pairs(folder / "iteration-1" / "pairs.jsonl")
    sft, iterate = (load_adapter_weights(folder / name) for name in ("sft", "iteration-1/adapter"))
    assert any(not torch.equal(sft[name], iterate[name]) for name in sft)
    assert (folder / "report.html").exists()
