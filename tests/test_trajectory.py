"""Trajectories, step rewards, pairs and imports: round trips, and errors that help."""

import copy
import json

import pytest

from ipr_lite.envs.importers import import_conversations, import_preferences
from ipr_lite.records import Pair, StepReward, read_pairs, read_step_rewards, write_pairs, write_step_rewards
from ipr_lite.trajectory import (
    DataError,
    Step,
    Task,
    Trajectory,
    read_jsonl,
    read_tasks,
    read_trajectories,
    write_jsonl,
    write_tasks,
    write_trajectories,
)

MESSAGES = [
    {"role": "system", "content": "You are web shopping."},
    {"role": "user", "content": "WebShop [SEP] Search › \u2028 'quoted' \"text\"\nnew line"},
    {"role": "assistant", "content": "Thought: look\nAction: search[mug]"},
    {"role": "user", "content": "Page 1"},
    {"role": "assistant", "content": "Thought: buy\nAction: click[Buy Now]"},
]


def trajectory(**extra) -> Trajectory:
    task = Task("t1", "shop", "train", "i need a mug", {"goal": [1, None]}, {"note": "kept"})
    return Trajectory(task, MESSAGES, 0.5, False, "expert", 3, extra)


def pair() -> Pair:
    turn = [{"role": "assistant", "content": "a"}]
    return Pair(MESSAGES[:2], MESSAGES[2:], turn, "outcome", "t1", 1, None, 0.5, 1.0, 0.0)


def step_reward() -> StepReward:
    return StepReward("t1", 2, "Action: x", "seen", "agent", 0.5, 2, [0.0, 1.0], 0.25, False)


def test_a_trajectory_file_survives_a_round_trip_with_fields_that_nobody_knows(tmp_path):
    path = write_trajectories(tmp_path / "new" / "a.jsonl", [trajectory(start_step=2, colour="é")])
    record = read_jsonl(path)[0]
    assert list(record)[:4] == ["id", "env", "split", "task"] and record["schema"] == 1
    assert record["task"] == {"instruction": "i need a mug", "setup": {"goal": [1, None]}, "note": "kept"}
    assert record["steps"] == 2 and record["colour"] == "é"
    again = read_trajectories(path)
    assert again == [trajectory(start_step=2, colour="é")]
    first = path.read_bytes()
    write_trajectories(path, again)
    assert path.read_bytes() == first and b"\r" not in first
    assert [item.name for item in path.parent.iterdir()] == ["a.jsonl"]


def test_tasks_step_rewards_and_pairs_survive_a_round_trip(tmp_path):
    task = trajectory().task
    assert read_tasks(write_tasks(tmp_path / "t.jsonl", [task])) == [task] and hash(task)
    reward = step_reward()
    reward.extra = {"prefix_tokens": 12}
    assert read_step_rewards(write_step_rewards(tmp_path / "s.jsonl", [reward])) == [reward]
    assert read_pairs(write_pairs(tmp_path / "p.jsonl", [pair()])) == [pair()]


def test_prefix_suffix_and_steps_split_the_messages_by_structure():
    found = trajectory()
    assert found.prefix(1) == MESSAGES[:2] and found.suffix(2) == MESSAGES[4:]
    assert found.prefix(2) + found.suffix(2) == MESSAGES
    assert found.as_steps() == [Step(MESSAGES[2]["content"], "Page 1"), Step(MESSAGES[4]["content"], "")]
    with pytest.raises(ValueError, match="steps 1 to 2, not 3"):
        found.prefix(3)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"x": 1}])
    with pytest.raises(DataError, match="record 2: .*finite numbers"):
        write_jsonl(path, [{"x": 2}, {"x": float("nan")}])
    assert read_jsonl(path) == [{"x": 1}]
    assert [item.name for item in tmp_path.iterdir()] == ["a.jsonl"]


def broken(change) -> str:
    record = copy.deepcopy(trajectory().to_record())
    change(record)
    return json.dumps(record)


