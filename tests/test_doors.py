"""One contract for all doors: a recorded episode gives through each the observations, rewards and ends of the plain world.

Episodes are demonstrations that ship, in each world those of the first tasks, and one that fails where there is one.
"""

import json
import re
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from ipr_lite import DATA, envs, train
from ipr_lite.config import Config, scale
from ipr_lite.doors import gym, tools
from ipr_lite.doors import trl as door
from ipr_lite.engine import rollouts
from ipr_lite.model import load_base, load_tokenizer
from ipr_lite.records import read_trajectories
from ipr_lite.run import Run

PAGE = (Path(__file__).resolve().parent.parent / "book" / "doors.md").read_text(encoding="utf-8")
WORLDS = tuple(gym.IDS)


def recorded(world: str, n: int) -> list:
    """The first `n` demonstrations, and the first beyond them that has another reward than the first."""
    found = read_trajectories(DATA / world / "demonstrations_habitual.jsonl")
    others = [one for one in found[n:] if one.reward != found[0].reward]
    return [*found[:n], *others[:1]]


def actions(episode) -> list[str]:
    return [message["content"] for message in episode.messages if message["role"] == "assistant"]


def plainly(env, episode) -> list[tuple]:
    """What the plain world answers: (observation,), then (observation, reward, terminated, truncated) for each action.

    It is what was recorded, but for the last observation, which no trajectory has.
    """
    found = [(env.reset(options={"task": episode.task})[0],)]
    found += [env.step(action)[:4] for action in actions(episode)]
    assert [one[0] for one in found[:-1]] == [m["content"] for m in episode.messages if m["role"] == "user"]
    assert found[-1][1] == episode.reward and (found[-1][2] or found[-1][3])
    return found


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    """A world's name, its episodes, and what it answers to each."""
    env, episodes = envs.make(request.param), recorded(request.param, 12)
    return request.param, episodes, [plainly(env, episode) for episode in episodes]


def test_gymnasium(world):
    name, episodes, answers = world
    env = gymnasium.make(gym.IDS[name])
    for episode, expected in zip(episodes, answers):
        assert (env.reset(options={"task": episode.task})[0],) == expected[0]
        twin = env.unwrapped.clone()
        said = actions(episode)
        assert [env.step(action)[:4] for action in said] == expected[1:]
        assert [twin.step(action)[:4] for action in said] == expected[1:], "a copy goes on from where it was made"


def test_gymnasium_finds_the_worlds_by_the_name_of_the_file():
    assert gymnasium.make("ipr_lite.doors.gym:ipr-lite/Sql-v0").unwrapped.name == "sql"


def called(world: str, action: str) -> tuple[str, dict[str, str]]:
    """The tool that says what a parsed action says, and its arguments."""
    if world == "shop":
        name, argument = re.fullmatch(r"(search|click)\[(.*)\]", action).groups()
        return name, {"keywords" if name == "search" else "what": argument}
    if world == "sql":
        return ("submit", {}) if action == "submit" else ("execute", {"query": action})
    return "act", {"command": action}


def calls(world: str, episode) -> list[tuple[str, dict[str, str]]]:
    env = envs.make(world)
    return [called(world, env.parse(action)) for action in actions(episode)]


def test_tools(world):
    name, episodes, answers = world
    door = tools.TOOLS[name]()
    for episode, expected, row in zip(episodes, answers, tools.rows(episode.task for episode in episodes)):
        assert door.reset(**row) == expected[0][0] and door.get_reward() == 0.0
        for (tool, arguments), (observation, reward, *ended) in zip(calls(name, episode), expected[1:]):
            assert getattr(door, tool)(**arguments) == observation
            assert door.get_reward() == reward and door._over == any(ended)
        with pytest.raises(ValueError, match="the episode is over: call no more tools"):
            getattr(door, tool)(**arguments)


def test_tools_refuse_what_is_no_text_and_rows_of_others():
    door = tools.SQLTools()
    with pytest.raises(ValueError, match="is over"):
        door.submit()
    door.reset(**tools.rows(envs.tasks("sql", "train")[:1])[0])
    with pytest.raises(ValueError, match="the argument is of the type list; give a text"):
        door.execute(["SHOW TABLES"])
    with pytest.raises(ValueError, match="is for the world 'shop', not 'sql'"):
        door.reset(**tools.rows(envs.tasks("shop", "train")[:1])[0])
    with pytest.raises(ValueError, match="fill the column task as"):
        door.reset(task="shop-1")


