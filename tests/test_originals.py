"""The authors' trajectories in the originals' own data: played again, counted, and used by a run."""

import gzip
import json
import math
import os
from pathlib import Path

import pytest

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.config import Config
from ipr_lite.envs.authors import GOES_ON, NO_TASK, OTHER, authors
from ipr_lite.envs.shop import people as shop_experts
from ipr_lite.ipr import Run
from ipr_lite.rollout import states_along

REAL = os.environ.get("IPR_LITE_REAL_DATA")
pytestmark = pytest.mark.skipif(REAL is None, reason="IPR_LITE_REAL_DATA is unset: no original data to play in")


def conversation(name: str, turns: list[str], **more) -> dict:
    """A record of the authors' form: the instruction answered with OK, then turns of world and agent."""
    turns = ["You are to solve a task.", "OK", *turns]
    who = ("human", "gpt")
    return {"id": name, "conversations": [{"from": who[i % 2], "value": text} for i, text in enumerate(turns)], **more}


@pytest.fixture(scope="module")
def gold(tmp_path_factory):
    """ALFWorld's own expert trajectories, with what the real engine answered, as the authors' SFT file has them."""
    records = []
    with gzip.open(Path(REAL) / "alfworld" / "gold_train.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in map(json.loads, file):
            turns = [line["intro"]]
            for action, answer in zip(line["actions"], line["observations"]):
                turns += [f"Thought: I go on.\nAction: {action}", f"Observation: {answer}"]
            records.append(
                conversation(line["game"], turns[:-1], game_file=f"json_2.1.1/train/{line['game']}/game.tw-pddl")
            )
    path = tmp_path_factory.mktemp("gold") / "alfworld_sft.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_the_gold_trajectories_of_alfworld_win_here_too(gold):
    data = Path(REAL) / "alfworld"
    env, tasks = envs.make("house", data), envs.tasks("house", "train", data)
    found, left = authors(gold, env, tasks)
    recorded = json.loads(gold.read_text(encoding="utf-8"))
    short = [r for r in recorded if len(r["conversations"]) // 2 - 1 <= env.max_steps]
    assert len(found) == len(short) > 40 and all(t.success for t in found)
    assert left == {OTHER: len(recorded) - len(short)}  # too long for this world's turns
    assert len(states_along(env, found[0])) == found[0].steps


def test_a_run_clones_the_authors_trajectories(gold, tmp_path):
    config = Config(env="house", data=str(Path(REAL) / "alfworld"), recorded=str(gold), demonstrations=5)
    drawn = Run(config, tmp_path, quiet=True).demonstrations()
    assert len(drawn) == 5 and all("I go on." in t.actions[0] for t in drawn)
    assert config.setting == f"recorded={gold} demonstrations=5"


def test_what_cannot_be_played_again_is_counted(tmp_path, capsys):
    data = Path(REAL) / "webshop" / "three_files"
    env, tasks = envs.make("shop", data), envs.tasks("shop", "train", data)
    mine = shop_experts.demonstrations(tasks[:12], env, shop_experts.CAREFUL, 0, keep=-math.inf)
    records = [conversation(t.id, [m["content"] for m in t.messages[1:]], reward=t.reward) for t in mine]
    records[0]["reward"] = 1.0 - records[0]["reward"] / 2 if records[0]["reward"] < 1 else 0.5
    records[1]["conversations"] = records[1]["conversations"][:-2]
    first = records[2]["conversations"][2]
    first["value"] = first["value"].replace("Instruction: [SEP] ", "Instruction: [SEP] something else, ")
    path = tmp_path / "webshop_sft.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    found, left = authors(path, env, tasks)
    assert [t.messages for t in found] == [t.messages for t in mine[3:]]
    assert left == {OTHER: 1, GOES_ON: 1, NO_TASK: 1}
    assert main(["inspect", "--env", "shop", "--data", str(data), "--recorded", str(path)]) == 0
    said = capsys.readouterr().out
    assert "9 trajectories can be demonstrations" in said and f"1 left out: {NO_TASK}" in said


def test_a_split_that_is_missing_is_named(capsys):
    assert main(["inspect", "--env", "house", "--data", str(Path(REAL) / "alfworld")]) == 0
    said = capsys.readouterr().out
    assert "train     60 tasks" in said and "games_valid_unseen.jsonl" in said
