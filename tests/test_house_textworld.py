"""Random walks in the real engine and in ours, side by side: `pytest -m textworld`.

Skipped unless TextWorld and ALFWorld are installed beside this project's packages:
`pip install "textworld[pddl]==1.7.0" && pip install --no-deps alfworld==0.4.2 termcolor` (TextWorld
builds its planner from source: gcc and cmake).
"""

import gzip
import json
import os
import random
from itertools import islice
from pathlib import Path

import pytest

from ipr_lite.envs.house.env import AGENT, House
from ipr_lite.envs.house.game import read_problem, write_problem
from ipr_lite.envs.house.generated import games
from ipr_lite.records import Task

pytestmark = pytest.mark.textworld
REAL = os.environ.get("IPR_LITE_REAL_DATA")
STEPS = 25


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Opens a PDDL problem in TextWorld with the domain and grammar of the released games."""
    textworld = pytest.importorskip("textworld", reason="TextWorld is not installed")
    alfred = pytest.importorskip("alfworld.agents.environment.alfred_tw_env", reason="ALFWorld is not installed")
    if not REAL:
        pytest.skip("IPR_LITE_REAL_DATA is unset: no domain and grammar of the released games")
    folder = tmp_path_factory.mktemp("games")
    domain = (Path(REAL) / "alfworld" / "domain_in_games.pddl").read_text(encoding="utf-8")
    grammar = (Path(REAL) / "alfworld" / "grammar_in_games.twl2").read_text(encoding="utf-8")

    def open_game(problem: str, instruction: str):
        told = add_task(grammar, instruction)
        record = {"pddl_domain": domain, "grammar": told, "pddl_problem": problem, "solvable": True, "walkthrough": []}
        path = folder / "game.tw-pddl"
        path.write_text(json.dumps(record), encoding="utf-8")
        infos = textworld.EnvInfos(admissible_commands=True, won=True)
        return textworld.start(str(path), infos, wrappers=[alfred.AlfredDemangler()])

    return open_game


def add_task(grammar: str, instruction: str) -> str:
    """The grammar with the instruction in the place that ALFWorld leaves for it."""
    return grammar.replace("UNKNOWN GOAL.", instruction)


def released():
    with gzip.open(Path(REAL) / "alfworld" / "games_valid_seen.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [(r["pddl_problem"], r["task"]) for r in random.Random(0).sample(records, 30)]


def generated():
    found, tasks = games("test_unseen")
    return [(write_problem(found[t.id]), t.instruction) for t in islice(tasks, 0, None, 5)]


def walk(engine, problem: str, instruction: str, rng: random.Random) -> int:
    """Plays the same commands in both; the number of steps compared. Fails at the first difference."""
    game = read_problem(problem, instruction)
    task = Task("t", "house", "test", instruction, {"game": "g"})
    ours, theirs = House({"g": game}, [task]), engine(problem, instruction)
    page, _ = ours.reset(options={"task": task})
    state = theirs.reset()
    assert state.feedback.split("\n\n", 1)[1].strip() == page
    for step in range(1, STEPS + 1):
        commands = sorted(c for c in state["admissible_commands"] if c != "help")
        assert commands == ours.admissible()
        moving = [c for c in commands if not c.startswith(("go to", "look", "inventory", "examine"))]
        roll = rng.random()
        if roll < 0.05:
            command = rng.choice(["dance", "go to moon 1", "take apple", "open", "LOOK", f"go to {AGENT}"])
        else:
            command = rng.choice(moving if moving and roll < 0.6 else commands)
        state, _, done = theirs.step(command)
        assert state.feedback.strip() == ours.act(command), f"step {step}: {command}"
        assert bool(state["won"]) == ours.won() == bool(done), f"step {step}: {command}"
        if done:
            break
    theirs.close()
    return step


@pytest.mark.parametrize("source", [released, generated], ids=["released", "generated"])
def test_parity_random_walks_in_the_real_engine(engine, source):
    rng = random.Random(source.__name__)
    steps = [walk(engine, problem, instruction, rng) for problem, instruction in source()]
    print(f"{source.__name__}: {len(steps)} games, {sum(steps)} steps: pages, commands and wins equal")
