"""The exercises of chapters 14 and 15: right answers pass, and each likely mistake is named."""

from statistics import fmean

import pytest

from ipr_lite import checks
from ipr_lite.methods.atlas import highest


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda worth, share: [{step - 1 for step in one} for one in highest(worth, share)], "count from 1"),
        (lambda worth, share: [highest([one], share)[0] for one in worth], "the share of each demonstration"),
        (lambda worth, share: highest([[-c for c in one] for one in worth], share), "the lowest"),
        (lambda worth, share: [one for one in highest(worth, share) if one], "one set of steps for each|of 6 steps"),
        (lambda worth, share: [set() for _ in worth], "the highest of all demonstrations"),
    ],
)
def test_a_wrong_choice_of_steps_is_told_why(wrong, says, capsys):
    with pytest.raises(checks.WrongAnswer, match=says):
        checks.critical_steps(wrong)
    checks.critical_steps(highest)
    assert "right" in capsys.readouterr().out


def by_branch(tries, of_one, together=fmean):
    first = dict.fromkeys(name for name, *_ in tries)
    return {name: together(of_one(r, n) for one, r, n in tries if one == name) for name in first}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda tries, cost, most: by_branch(tries, lambda r, n: r), "the outcome alone"),
        (lambda tries, cost, most: by_branch(tries, lambda r, n: r - cost * n / most, max), "the best try"),
        (lambda tries, cost, most: by_branch(tries, lambda r, n: r - cost * n), "not for each"),
        (lambda tries, cost, most: {"a": 0.1}, "a value for each first action"),
        (lambda tries, cost, most: by_branch(tries, lambda r, n: 7.0), "the mean of outcome"),
    ],
)
def test_a_wrong_branch_value_is_told_why(wrong, says, capsys):
    with pytest.raises(checks.WrongAnswer, match=says):
        checks.branch_values(wrong)
    checks.branch_values(lambda tries, cost, most: by_branch(tries, lambda r, n: r - cost * n / most))
    assert "right" in capsys.readouterr().out


def paired(outcomes, gap, together=fmean):
    values = {plan: together(some) for plan, some in outcomes.items()}
    best, worst = max(values, key=values.get), min(values, key=values.get)
    return (best, worst) if values[best] - values[worst] > gap else ()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda outcomes, gap: paired(outcomes, gap)[::-1], "the better plan comes first"),
        (lambda outcomes, gap: paired(outcomes, gap - 1e-9), "by .more. than the gap"),
        (lambda outcomes, gap: (), "differ by more than the gap"),
        (lambda outcomes, gap: paired(outcomes, gap, max), "one lucky episode"),
        (lambda outcomes, gap: list(outcomes)[1:], "the highest, the lowest"),
    ],
)
def test_a_wrong_pair_of_plans_is_told_why(wrong, says, capsys):
    with pytest.raises(checks.WrongAnswer, match=says):
        checks.plan_pair(wrong)
    checks.plan_pair(paired)
    assert "right" in capsys.readouterr().out


def lacking(attempt, better):
    return list(dict.fromkeys(action for action in better if action not in attempt))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda attempt, better: lacking(better, attempt), "too much"),
        (lambda attempt, better: sorted(lacking(attempt, better)), "a set forgets"),
        (lambda attempt, better: [a for a in better if a not in attempt], "each action once"),
        (lambda attempt, better: better, "attempt lacks: 3 actions"),
    ],
)
def test_a_wrong_comment_is_told_why(wrong, says, capsys):
    with pytest.raises(checks.WrongAnswer, match=says):
        checks.guided_comment(wrong)
    checks.guided_comment(lacking)
    assert "right" in capsys.readouterr().out
