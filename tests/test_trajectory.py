"""Trajectories, step rewards, pairs and imports: round trips, and errors that help."""

import copy
import functools
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ipr_lite import envs
from ipr_lite.envs.authors import NO_TASK, authors
from ipr_lite.envs.importers import import_conversations
from ipr_lite.records import (
    DataError,
    Pair,
    Step,
    StepReward,
    Task,
    Trajectory,
    read_json,
    read_jsonl,
    read_pairs,
    read_step_rewards,
    read_tasks,
    read_trajectories,
    write_jsonl,
    write_pairs,
    write_step_rewards,
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
    return Trajectory(task, MESSAGES, 0.5, False, "demonstrator", 3, extra)


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
        ("{not json", r"line 2: not valid JSON \(.*column 2 .*correct or remove the line"),
        ("[1, 2]", "line 2: a list where a JSON object is needed"),
        (broken(lambda r: r.pop("reward")), "line 2: field 'reward': missing; add it"),
        (broken(lambda r: r.update(reward=float("inf"))), r"line 2: not valid JSON \(holds Infinity"),
        (broken(lambda r: r.update(reward=True)), "field 'reward': Input should be a valid number, not True; correct"),
        (broken(lambda r: r.update(success=1)), "field 'success': Input should be a valid boolean, not 1; correct"),
        (broken(lambda r: r.update(steps=7)), "field 'steps': the messages hold 2 .*correct or remove"),
        (broken(lambda r: r.update(schema=2)), "field 'schema': is 2.*update ipr_lite"),
        (broken(lambda r: r["task"].pop("instruction")), "field 'task.instruction': missing; add it"),
        (broken(lambda r: r["messages"].insert(1, TURN)), r"field 'messages': \[2\] is .*'user'.* where .*assistant"),
        (broken(lambda r: r["messages"].clear()), "field 'messages': ends with nothing"),
        (broken(lambda r: r["messages"].append("x")), r"field 'messages\[5\]': .*'x'"),
        (
            broken(lambda r: r["messages"][0].update(content=None)),
            r"field 'messages': \[0\] is .*None.*content: a text",
        ),
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
        (
            read_step_rewards,
            step_reward(),
            {"who": "me"},
            "field 'who': Input should be 'demonstrator' or 'agent', not 'me'",
        ),
        (read_step_rewards, step_reward(), {"n": 5}, "field 'n': is 5 but there are 2 samples"),
        (
            read_step_rewards,
            step_reward(),
            {"step": 0},
            "field 'step': Input should be greater than or equal to 1, not 0",
        ),
        (
            read_step_rewards,
            step_reward(),
            {"samples": [0, "1"]},
            r"field 'samples\[1\]': Input should be a valid number, not '1'",
        ),
        (read_pairs, pair(), {"kind": "both"}, "field 'kind'"),
        (read_pairs, pair(), {"chosen": []}, "field 'chosen': ends with nothing"),
        (read_pairs, pair(), {"chosen": MESSAGES[1:]}, r"field 'chosen': \[0\] is .*'user'.* where .*assistant"),
        (read_pairs, pair(), {"prompt": MESSAGES}, "field 'prompt': ends with assistant"),
        (read_pairs, pair(), {"rejected": MESSAGES[2:]}, "field 'rejected': equal to 'chosen'"),
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
    assert (found.steps, found.reward, found.success, found.agent) == (2, 0.75, False, "demonstrator")
    assert found.task == Task("7", "shop", "train", "i need a mug", {"game_file": "g"})
    assert Trajectory.from_record(found.to_record()) == found

    solved = save(tmp_path / "house.json", [{"game_file": "g/1", "conversations": [*turns, HITS]}])
    house = import_conversations(solved, "house")[0]
    assert (house.id, house.reward, house.success, house.as_steps()[-1].observation) == ("g/1", 1.0, True, "Page 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": [PAGE, {"from": "agent", "value": "x"}]}, r"\[1\].from': Input should be 'human' or 'gpt'"),
        ({"conversations": [PAGE, PAGE]}, r"field 'conversations': \[1\] is from human; turns alternate"),
        ({"conversations": [PAGE, {"from": "gpt"}]}, r"field 'conversations\[1\].value': missing; add it"),
        ({"conversations": "x"}, "field 'conversations': Input should be a valid list, not 'x'"),
        ({"id": None}, "field 'id'"),
        ({"reward": "high"}, "field 'reward': Input should be a valid number, not 'high'"),
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
        ('{"id": 1}', "a dict where a JSON list is needed"),
        ("[{}", "not valid JSON .*column 4"),
        ('[\n{"id" 1}]', r"not valid JSON \(.*line 2 column 7"),
        ('[{"id": 1, "conversations": [{"from": "human", "value": "x"}]}]', "'reward': missing"),
        ('[{"id": 1, "conversations": [], "reward": 1}]', "holds no turn"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        import_conversations(path, "shop")


def text_of(reward=1, **more) -> str:
    return json.dumps([{"id": 1, "conversations": [PAGE, BUY], "reward": reward, **more}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (text_of() + text_of(), "Extra data: column"),
        (text_of() + "\n{}", "Extra data: line 2 column 1"),
        (text_of()[:-1] + " {}]", "Expecting ',' delimiter"),
        (text_of(75), "field 'reward': Input should be less than or equal to 1, not 75"),
        (text_of(None), "field 'reward': Input should be a valid number, not None"),
        (text_of(float("nan")), "holds NaN"),
        ("[" * 100_000, "recursion"),
        (f"[{'9' * 5000}]", "5000 digits"),
        ("[1e999]", "holds 1e999, which is no finite number"),
        (text_of(title="\ud800"), "surrogates not allowed"),
    ],
)
def test_a_list_is_accepted_whole_or_not_at_all(tmp_path, text, message):
    path = tmp_path / "sft.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        import_conversations(path, "house")
    assert "sft.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "reward"),
    [
        ({"meta": {"reward": 0.5, "task": "x"}}, 0.5),
        ({"meta": {"success": False}}, 0.0),
        ({"success": True}, 1.0),
        ({"gpt_reward": 0.25, "meta": {"reward": 1}}, 0.25),
        ({}, 1.0),
    ],
)
def test_the_reward_is_found_where_the_originals_keep_it(tmp_path, more, reward):
    path = save(tmp_path / "sft.json", [{"id": 1, "conversations": [PAGE, BUY], **more}])
    (found,) = import_conversations(path, "sql")
    assert (found.reward, found.success) == (reward, reward == 1)


