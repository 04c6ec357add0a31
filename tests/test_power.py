"""Power, equivalence and Holm against simulation, and against SciPy's and textbook values."""

import math

import numpy as np
import pytest
from scipy import stats

from ipr_lite import DATA
from ipr_lite.study import power as p
from ipr_lite.study.results import read_results


@pytest.mark.parametrize("n, difference", [(5, 0.1), (10, 0.05), (20, 0.03)])
def test_power_is_how_often_the_test_sees_it(n, difference):
    rng = np.random.default_rng(n)
    drawn = rng.normal(difference, 0.05, (20_000, n))
    seen = (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    assert p.power(difference, 0.05, n) == pytest.approx(seen, abs=0.012)


def test_what_is_detectable_needs_the_seeds_that_it_has():
    for sd, n in ((0.04, 10), (0.09, 20), (0.2, 5)):
        least = p.detectable(sd, n)
        assert p.power(least, sd, n) == pytest.approx(0.8, abs=1e-6)
        assert p.seeds_needed(least * 1.001, sd) == n
        assert p.seeds_needed(least * 0.99, sd) > n


def test_the_issue_s_own_numbers():
    """IPR minus ETO's standard deviation over seeds was .09: ten seeds could see .09, .03 takes 73."""
    assert p.detectable(0.09, 10) == pytest.approx(0.09, abs=0.003)
    assert p.seeds_needed(0.03, 0.09) == 73


def test_p_values_are_scipy_s():
    differences = [0.05, -0.01, 0.03, 0.08, 0.02]
    assert p.Moments.of(differences).p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_two_one_sided_tests():
    """Equal within the margin where the 90 % interval lies in it, as Schuirmann's tests do."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        drawn = rng.normal(rng.uniform(-0.04, 0.04), 0.02, 10)
        below = stats.ttest_1samp(drawn, -0.03, alternative="greater").pvalue
        above = stats.ttest_1samp(drawn, 0.03, alternative="less").pvalue
        assert p.Moments.of(drawn.tolist()).equal() == (max(below, above) < 0.05)


def test_holm_s_textbook_example():
    assert p.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(p.holm([math.nan, 0.02])[0]) and p.holm([math.nan, 0.02])[1] == 0.02


@pytest.mark.parametrize(
    "differences, paper, said",
    [
        ([0.05, 0.06, 0.04, 0.05], 0.04, "reproduced"),
        ([0.05, 0.06, 0.04, 0.05], -0.04, "reversed"),
        ([0.01, -0.01, 0.005, -0.004], 0.04, "equal"),
        ([0.2, -0.2, 0.1, -0.1], 0.04, "open"),
        ([0.2], 0.04, "not run"),
    ],
)
def test_verdicts(differences, paper, said):
    assert p.Moments.of(differences).verdict(paper) == said


def test_a_correction_can_take_a_verdict_back():
    differences = [0.05, 0.02, 0.06, 0.01, 0.03]
    assert p.Moments.of(differences).verdict(1) == "reproduced"
    assert p.Moments.of(differences).verdict(1, p=p.holm([p.Moments.of(differences).p] * 20)[0]) == "open"


def test_bad_questions_have_an_answer():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        p.power(0.1, 0.1, 1)
    with pytest.raises(ValueError, match="beyond 10000 seeds"):
        p.seeds_needed(0.0, 0.1)


def test_a_results_file_says_what_it_could_have_seen():
    """On the shipped Table 2 of the shop: IPR minus ETO's sd over ten seeds is known, and so are the seeds .03 takes."""
    results = read_results(DATA / "results" / "shop_table2.csv")
    lines = {line[3]: line for line in p.power_rows(results)}
    rewards = results[(results["split"] == "test") & (results["selected"] == 1) & (results["setting"] == "default")]
    by = rewards.pivot_table(index="seed", columns="method", values="reward")
    gaps = (by["ipr"] - by["eto"]).dropna()
    line = lines["eto"]
    assert line[4] == len(gaps) and line[5] == f"{gaps.mean():+.3f}"
    assert line[8] == f"{p.detectable(gaps.std(), len(gaps)):.3f}"
    assert line[9] == str(p.seeds_needed(0.03, gaps.std())) and line[11] == "open"
    assert lines["sft"][11] == "above"


def crossed(rng, seeds, tasks, of_seeds, of_tasks, rest, labs):
    """Differences (labs, seeds, tasks) around 0: luck of the seed, luck of the task, and of both together."""
    luck = rng.normal(0, of_seeds, (labs, seeds, 1)) + rng.normal(0, of_tasks, (labs, 1, tasks))
    return luck + rng.normal(0, rest, (labs, seeds, tasks))


def test_seeds_and_tasks_both_count():
    """Where tasks differ, Student's t over seeds on one panel holds the truth too seldom, and the two-way interval does not."""
    drawn = crossed(np.random.default_rng(0), 6, 60, 0.03, 0.3, 0.1, 400)
    ends = [p.two_way(one, draws=500) for one in drawn]
    over_seeds = [p.Moments.of(one.mean(axis=1).tolist()) for one in drawn]
    held = np.mean([low <= 0 <= high for _, low, high in ends])
    alone = np.mean([abs(m.mean) <= stats.t.ppf(0.975, 5) * m.error for m in over_seeds])
    assert 0.93 <= held <= 1 and alone < 0.85


def test_where_tasks_are_alike_it_is_student_s_t():
    (drawn,) = crossed(np.random.default_rng(1), 10, 300, 0.05, 0.0, 0.0, 1)
    mean, low, high = p.two_way(drawn)
    moments = p.Moments.of(drawn.mean(axis=1).tolist())
    assert mean == pytest.approx(moments.mean)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 9) * moments.error, rel=0.04)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        p.two_way(drawn[:1])
