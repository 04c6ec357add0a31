"""Quality of step rewards on a small finished run, and the cases a rule chooses."""

import random

import pytest

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.config import Config
from ipr_lite.records import read_trajectories
from ipr_lite.run import Run
from ipr_lite.step_reward import step_of
from ipr_lite.study import quality
from ipr_lite.study.cases import cases, cases_markdown
from ipr_lite.study.job import run
from ipr_lite.study.results import keep_rows, read_table

SMALL = Config(demonstrations=24, sft_epochs=1, iterations=1, samples=2, updates=2, dev=4, test=8, showcase=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality") / "run"
    return run(SMALL, folder, quiet=True).parent


def test_the_page_score_is_what_the_page_is_worth():
    shop, experts = envs.make("shop"), envs.people_of("shop")
    for task in envs.tasks("shop", "dev")[:20]:
        trajectory = experts.demonstrate(task, shop, experts.careful, random.Random(0))
        env = shop.clone()
        env.reset(options={"task": task})
        assert env.page_score() == 0
        scores = []
        for action in trajectory.actions:
            env.step(action)
            scores.append(env.page_score())
        # A purchase is worth its reward, and the item's page at least that much.
        assert scores[-1] == trajectory.reward <= scores[-2] <= 1


def test_contrasts_are_sampled_by_every_scorer(finished, tmp_path):
    lab = Run(SMALL, finished, quiet=True)
    rows = quality.contrasts_sampled(lab, samples=4, limit=3, scorers=["base", "sft", "ipr-1"])
    assert len(rows) == 3 * 3 * 2
    for row in rows:
        samples = quality.uncounted(row["samples"])
        assert len(samples) == (1 if row["terminal"] else 4)
        assert not row["terminal"] or samples == [pytest.approx(float(row["outcome"]), abs=1e-6)]
    path = keep_rows(tmp_path / "a.csv", rows, quality.COLUMNS, ("env", "seed"), "x", lambda row: 0)
    table = read_table(path, quality.COLUMNS)
    found = quality.pair_quality(table, "sft", 2, 0.01, "page")
    assert found["pairs"] == 3 and 0 <= found["built"] <= 1
    again = quality.contrasts_sampled(lab, samples=4, limit=3, scorers=["sft"])
    assert again == [row for row in rows if row["scorer"] == "sft"]


def test_step_rewards_of_test_episodes(finished):
    lab = Run(SMALL, finished, quiet=True)
    rows = quality.step_rewards_on_test(lab, ["sft", "ipr"], 3)
    assert [row["agent"] for row in rows] == ["sft"] * 3 + ["ipr"] * 3
    played = {t.id: t for t in lab.evaluate("sft", "test")}
    for row in rows[:3]:
        t = played[row["id"]]
        values = [float(v) for v in row["step_rewards"].split(";")]
        assert len(values) == t.steps and float(row["reward"]) == pytest.approx(t.reward, abs=1e-6)
        env = lab.env.clone()
        env.reset(options={"task": t.task})
        for action in t.actions[:-1]:
            env.step(action)
        if step_of(env, t, t.steps, "agent").terminal:
            assert values[-1] == pytest.approx(t.reward, abs=1e-4)
    with pytest.raises(FileNotFoundError, match="eto was not run there"):
        quality.step_rewards_on_test(lab, ["eto"], 3)


def test_cases_are_the_extremes(finished):
    lab = Run(SMALL, finished, quiet=True)
    found = cases(lab)
    sft = {t.id: t.reward for t in lab.evaluate("sft", "test")}
    ipr = {t.id: t.reward for t in lab.evaluate(lab.select(), "test")}
    gains = {i: ipr[i] - sft[i] for i in sft}
    by_case = {t.extra["case"]: t.id for t in found}
    assert gains[by_case["largest gain"]] == max(gains.values())
    assert gains[by_case["largest loss"]] == min(gains.values())
    assert "tie" not in by_case or gains[by_case["tie"]] == 0
    assert all(len(t.extra["step_rewards"]) == t.steps for t in found)


def test_the_command_writes_its_three_files(finished, tmp_path):
    options = "--samples 2 --contrasts 2 --tasks 2".split()
    assert main(["quality", str(finished), *options, "--results", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"shop_fig3.csv", "shop_fig4.csv", "shop_cases.jsonl"}
    assert len(read_trajectories(tmp_path / "shop_cases.jsonl")) in (4, 6)
    told = cases_markdown(tmp_path / "shop_cases.jsonl")
    assert "**Largest gain**" in told and "- ipr, outcome" in told
    assert main(["quality", str(tmp_path)]) == 2
