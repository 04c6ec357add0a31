"""Student and teacher (Khanmohammadi et al., 2024): round after round a teacher gives its student what helps most on dev.

The student begins as the base. In each round three remedies are tried, and the one that gains most, if one gains, stays:

1. prompt: a line under the task tells what most demonstrators do.
2. retrieval: before the task stands the demonstration whose instruction is most like it.
3. fine-tuning: SFT's updates once more, on the demonstrations with line and example as the student sees its tasks.

The paper's teacher is GPT-4o, which words the prompts; its student reads medical notes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from rapidfuzz import fuzz

from ipr_lite.evaluation import summarize
from ipr_lite.methods import advice
from ipr_lite.methods.explored import cost, said_from, total
from ipr_lite.methods.method import Method, kept
from ipr_lite.methods.outline import Outlines
from ipr_lite.records import Message, Task, Trajectory, read_json, write_atomically
from ipr_lite.run import Log, Run, Weights

NAME = "student-teacher"
ROUNDS = 3


@dataclass(frozen=True)
class Student:
    """Whether its prompt has the line and the example; its adapter, after so many doses of SFT."""

    prompt: bool = False
    retrieval: bool = False
    doses: int = 0
    agent: str = "base"


def nearest(task: Task, demonstrations: list[Trajectory]) -> Trajectory:
    """The demonstration of another task whose instruction shares most words with this one's."""
    others = [t for t in demonstrations if t.id != task.id]
    return max(others, key=lambda t: fuzz.token_set_ratio(task.instruction, t.task.instruction))


def view(run: Run, student: Student) -> Callable[[Task, list[Message]], list[Message]]:
    """How this student sees a conversation about a task; of an example it learns nothing."""
    demonstrations = run.demonstrations()
    line = advice.line_of("Hint", Outlines(run.env, demonstrations).usual(demonstrations))

    def seen(task: Task, messages: list[Message]) -> list[Message]:
        told = advice.below(messages, line) if student.prompt else messages
        examples = [nearest(task, demonstrations)] if student.retrieval else []
        shown = ({**m, "weight": 0} for t in examples for m in [*t.prefix(1)[1:], *said_from(t, 1)])
        return [told[0], *shown, *told[1:]]

    return seen


def act(run: Run, student: Student, tasks: list[Task]) -> tuple[list[Trajectory], dict[str, int]]:
    """The student's greedy episodes, without the examples that it was shown; and what they cost."""
    player, seen = run.player(run.agent(student.agent), 0.0, NAME), view(run, student)
    starts = [run.start(task, 0) for task in tasks]
    told = [replace(start, messages=seen(start.task, start.messages)) for start in starts]
    own = []
    for t, mine, start in zip(player.play(told, run.bar(NAME)), told, starts, strict=True):
        example = len(mine.messages) - len(start.messages)
        own.append(replace(t, messages=t.messages[:1] + t.messages[1 + example :]))
    return own, cost(player)


def tuned(run: Run, student: Student) -> Student:
    """The student after one more dose of SFT: cloned from the base anew, in as many updates as all its doses have."""
    doses, parts = student.doses + 1, "-prompt" * student.prompt + "-retrieval" * student.retrieval
    after = replace(student, doses=doses, agent=f"student{parts}-{doses}")

    def made() -> tuple[Weights, Log]:
        run.sft()  # what it took stands in the budget
        seen = view(run, student)
        told = [replace(t, messages=seen(t.task, t.messages)) for t in run.demonstrations()]
        return run.clone(told, doses * run.spent(["sft"])["updates"])

    run.adapter(run.folder / after.agent, run.folder / f"{after.agent}_log.csv", made)
    return after


def taught(run: Run, number: int, student: Student) -> dict:
    """A round: the mean reward on dev as the student is and with each remedy, what was kept, and the student after it."""
    remedies, dev, spent = {"nothing": student, "fine-tuning": tuned(run, student)}, {}, total()
    remedies |= {
        what: replace(student, **{what: True}) for what in ("prompt", "retrieval") if not getattr(student, what)
    }
    for name, other in remedies.items():
        played, amounts = act(run, other, run.tasks("dev"))
        dev[name], spent = summarize(played, NAME, "dev")["reward"], total(spent, amounts)
    best = max(dev, key=dev.get)  # the first of equal ones: what does not help is not kept
    run.spend(f"{NAME}/1/{number}", updates=remedies["fine-tuning"].doses * run.spent(["sft"])["updates"], **spent)
    return {"dev": dev, "kept": best, "student": asdict(remedies[best])}


def teach(run: Run) -> list[str]:
    """`Method.train`: rounds until nothing helps, `ROUNDS` at most; they stand in student.json."""
    path = run.folder / "student.json"
    rounds = read_json(path, list, "remove the file") if path.exists() else []
    while len(rounds) < ROUNDS and (not rounds or rounds[-1]["kept"] != "nothing"):
        student = Student(**rounds[-1]["student"]) if rounds else Student()
        rounds.append(taught(run, len(rounds) + 1, student))
        write_atomically(path, json.dumps(rounds, indent=1) + "\n")
    return [NAME]


def play(run: Run, agent: str, split: str) -> list[Trajectory]:
    """`Method.play`: the last student's greedy episodes, kept in the run's folder."""
    last = Student(**read_json(run.folder / "student.json", list, "remove the file")[-1]["student"])
    return kept(run, agent, split, lambda: act(run, last, run.tasks(split))[0])


STUDENT = Method(NAME, "a teacher picks prompt, retrieval or SFT on dev", teach, "#556b2f", "$e$", play, from_base=True)
