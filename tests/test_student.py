"""Student and teacher: what a student sees, by hand; which remedy the teacher keeps; the example leaves no trace."""

import json

import pytest

from ipr_lite import envs
from ipr_lite.config import Config
from ipr_lite.methods import METHODS, student
from ipr_lite.methods.outline import Outlines
from ipr_lite.methods.student import Student
from ipr_lite.records import Task, Trajectory
from ipr_lite.run import Run

SHOP = envs.make("shop")


@pytest.fixture
def run(tmp_path):
    config = Config(demonstrations=12, sft_epochs=1, iterations=1, samples=2, updates=2, dev=2, test=3)
    return Run(config, tmp_path / "run", quiet=True)


def demonstration(id: str, instruction: str, *actions: str) -> Trajectory:
    messages = [{"role": "system", "content": "s"}]
    for action in actions:
        messages += [
            {"role": "user", "content": "page"},
            {"role": "assistant", "content": f"Thought: x\nAction: {action}"},
        ]
    return Trajectory(Task(id, "shop", "train", instruction), messages, 1.0, True, "x")


def test_nearest_and_usual_by_hand():
    shirt = demonstration("a", "a red cotton shirt", "search[red shirt]", "click[B1]", "click[Buy Now]")
    hat = demonstration("b", "a blue hat", "search[blue hat]", "click[B2]", "click[small]", "click[Buy Now]")
    lamp = demonstration("c", "a lamp", "search[lamp]", "click[Buy Now]")
    all_of_them = [shirt, hat, lamp]
    assert student.nearest(Task("x", "shop", "dev", "find a cotton shirt"), all_of_them) is shirt
    assert student.nearest(shirt.task, all_of_them) is not shirt  # never the task's own
    # click[B1] and click[B2] are click[it] both, twice of three; "small" was chosen once.
    assert Outlines(SHOP, all_of_them).usual(all_of_them) == ["search[it]", "click[it]", "click[buy now]"]


def test_what_a_student_sees(run):
    task = run.tasks("dev")[0]
    start = run.start(task, 0).messages
    system, page = start
    assert student.view(run, Student())(task, start) == start
    (_, told) = student.view(run, Student(prompt=True))(task, start)
    assert told["content"] == page["content"] + "\nHint: search[it]; click[it]; click[buy now]"
    first, *example, last = student.view(run, Student(retrieval=True))(task, start)
    own = student.nearest(task, run.demonstrations()).messages
    assert first == system and last == page
    assert [m["content"] for m in example] == [m["content"] for m in own[1:]] and example[-1]["role"] == "assistant"
    # An example is read and not learned: only the demonstration itself has agent tokens.
    taught = run.demonstrations()[0]
    alone = run.chat.encode(taught.messages)
    both = run.chat.encode(student.view(run, Student(retrieval=True))(taught.task, taught.messages))
    assert sum(both.agent_mask) == sum(alone.agent_mask) and len(both.input_ids) > len(alone.input_ids)


def test_episodes_keep_no_example(run):
    played, spent = student.act(run, Student(retrieval=True), run.tasks("dev"))
    for task, t in zip(run.tasks("dev"), played, strict=True):
        assert t.messages[:2] == run.start(task, 0).messages
        env = SHOP.clone()
        env.reset(options={"task": task})
        reward = [env.step(action)[1] for action in t.actions][-1]
        assert reward == t.reward  # its own actions, in the world, earn what it says
    assert spent["env_steps"] == sum(t.steps for t in played)


def test_the_teacher_keeps_what_gains_most(run, monkeypatch):
    """Rewards that are made up: SFT helps, then the example, then nothing; the line is never the best."""
    tried = []

    def act(run, student, tasks):
        tried.append(student)
        worth = 0.5 * (student.doses == 1) + 0.3 * (student.doses > 1) + 0.2 * student.retrieval + 0.1 * student.prompt
        worth -= 0.2 * (student.prompt and student.retrieval)
        return [demonstration(task.id, "x", "click[x]") for task in tasks], {"env_steps": 1, "tokens": 1}, worth

    monkeypatch.setattr(student, "act", lambda *a: act(*a)[:2])
    monkeypatch.setattr(student, "summarize", lambda *_: {"reward": act(None, tried.pop(), [])[2]})
    assert METHODS["student-teacher"].train(run) == ["student-teacher"]
    rounds = json.loads((run.folder / "student.json").read_text())
    assert [one["kept"] for one in rounds] == ["fine-tuning", "retrieval", "nothing"]
    assert rounds[0]["dev"] == {"nothing": 0.0, "fine-tuning": 0.5, "prompt": 0.1, "retrieval": 0.2}
    assert rounds[-1]["student"] == {"prompt": False, "retrieval": True, "doses": 1, "agent": "student-1"}
    # One dose is SFT itself; a second one is twice as long, and is tried twice: without and with the example.
    one, updates = run.sft(), run.spent(["sft"])["updates"]
    first = run.load(run.folder / "student-1")
    assert all(value.equal(first[name]) for name, value in one.items())
    assert {p.name for p in run.folder.glob("student*_log.csv")} == {
        "student-1_log.csv", "student-2_log.csv", "student-retrieval-2_log.csv",
    }  # fmt: skip
    assert run.spent(["student-teacher/1"])["updates"] == 5 * updates
    assert METHODS["student-teacher"].spent(1) == ["student-teacher/1"]
    # Stopped and begun again: nothing is tried twice.
    monkeypatch.setattr(student, "act", None)
    assert METHODS["student-teacher"].train(run) == ["student-teacher"]
    assert json.loads((run.folder / "student.json").read_text()) == rounds