TURN = {"role": "user", "content": "again"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"line 2: not JSON \(.*column 2\).*correct or remove the line"),
        ("[1, 2]", "line 2: a list where a JSON object is needed"),
        (broken(lambda r: r.pop("reward")), "line 2: field 'reward': missing; add a finite number"),
        (broken(lambda r: r.update(reward=float("inf"))), "line 2: holds Infinity"),
        (broken(lambda r: r.update(reward=True)), "field 'reward': True where a finite number"),
        (broken(lambda r: r.update(success=1)), "field 'success': 1 where true or false"),
        (broken(lambda r: r.update(steps=7)), "field 'steps': is 7 but the messages hold 2"),
        (broken(lambda r: r.update(schema=2)), "field 'schema': is 2.*update ipr_lite"),
        (broken(lambda r: r["task"].pop("instruction")), "field 'task.instruction': missing; add a text"),
        (broken(lambda r: r["messages"].insert(1, TURN)), r"field 'messages\[2\]': role 'user' where assistant is due"),
        (broken(lambda r: r["messages"].clear()), "field 'messages': ends with nothing"),
        (broken(lambda r: r["messages"].append("x")), r"field 'messages\[5\]': 'x'"),
        (broken(lambda r: r["messages"][0].update(content=None)), r"field 'messages\[0\]': content is None"),
    ],
)
def test_a_bad_line_is_refused_with_file_line_field_and_remedy(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(trajectory().to_record()) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_trajectories(path)
    assert "bad.jsonl" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reader", "record", "change", "message"),
    [
        (read_step_rewards, step_reward(), {"who": "me"}, "field 'who': is 'me'; it must be expert or agent"),
        (read_step_rewards, step_reward(), {"n": 5}, "field 'n': is 5 but there are 2 samples"),
        (read_step_rewards, step_reward(), {"step": 0}, "field 'step': is 0"),
        (read_step_rewards, step_reward(), {"samples": [0, "1"]}, r"field 'samples\[1\]': '1'"),
        (read_pairs, pair(), {"kind": "both"}, "field 'kind'"),
        (read_pairs, pair(), {"chosen": []}, "field 'chosen': ends with nothing"),
        (read_pairs, pair(), {"chosen": MESSAGES[1:]}, r"field 'chosen\[0\]': role 'user' where assistant"),
        (read_pairs, pair(), {"prompt": MESSAGES}, "field 'prompt': ends with 'assistant'"),
    ],
)
def test_a_bad_step_reward_or_pair_is_refused(tmp_path, reader, record, change, message):
    path = write_jsonl(tmp_path / "a.jsonl", [{**record.to_record(), **change}])
    with pytest.raises(DataError, match=message):
        reader(path)


INSTRUCTION = [{"from": "human", "value": "You are web shopping."}, {"from": "gpt", "value": "OK"}]
PAGE = {"from": "human", "value": "WebShop [SEP] Instruction: [SEP] i need a mug [SEP] Search"}
SEARCH = {"from": "gpt", "value": "Thought: look\nAction: search[mug]"}
HITS = {"from": "human", "value": "Page 1"}
BUY = {"from": "gpt", "value": "Thought: buy\nAction: click[Buy Now]"}


def save(path, records):
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return path


def test_conversations_of_the_original_repositories_become_trajectories(tmp_path):
    turns = [*INSTRUCTION, PAGE, SEARCH, HITS, BUY]
    path = save(tmp_path / "sft.json", [{"id": 7, "conversations": turns, "reward": 0.75, "game_file": "g"}])
    found = import_conversations(path, "shop")[0]
    assert [m["role"] for m in found.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert (found.steps, found.reward, found.success, found.agent) == (2, 0.75, False, "expert")
    assert found.task == Task("7", "shop", "train", "i need a mug", {"game_file": "g"})
    assert Trajectory.from_record(found.to_record()) == found

    solved = save(tmp_path / "house.json", [{"game_file": "g/1", "conversations": [*turns, HITS]}])
    house = import_conversations(solved, "house")[0]
    assert (house.id, house.reward, house.success, house.as_steps()[-1].observation) == ("g/1", 1.0, True, "Page 1")


def test_preference_files_become_outcome_and_step_pairs(tmp_path):
    records = [
        {"id": 70, "prompt": [*INSTRUCTION, PAGE], "chosen": [SEARCH, HITS, BUY], "rejected": [BUY]},
        {"id": 71, "prompt": [*INSTRUCTION, PAGE, SEARCH, HITS], "chosen": BUY, "rejected": [SEARCH]},
    ]
    first, second = import_preferences(save(tmp_path / "p.json", records))
    assert (first.kind, first.step, first.id, len(first.chosen)) == ("outcome", 1, "70", 3)
    assert (second.kind, second.step) == ("step", 2) and second.chosen_reward is None
    assert second.chosen == [{"role": "assistant", "content": BUY["value"]}]
    assert Pair.from_record(second.to_record()) == second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": [PAGE, {"from": "agent", "value": "x"}]}, r"\[1\]': 'from' is 'agent'; it must be human or"),
        ({"conversations": [PAGE, PAGE]}, r"field 'conversations\[1\]': role 'user' where assistant is due"),
        ({"conversations": [PAGE, {"from": "gpt"}]}, r"field 'conversations\[1\]': not a turn"),
        ({"conversations": "x"}, "field 'conversations': 'x' where a list is needed"),
        ({"id": None}, "field 'id'"),
        ({"reward": "high"}, "field 'reward': 'high' where a finite number"),
    ],
)
def test_a_bad_import_is_refused_with_record_line_field_and_remedy(tmp_path, change, message):
    good = {"id": 1, "conversations": [PAGE, BUY], "reward": 1}
    text = "[\n" + json.dumps(good) + ",\n\n" + json.dumps({**good, **change}) + "\n]"
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"bad.json, record 2 \(line 4\): .*" + message):
        import_conversations(path, "shop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1}', "does not begin with"),
        ("[{}", "ends inside the list"),
        ('[\n{"id" 1}]', r"record 1 \(line 2, column 7\): not JSON"),
        ('[{"id": 1, "conversations": [{"from": "human", "value": "x"}]}]', "'reward': missing"),
        ('[{"id": 1, "conversations": [], "reward": 1}]', "ends with nothing"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        import_conversations(path, "shop")
