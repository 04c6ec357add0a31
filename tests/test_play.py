"""Playing by hand: every world can be won by following the hints, also from astray."""

import io
import sys

import pytest

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.envs.play import play

WORLDS = ("shop", "sql", "house", "all")


def run(env, task, answers):
    """Play with a function from the texts so far to the next line."""
    told = []
    reward = play(env, task, envs.people_of(env.name).guide, lambda prompt: answers(told), told.append)
    return reward, told


def follower(detours=()):
    """Somebody who first says what they like, then asks for a hint and does what it says."""
    left = list(detours)

    def answer(told):
        if left:
            return left.pop(0)
        advice = "a careful person would now: "
        return told[-1].removeprefix(advice) if told[-1].startswith(advice) else "hint"

    return answer


@pytest.mark.parametrize("world", WORLDS)
def test_hints_win(world):
    env = envs.make(world)
    rewards = [run(env, task, follower())[0] for task in envs.tasks(world, "dev")[:25]]
    assert sum(reward == 1 for reward in rewards) >= 20


@pytest.mark.parametrize(
    ("world", "detours"),
    [
        ("shop", ["search[tea]", "click[nothing]", "click[back to search]"]),
        ("sql", ["SELECT 1", "DESC nothing", "SHOW TABLES"]),
        ("house", ["dance", "look", "inventory"]),
    ],
)
def test_hints_follow_the_player(world, detours):
    env = envs.make(world)
    played = [run(env, task, follower(detours)) for task in envs.tasks(world, "dev")[:20]]
    assert sum(reward == 1 for reward, _ in played) >= 13
    assert "(the world did not take this; it costs a step)" in played[0][1]
    assert played[0][1][-1].startswith("reward ")


@pytest.mark.parametrize("world", WORLDS)
def test_a_message_says_its_action(world):
    env, task = envs.make(world), envs.tasks(world, "dev")[0]
    messages = [
        m["content"]
        for m in envs.people_of(world).demonstrations([task], env, envs.people_of(world).careful, 0, -1)[0].messages
    ]
    for message in messages[2::2]:
        action = env.parse(message)
        assert action is not None and env.parse(env.message(action)) == action


def test_leaving_has_no_reward():
    env, task = envs.make("sql"), envs.tasks("sql", "dev")[0]

    def leave(told):
        raise EOFError

    assert run(env, task, leave)[0] is None
    lines = iter(["help", "", "quit"])
    reward, told = run(env, task, lambda told: next(lines))
    assert reward is None and told.count(told[1]) == 3


def test_the_command(monkeypatch, capsys):
    lines = iter(["SHOW TABLES", "submit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert main(["play", "--env", "sql", "--task", "2"]) == 0
    shown = capsys.readouterr().out
    assert "Observation: [('" in shown and "reward 0.000 after 2 steps" in shown
    assert main(["play", "--env", "sql", "--task", "1000"]) == 2
    assert "has tasks 1 to 100" in capsys.readouterr().err


@pytest.mark.parametrize("signal", [EOFError, KeyboardInterrupt])
def test_leaving_by_a_key_is_polite(monkeypatch, capsys, signal):
    def leave(prompt):
        raise signal

    monkeypatch.setattr("builtins.input", leave)
    assert main(["play", "--env", "house"]) == 0
    assert capsys.readouterr().out.endswith("left before the end: no reward\n")


def test_a_console_that_lacks_letters_ends_no_game(monkeypatch):
    """Windows writes cp1252 into a pipe: what it lacks is a question mark."""
    lines = iter(["SELECT '\u6771\u4eac'", "submit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="cp1252", write_through=True))
    assert main(["play", "--env", "sql"]) == 0
    assert b"[('??',)]" in pipe.getvalue()