def test_two_demonstrations_of_one_task_are_told_apart(tmp_path):
    env, task = envs.make("shop"), envs.tasks("shop", "train")[0]
    records = []
    for actions in (["search[mug]", "click[back to search]"] * 5, ["search[mug]"] * 10, ["click[buy now]"] * 10):
        observation, _ = env.reset(options={"task": task})
        turns = [*INSTRUCTION, {"from": "human", "value": observation}]
        for action in actions:
            turns += [{"from": "gpt", "value": f"Action: {action}"}, {"from": "human", "value": "x"}]
        records.append({"id": len(records), "conversations": turns[:-1], "reward": 0})
    found, left = authors(save(tmp_path / "sft.json", records), env, [task])
    assert not left and [t.key for t in found] == [task.id, f"{task.id}#2", f"{task.id}#3"]
    assert {t.id for t in found} == {task.id}
    path = write_trajectories(tmp_path / "demonstrations.jsonl", found)
    assert read_trajectories(path) == found
    assert ["demonstration" in record for record in read_jsonl(path)] == [False, True, True]


def test_a_game_is_found_by_its_own_name_on_every_system(tmp_path):
    """Not by a name that another begins with; and Windows writes folders with backslashes."""
    env, (task, *_) = envs.make("house"), envs.tasks("house", "train")
    tasks = [replace(task, setup=task.setup | {"game": game}) for game in ("pick-Mug/trial_1", "pick-Mug/trial_12")]
    env.games = dict.fromkeys((t.setup["game"] for t in tasks), env.games[task.setup["game"]])
    observation, _ = env.reset(options={"task": tasks[0]})
    turns = [{"from": "human", "value": observation}]
    for _ in range(env.max_steps):
        turns += [{"from": "gpt", "value": "Action: look"}, {"from": "human", "value": "x"}]
    names = (r"json\train\pick-Mug\trial_1\game.tw-pddl", "json/train/pick-Mug/trial_12/game.tw-pddl", "trial_123")
    records = [{"id": 1, "game_file": name, "conversations": turns[:-1], "reward": 0} for name in names]
    found, left = authors(save(tmp_path / "sft.json", records), env, tasks)
    assert [t.task for t in found] == tasks and left == {NO_TASK: 1}


