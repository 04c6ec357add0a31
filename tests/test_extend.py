"""CONTRIBUTING's two recipes, followed: a method is one file and one line, a world one folder and one line."""

import importlib

import pytest

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.methods import METHODS
from ipr_lite.study import plots
from ipr_lite.study.results import agent_order, read_results

WORLD = '''
"""A lamp that must be put on, and then left alone."""

import copy

from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.people import People
from ipr_lite.envs.world import World
from ipr_lite.records import Task


class Lamp(TextEnv):
    name, system_prompt, max_steps = "lamp", "Put the lamp on or off as told, then leave.", 4

    def __init__(self):
        super().__init__()
        self.tasks = tasks("train")

    def reset(self, *, seed=None, options=None):
        self.task, self.on, self.count = self.task_of(seed, options), False, 0
        return f"{self.task.instruction} The lamp is off.", {"task": self.task}

    def parse(self, message):
        action = message.partition("Action:")[2].strip()
        return action if action in ("switch", "leave") else None

    def step(self, action):
        done, self.count = self.parse(action), self.count + 1
        self.on ^= done == "switch"
        over, late = done == "leave", self.count >= self.max_steps
        reward = float(over and self.on == self.task.setup["on"])
        info = {"task": self.task, "action": done, "invalid": done is None, "success": reward == 1}
        return f"The lamp is {'on' if self.on else 'off'}.", reward, over, late and not over, info

    def clone(self):
        return copy.copy(self)


def make(data=None):
    return Lamp()


def tasks(split, data=None):
    return [
        Task(f"{split}-{n}", "lamp", split, f"Room {n}: put the lamp {'on' if n % 3 else 'off'}.", {"on": n % 3 > 0})
        for n in range({"train": 40, "dev": 8, "test": 12}[split])
    ]


class Somebody:
    """Habits: how often they leave at once."""

    def __init__(self, task, env, habits, rng):
        self.plan = (["switch"] if task.setup["on"] and rng.random() >= habits else []) + ["leave"]

    def act(self, observation):
        return f"Thought: as told.\\nAction: {self.plan.pop(0)}"

    def did(self, observation, action):
        self.plan.pop(0)


WORLD = World("lamp", make, tasks, People(Somebody, careful=0.0, habitual=0.5))
'''

METHOD = '''
"""SFT, and one more time over the demonstrations."""

from ipr_lite.methods.method import Method
from ipr_lite.methods.sft import cloned


def train(run):
    return cloned(run, "sft-twice", lambda: run.clone(run.demonstrations() * 2))


METHOD = Method("sft-twice", "clone twice", train, "#123456", "8", from_base=True)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a world and a method, and the two lines that make them known."""
    (tmp_path / "lamp").mkdir()
    (tmp_path / "lamp" / "__init__.py").write_text(WORLD)
    (tmp_path / "sft_twice.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(envs.PLACES, "lamp", "lamp:WORLD")
    monkeypatch.setitem(METHODS, "sft-twice", importlib.import_module("sft_twice").METHOD)
    return tmp_path


def test_both_take_part_in_a_comparison(folder, capsys):
    results = folder / "lamp.csv"
    line = (
        "compare --quick --env lamp --demonstrations 20 --sft-epochs 1 --updates 2 --dev 4 --test 6 --seeds 0 --methods"
    )
    names = ["base", "sft", "sft-twice", "ipr", "careful"]
    out = ["--results", str(results), "--out", str(folder / "runs")]
    assert main([*line.split(), *names, *out]) == 0, capsys.readouterr().err
    rows = read_results(results)
    assert set(rows["env"]) == {"lamp"} and set(rows["n"]) == {6}
    assert {"base", "sft", "sft-twice", "careful"} <= set(rows["method"])
    by = rows.set_index("method")
    assert by.loc["careful", "reward"] == 1 and by.loc["sft-twice", "updates"] > by.loc["sft", "updates"]
    told = capsys.readouterr().out
    assert "sft-twice" in told and (folder / "runs" / "lamp.html").exists()


def test_a_new_method_stands_in_its_order_and_keeps_its_colour(folder):
    order = sorted(["sft-twice", "ipr", "sft"], key=agent_order)
    assert order == ["sft", "ipr", "sft-twice"]
    assert plots.style_of("sft-twice") == ("#123456", "8")
