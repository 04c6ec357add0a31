"""The exercises' checks: right answers pass, stubs are "not attempted", wrong ones get told why."""

import math
import random
from dataclasses import replace

import pytest

from ipr_lite import checks, envs
from ipr_lite.checks import END, WrongAnswer


def stub(*unused):
    raise NotImplementedError


def mask(turns):
    found = []
    for role, _, content in turns:
        agent = role == "assistant"
        found += [0] + [int(agent)] * len(content) + [1] * agent
    return found


def skipped(trajectory):
    wishes = trajectory.task.setup["goal_options"]
    return [w for w in wishes if not any(f"Action: click[{w}]" in action for action in trajectory.actions)]


def share(losses, mask):
    return losses[mask == 0].sum() / losses.sum()


def needed(expert, agent, limit):
    return next(n for n in range(1, 50) if checks.wrong_rate(expert, agent, n) < limit)


def push(margin, beta):
    return -beta / (1 + math.exp(margin))


def action_only(pair):
    if pair.kind == "outcome":
        return pair
    return replace(pair, chosen=pair.chosen[:1], rejected=pair.rejected[:1])


def play(seed):
    return [f"Action: click[{random.Random(seed).random()}]"]


RIGHT = {
    "replay": play,
    "agent_mask": mask,
    "skipped": skipped,
    "observation_share": share,
    "samples_needed": needed,
    "push": push,
    "action_only": action_only,
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_is_not_attempted(name, capsys):
    assert getattr(checks, name)(stub) is None
    assert capsys.readouterr().out == "not attempted yet\n"


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    assert getattr(checks, name)(RIGHT[name]) is None
    assert capsys.readouterr().out.startswith("right: ")


@pytest.mark.parametrize("name", RIGHT)
def test_a_forgotten_return_is_told(name):
    with pytest.raises(WrongAnswer, match="`return` missing"):
        getattr(checks, name)(lambda *unused: None)


def searching_mask(turns):
    tokens, found, agent = [], [], False
    for role, header, content in turns:
        tokens += [header, *content] + [END] * (role == "assistant")
    for token in tokens:
        found.append(int(agent and token != "<|assistant|>"))
        agent = (agent or token == "<|assistant|>") and token != END
    return found


def cut_in_place(pair):
    if pair.kind == "step":
        del pair.chosen[1:], pair.rejected[1:]
    return pair


WRONG = [
    ("replay", lambda seed: [str(random.random())], "two different rollouts"),
    ("replay", lambda seed: ["Action: search[tea]"], "does the seed reach"),
    ("replay", lambda seed: "Action: search[tea]", "a list of texts"),
    ("agent_mask", lambda turns: [1] * len(mask(turns)), "the agent does not write it"),
    ("agent_mask", lambda turns: [0] * len(mask(turns)), "this is the agent's own message"),
    ("agent_mask", lambda turns: mask(turns)[1:], "got a mask of"),
    ("agent_mask", lambda turns: [1 - value for value in mask(turns)], "token 0"),
    ("agent_mask", lambda turns: 1, "must be a list of 0 and 1"),
    ("agent_mask", searching_mask, "the agent only reads them"),
    ("agent_mask", lambda turns: [v if i < len(mask(turns)) - 1 else 0 for i, v in enumerate(mask(turns))], "learn to stop"),
    ("skipped", lambda t: [], "was skipped"),
    ("skipped", lambda t: t.task.setup["goal_options"], "is not skipped"),
    ("skipped", lambda t: [w for w in t.task.setup["goal_options"] if w not in str(t.actions)], "not a search"),
    ("skipped", lambda t: 1, "give a list of options"),
    ("observation_share", lambda losses, mask: 1 - share(losses, mask), "that is the agent's share"),
    ("observation_share", lambda losses, mask: (mask == 0).float().mean(), "share of the tokens"),
    ("observation_share", lambda losses, mask: losses[mask == 0].sum(), "divide it by the whole"),
    ("observation_share", lambda losses, mask: 0.5, "sum the losses where the mask is 0"),
    ("samples_needed", lambda *case: 1, "more are needed"),
    ("samples_needed", lambda *case: 30, "more than needed"),
    ("samples_needed", lambda *case: 2.5, "whole number"),
    ("push", lambda margin, beta: -push(margin, beta), "the sign is not"),
    ("push", lambda margin, beta: push(margin, beta) / beta, "that factor is missing"),
    ("push", lambda margin, beta: push(-margin, beta), "must push less"),
    ("push", lambda margin, beta: -0.3, "differentiate"),
    ("action_only", lambda pair: pair, "only the first action may stay"),
    ("action_only", cut_in_place, "has changed"),
    ("action_only", lambda pair: replace(pair, chosen=pair.chosen[:1], rejected=pair.rejected[:1]), "outcome pair"),
    ("action_only", lambda pair: replace(action_only(pair), prompt=pair.prompt[:2]), "must stay as they were"),
    ("action_only", lambda pair: pair.chosen, "give a Pair"),
]


@pytest.mark.parametrize(("name", "answer", "told"), WRONG)
def test_a_wrong_answer_is_told_why(name, answer, told):
    with pytest.raises(WrongAnswer, match=told):
        getattr(checks, name)(answer)


def test_samples_needed_takes_a_simulation():
    import numpy as np

    rng = np.random.default_rng(1)

    def simulated(expert, agent, limit):
        for n in range(1, 50):
            theirs, ours = (rng.choice(side, (20_000, n)).mean(1) for side in (expert, agent))
            if (ours > theirs).sum() < limit * (ours != theirs).sum():
                return n

    checks.samples_needed(simulated)


def test_wrong_rate_by_hand():
    # One draw each from {0, 1} against {0}: never wrong; from {0, 1} against {0, 1, 1}: 1/3 of the
    # draws have the agent ahead (0 against 1), 1/6 the expert (1 against 0).
    assert checks.wrong_rate([0.0, 1.0], [0.0], 1) == 0
    assert checks.wrong_rate([0.0, 1.0], [0.0, 1.0, 1.0], 1) == pytest.approx(2 / 3)


def test_guess_speaks_with_and_without_a_guess(capsys):
    checks.guess(None, 0.2236)
    checks.guess(0.3, 0.2236, "nats")
    assert capsys.readouterr().out == "no guess; the answer is 0.224\nyour guess 0.3, the answer is 0.224 nats\n"


# --- 01: the checks that play ------------------------------------------------------------------------


def errand():
    env = envs.make("house")
    task = envs.tasks("house", "dev")[0]
    people = envs.experts("house")
    trip = people.demonstrations([task], env, people.CAREFUL, 0)[0]
    return env, task, [env.parse(action) for action in trip.actions]


def test_wins_plays_the_commands(capsys):
    env, task, commands = errand()
    checks.wins(stub, env, task)
    checks.wins(lambda: commands, env, task)
    assert capsys.readouterr().out == f"not attempted yet\nright: won with {len(commands)} commands\n"
    for answer, told in [
        (commands[:-1], "the goal does not hold yet"),
        (["dance"], "command 1, 'dance', was answered: 'Observation: Nothing happens.'"),
        (["look"] * 25, "the 20 steps are used up"),
        ("look", "must return a list"),
        ([], "there was none"),
    ]:
        with pytest.raises(checks.WrongAnswer, match=told):
            checks.wins(lambda answer=answer: answer, env, task)


def test_negative_wants_the_right_rows_turned_around(capsys):
    env = envs.make("sql")
    task = next(t for t in envs.tasks("sql", "dev") if "ordered by" in t.instruction and "DESC" in t.setup["gold"])
    gold = task.setup["gold"]
    checks.negative(stub, env, task)
    checks.negative(lambda: gold.replace("DESC", "ASC"), env, task)
    assert "not attempted yet\nright: a reward of -0." in capsys.readouterr().out
    for answer, told in [(gold, "turn the order around"), ("SELECT 1", "not the right rows"), ("SELECT x", "Unknown column")]:
        with pytest.raises(checks.WrongAnswer, match=told):
            checks.negative(lambda answer=answer: answer, env, task)