GOOD = json.dumps(trajectory().to_record()) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((GOOD + GOOD.replace("mug", "mög")).encode("latin-1"), "line 2: not UTF-8 .*save the file as UTF-8"),
        (GOOD.encode("utf-16"), "line 1: not UTF-8"),
        ((GOOD + '{"a": ' * 100_000).encode(), "line 2: not valid JSON .*recursion"),
        ((GOOD + GOOD.replace("null", "9" * 5000)).encode(), "line 2: not valid JSON .*5000 digits"),
        ((GOOD + GOOD.replace("null", "1e999")).encode(), "line 2: not valid JSON .*holds 1e999"),
        ((GOOD + GOOD.replace("null", "-Infinity")).encode(), "line 2: not valid JSON .*holds -Infinity"),
        ((GOOD + GOOD.replace("mug", "mug \\ud83d")).encode(), "line 2: not valid JSON .*surrogates not allowed"),
        ((GOOD + GOOD[:-30]).encode(), "line 2: not valid JSON"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_file_that_is_no_text_or_holds_what_cannot_be_kept(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=f"{name}, {message}") as caught:
        read_trajectories(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all", gzip.compress(GOOD.encode() * 99)[:-20], gzip.compress(GOOD.encode())[:10] + b"x" * 99],
)
def test_a_gzip_file_that_is_cut_or_foreign(tmp_path, content):
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match="a.jsonl.gz, after line .*: not a whole gzip file .*get the file anew"):
        read_trajectories(tmp_path / "a.jsonl.gz")


def test_a_byte_order_mark_and_windows_lines_are_read_everywhere(tmp_path):
    for name, text in {"a.jsonl": GOOD * 2, "a.json": text_of(), "b.json": "[1]"}.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_trajectories(tmp_path / "a.jsonl") == [trajectory()] * 2
    assert len(import_conversations(tmp_path / "a.json", "shop")) == 1
    assert read_json(tmp_path / "b.json", list, "") == [1]


def test_a_pair_of_emoji_halves_is_one_character(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD.replace("mug", "mug \\ud83d\\ude00"), encoding="utf-8")
    assert read_trajectories(tmp_path / "a.jsonl")[0].task.instruction == "i need a mug \U0001f600"


@pytest.mark.parametrize("value", ["\ud800", float("inf"), {1}, functools.reduce(lambda a, _: [a], range(100_000), 0)])
def test_what_no_file_can_hold_is_not_written(tmp_path, value):
    path = write_jsonl(tmp_path / "a.jsonl", [{"x": 1}])
    with pytest.raises(DataError, match="record 2: .*nothing was written: use finite"):
        write_jsonl(path, [{"x": 2}, {"x": value}])
    assert read_jsonl(path) == [{"x": 1}]


SHIPPED = sorted((Path(__file__).parents[1] / "data").rglob("*.jsonl"))
READERS = {"tasks": read_tasks, "step_rewards": read_step_rewards, "pairs": read_pairs, "products": read_jsonl}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "/".join(path.parts[-2:]))
def test_what_is_shipped_is_read_and_written_again_byte_for_byte(path, tmp_path):
    reader = next((reader for part, reader in READERS.items() if part in path.name), read_trajectories)
    found = reader(path)
    assert found
    write = write_jsonl if reader is read_jsonl else write_trajectories
    assert write(tmp_path / "a.jsonl", found).read_bytes() == path.read_bytes()