class Scripted(GRPOTrainer):
    """GRPOTrainer whose model calls the tools that it is told to, whatever the model is; all else is TRL's."""

    def _generate_single_turn(self, prompt_ids, *others, **more):
        if not hasattr(self, "begun"):
            self.begun, self.turn = list(zip(prompt_ids, self.scripts)), 0
        texts = []
        for ids in prompt_ids:
            script = next(script for begun, script in self.begun if ids[: len(begun)] == begun)
            texts.append(script[self.turn] if self.turn < len(script) else "Done.")
        self.turn += 1
        return [self._tokenizer(text + "<|im_end|>")["input_ids"] for text in texts], None

    def _send_telemetry(self):
        pass


def test_tools_in_trls_own_loop(tmp_path):
    """One episode of each world, in one batch: TRL parses the calls, takes the steps and asks for the reward."""
    episodes = [min(recorded(name, 12), key=lambda one: len(one.messages)) for name in WORLDS]
    expected = [plainly(envs.make(one.task.env), one) for one in episodes]
    model = scale("tiny").model
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = qwen3_chat_template
    seen = []

    def look(prompts, completions, environments, **columns):
        seen.append((prompts, completions, [one.get_reward() for one in environments]))
        return [0.0] * len(prompts)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Scripted(
            load_base(model, "full"), look, settings(tmp_path, 6, max_completion_length=3000, num_generations=2),
            train_dataset=Dataset.from_list(tools.rows(one.task for one in episodes)),
            processing_class=tokenizer, environment_factory=tools.TOOLS,
        )  # fmt: skip
        by_task = {one.task.env: [tool_call(*call) for call in calls(one.task.env, one)] for one in episodes}
        batch = [
            row | {"prompt": list(row["prompt"])} for row in tools.rows(one.task for one in episodes) for _ in "ab"
        ]
        trainer.scripts = [by_task[row["environment"]] for row in batch]
        trainer._generate_and_score_completions(batch)
    (prompts, completions, rewards), *_ = seen
    for prompt, completion, reward, answers in zip(prompts, completions, rewards, [a for a in expected for _ in "ab"]):
        told = [message["content"] for message in completion if message["role"] == "tool"]
        assert prompt[1]["content"] == answers[0][0]
        assert told == [answer[0] for answer in answers[1:]] and reward == answers[-1][1]


def tool_call(name: str, arguments: dict) -> str:
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def settings(folder: Path, batch: int, **more) -> GRPOConfig:
    return GRPOConfig(
        str(folder), per_device_train_batch_size=batch, max_steps=1, use_cpu=True, bf16=False,
        save_strategy="no", report_to="none", disable_tqdm=True, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(Config(env="all", precision="full"), tmp_path_factory.mktemp("run"), quiet=True)


def trainer_of(run: Run, **changed):
    """As much of a trainer as a rollout function asks."""
    accelerator = SimpleNamespace(unwrap_model=lambda model: model, process_index=0)
    given = {
        "model": run.policy,
        "accelerator": accelerator,
        "state": SimpleNamespace(global_step=3),
        "temperature": 1.0,
    }
    return SimpleNamespace(**given | changed)


def test_rollout_func(run, monkeypatch):
    """The model writes what was recorded, token by token; all else is the batched rollouts' and the door's."""
    episodes = [one for name in WORLDS for one in recorded(name, 2)]
    whole = {one.task.id: run.chat.encode(one.messages) for one in episodes}

    def write(player, rows, drafts, logits):
        ids = [whole[row.samples[0].episode.task.id].input_ids + [run.chat.end] * 5000 for row in rows]
        starts = [len(row.history) for row in rows]
        return [
            [[known[start + place]] * len(row.samples) for place in range(len(draft) + 1)]
            for row, draft, known, start in zip(rows, drafts, ids, starts)
        ]

    monkeypatch.setattr(rollouts.Rollouts, "_choose", write)
    prompts = [row["prompt"] for row in door.rows(run, [one.task for one in episodes])]
    run.policy.train()
    given = door.rollout_func(run, [one.task for one in episodes])(prompts, trainer_of(run))
    assert run.policy.training and not [
        n for n, w in run.policy.named_parameters() if w.requires_grad != (".default." in n)
    ]
    assert given.keys() == {"prompt_ids", "completion_ids", "logprobs", "env_mask", "outcome"}
    for episode, prompt, completion, logprobs, mask, outcome in zip(episodes, *given.values()):
        expected = whole[episode.task.id]
        assert prompt == run.chat.prompt(episode.messages[:2])
        assert prompt + completion == expected.input_ids and [0] * len(prompt) + mask == expected.agent_mask
        assert outcome == episode.reward
        with torch.no_grad():
            (summed,) = train.log_probabilities(run.policy, [expected])
        assert sum(logprobs) == pytest.approx(summed.item(), abs=1e-2)
        assert not any(value for value, mine in zip(logprobs, mask) if not mine)
    assert door.outcome(**given) == given["outcome"]


def test_rollout_func_refuses_what_it_cannot_play(run, monkeypatch):
    tasks = envs.tasks("shop", "train")[:2]
    prompts = [row["prompt"] for row in door.rows(run, tasks)]
    with pytest.raises(ValueError, match="the trainer's model is not the run's: give it model=run.policy"):
        door.rollout_func(run, tasks)(prompts, trainer_of(run, model=None))
    with pytest.raises(ValueError, match=r"prompts of unknown tasks.*make the dataset with rows\(run, tasks\)"):
        door.rollout_func(run, tasks[:1])(prompts, trainer_of(run))
    with pytest.raises(ValueError, match="prompts of unknown tasks, .'None'.; make"):
        door.rollout_func(run, tasks)(["Find me a tea."], trainer_of(run))
    monkeypatch.setattr(run, "scale", scale("tiny", max_length=60))
    with pytest.raises(ValueError, match="leaves no room for an action in max_length 60"):
        door.rollout_func(run, tasks)(prompts, trainer_of(run))


def test_samples_of_one_task_differ_and_are_the_same_again(run):
    task = envs.tasks("sql", "train")[0]
    prompts = [row["prompt"] for row in door.rows(run, [task] * 3)]
    play = door.rollout_func(run, [task])
    first, again, later = (
        play(prompts, trainer_of(run, state=SimpleNamespace(global_step=step)))["completion_ids"] for step in (0, 0, 1)
    )
    assert first == again != later and len(set(map(tuple, first))) > 1


def test_the_database_answers_every_thread():
    """A server's threads, and ours beside them: SQLite answers no thread but the one that opened a file."""
    (episode,) = recorded("sql", 1)[:1]
    with ThreadPoolExecutor(1) as other:
        answers = other.submit(lambda: plainly(envs.make("sql"), episode)).result()
    assert answers == plainly(envs.make("sql"), episode)


@pytest.fixture(scope="module")
def server():
    """The address of a server of the three worlds."""
    pytest.importorskip("openenv", reason="this door is an extra: pip install -r requirements-doors.txt")
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = re.search(r"uvicorn --factory (\S+) --port 8000", PAGE)[1]
    # OpenEnv logs an error whenever a client leaves.
    running = uvicorn.Server(
        uvicorn.Config(place, factory=True, port=port, log_level="critical", timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    for _ in range(600):
        if running.started:
            break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(20)


def client(server: str):
    from openenv.core import GenericEnvClient

    return GenericEnvClient(base_url=server).sync()


def answer(result) -> tuple:
    seen = result.observation
    assert result.done == (seen["terminated"] or seen["truncated"])
    return seen["text"], result.reward, seen["terminated"], seen["truncated"]


def test_openenv(server, world):
    _, episodes, answers = world
    with client(server) as env, client(server) as twin:
        for episode, expected in zip(episodes, answers):
            assert answer(env.reset(task=episode.task.id))[:1] == expected[0]
            said, half = actions(episode), len(episode.messages) // 4
            assert [answer(env.step({"message": one})) for one in said[:half]] == expected[1 : 1 + half]
            at_half = answer(twin.reset(clone=env.state()["episode_id"]))
            assert at_half[0] == expected[half][0]
            for one in (env, twin):
                assert [answer(one.step({"message": action})) for action in said[half:]] == expected[1 + half :]
                assert one.state()["step_count"] == len(said) and one.state()["task"] == episode.task.id


def test_openenv_sessions_play_side_by_side(server):
    """Eight clients at once, in all worlds: none sees another's episode."""
    episodes = [one for name in WORLDS for one in recorded(name, 7)]
    expected = [plainly(envs.make(one.task.env), one) for one in episodes]

    def play(episode) -> list[tuple]:
        with client(server) as env:
            begun = answer(env.reset(task=episode.task.id))[:1]
            return [begun, *(answer(env.step({"message": action})) for action in actions(episode))]

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(play, episodes)) == expected


def test_openenv_lists_its_tasks_and_says_what_is_wrong(server):
    import httpx

    listed = httpx.get(f"{server}/tasks/dev", trust_env=False).json()
    assert [one["task"] for one in listed] == [task.id for task in envs.tasks("all", "dev")]
    assert {one["env"] for one in listed} == set(WORLDS)
    with client(server) as env, client(server) as other:
        for given, told in (
            ({"task": "tea"}, "no task 'tea'; GET /tasks/train"),
            ({"clone": "tea"}, "clone 'tea', task None: give an episode_id that a session plays now"),
        ):
            with pytest.raises(RuntimeError, match=told):
                env.reset(**given)
        with pytest.raises(RuntimeError, match="call reset"):
            env.step({"message": "Action: look"})
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            env.step({"message": 5})
        assert env.reset(seed=4) == other.reset(seed=4), "a drawn task comes from the seed"
        env.reset(seed=4, episode_id="mine")
        env.reset(seed=5, episode_id="mine")
        with pytest.raises(RuntimeError, match="episode_id 'mine' is played already"):
            other.reset(episode_id="mine")
        env.reset(seed=5)
        with pytest.raises(RuntimeError, match="clone 'mine'"):
            other.reset(clone="mine")


# --- SkyRL ----------------------------------------------------------------------------------------


@pytest.fixture
def skyrl():
    pytest.importorskip("skyrl_gym", reason="this door is an extra: pip install -r requirements-doors.txt")
    from ipr_lite.doors import skyrl

    return skyrl


def test_skyrl(skyrl, world):
    """Each step from another thread, as SkyRL's generator takes them."""
    import skyrl_gym

    name, episodes, answers = world
    for episode, expected, row in zip(episodes, answers, skyrl.rows(one.task for one in episodes)):
        env = skyrl_gym.make(row["env_class"], env_config={}, extras=row)
        prompt, told = env.init(row["prompt"])
        assert prompt == row["prompt"] == episode.messages[:2] and told == {"task": episode.task.id}
        assert prompt[1]["content"] == expected[0][0] and env.max_turns >= len(actions(episode))
        found = []
        for action in actions(episode):
            with ThreadPoolExecutor(1) as thread:
                found.append(thread.submit(env.step, action).result())
        seen = [
            (
                one["observations"][0]["content"],
                one["reward"],
                one["metadata"]["terminated"],
                one["metadata"]["truncated"],
            )
            for one in found
        ]
        assert seen == expected[1:] and [one["done"] for one in found] == [any(answer[2:]) for answer in expected[1:]]
        plain = envs.make(name)
        plain.reset(options={"task": episode.task})
        refused = sum(plain.step(action)[4]["invalid"] for action in actions(episode))
        assert env.get_metrics() == {"success": float(episode.success), "invalid": refused}


def test_skyrl_says_what_is_wrong(skyrl):
    with pytest.raises(ValueError, match="fill the column task as ipr_lite.doors.skyrl.rows does"):
        skyrl.Episode(extras={"task": "tea"})
    (row,) = skyrl.rows(envs.tasks("shop", "dev")[:1])
    env = skyrl.Episode(extras=row)
    with pytest.raises(RuntimeError, match="reset"):
        env.step("Action: search[tea]")
    env.init([])
    assert not env.step("no action")["done"] and env.get_metrics() == {"success": 0.0, "invalid": 1.0}


EXAMPLES = re.findall(r"## (\w+)[^\n]*\n(?:(?!\n## ).)*?```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_the_pages_examples_run(code, tmp_path, monkeypatch, request, capsys):
    if "skyrl" in code:
        request.getfixturevalue("skyrl")
    if "openenv" in code:
        code = code.replace("http://localhost:8000", request.getfixturevalue("server"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    names = {}
    exec(code, names)
    assert capsys.readouterr().out.strip().endswith(re.search(r"  # (.+)\n$", code)[1])
