"""Rollouts on a server: a real `transformers serve` on the CPU, and a small one that misbehaves on command."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from families import dressed
from scipy.stats import mannwhitneyu

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.chat import Chat
from ipr_lite.config import TINY_BASE, Config
from ipr_lite.engine.served import AS_CONFIG, SAMPLING, ServedRollouts, ServerError, read_journal
from ipr_lite.ipr import round_of
from ipr_lite.model import load_tokenizer
from ipr_lite.records import read_trajectories
from ipr_lite.rollout import Episode, stable_seed
from ipr_lite.run import Run
from ipr_lite.study.job import run

ROOT = Path(__file__).resolve().parent.parent
SHOWCASE = ROOT / "data" / "showcase"
BUY = "Thought: \nAction: click[buy now]"


def copied(folder: Path, demonstrations: int = 4) -> Path:
    """The shipped run with few demonstrations, as it was before its first exploration."""
    shutil.copytree(SHOWCASE, folder, ignore=shutil.ignore_patterns("iteration-*", "evaluations", "*step_rewards*"))
    path = folder / "demonstrations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:demonstrations]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Run.opened(copied(tmp_path_factory.mktemp("runs") / "local", 12), quiet=True)


@pytest.fixture(scope="module")
def real(lab, tmp_path_factory):
    """The url of a `transformers serve`, which loads what it is asked for: `merged/sft` is the SFT policy."""
    folder = tmp_path_factory.mktemp("served")
    assert main(["merge", str(lab.folder), "--agent", "sft", "--out", str(folder / "merged" / "sft")]) == 0
    # What a checkpoint says of sampling must not count: the client asks for the plain softmax.
    path = folder / "merged" / "sft" / "generation_config.json"
    written = json.loads(path.read_text())
    assert (written["do_sample"], written["top_k"], written["top_p"], written["eos_token_id"]) == (
        True,
        0,
        1.0,
        lab.chat.end,
    )
    path.write_text(json.dumps(written | {"top_k": 2, "repetition_penalty": 1.5}))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", start, "serve", "--port", str(port)], cwd=folder, stdout=log, stderr=log
        )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.25)
        yield f"http://localhost:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


class Fake(ThreadingHTTPServer):
    """Answers every chat with `answer`, after the errors in `errors`: (status, text), the first first.

    Status 0: no error. slow: seconds before each answer.
    """

    def __init__(self, models=("m",), answer=BUY, errors=(), slow=0):
        super().__init__(("localhost", 0), _Handler)
        self.slow = slow
        self.models, self.answer, self.errors, self.asked, self.loaded = list(models), answer, list(errors), [], []
        self.url = f"http://localhost:{self.server_port}/v1"
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def tell(self, status: int, text: str):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.tell(
            200, json.dumps({"object": "list", "data": [{"id": m, "object": "model"} for m in self.server.models]})
        )

    def do_POST(self):
        body, server = json.loads(self.rfile.read(int(self.headers["Content-Length"]))), self.server
        if self.path == "/v1/load_lora_adapter":
            server.loaded.append(body)
            return self.tell(200, '"Success"')
        if self.path != "/v1/chat/completions":
            return self.tell(404, '{"detail": "Not Found"}')
        with server.lock:
            server.asked.append(body | {"key": self.headers["Authorization"]})
            error = server.errors.pop(0) if server.errors else None
        time.sleep(server.slow)
        if error and error[0]:
            return self.tell(*error)
        self.tell(200, completion(server.answer))


def completion(content, finish="stop", usage=None, **message) -> str:
    """What a server says of a chat; usage: without the tokens of the prompt, which no server here can count."""
    message = {"role": "assistant", "content": content} | message
    choice = {"index": 0, "message": message, "finish_reason": finish}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(answer | {"usage": {"completion_tokens": 9} if usage is None else usage})


def served(lab, url, temperature=0.0, model="m", **changed) -> ServedRollouts:
    settings = {"max_new_tokens": 160, "max_length": 4096, "batch_size": 8, "agent": "sft"} | changed
    return ServedRollouts(url, model, lab.chat, temperature=temperature, **settings)


def starts(lab, number: int, seed: int = 0) -> list[Episode]:
    return [lab.start(task, seed) for task in envs.tasks("shop", "test")[:number]]


def test_greedy_on_a_server_is_greedy_here(lab, real):
    """Message for message, tokens and rewards; in float32 the two may differ where two tokens are level, not here."""
    far, near = served(lab, real, model="merged/sft"), lab.player(lab.sft(), 0.0, "sft")
    assert far.play(starts(lab, 4)) == near.play(starts(lab, 4))
    assert (far.actions_taken, far.tokens_written) == (near.actions_taken, near.tokens_written)
    assert far.actions_taken > 8


PLACES = {("240", 1), ("302", 1), ("281", 1), ("281", 2), ("043", 2), ("271", 2)}
"""Steps of expert trajectories (the task's number, t) before which the SFT policy has many things to say."""


def surprise(lab, player, samples: int) -> list[list[float]]:
    """What a player says first at each place, sampled: minus its log-probability by the SFT policy as it is here."""
    places = [(e, t) for e in lab.demonstrations() for t in range(1, e.steps) if (e.id[-3:], t) in PLACES]
    assert len(places) == len(PLACES)
    states, model = lab.states([e for e, _ in places]), lab.player(lab.sft(), 1.0, "sft").model
    played = player.play([
        Episode(states[e.id][t - 1].clone(), e.task, e.prefix(t), stable_seed(player.agent, e.id, t, i), lambda message: True)
        for e, t in places
        for i in range(samples)
    ])  # fmt: skip
    known: dict[tuple, float] = {}
    for trajectory in played:
        key = tuple(m["content"] for m in trajectory.messages)
        if key not in known:
            start, ids = len(lab.chat.prompt(trajectory.messages[:-1])), lab.chat.encode(trajectory.messages).input_ids
            logits = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
            known[key] = -logits.gather(1, torch.tensor(ids[start:])[:, None]).sum().item()
    values = [known[tuple(m["content"] for m in t.messages)] for t in played]
    return [values[i * samples : (i + 1) * samples] for i in range(len(places))]


def p_value(seen: list[list[float]], truth: list[list[float]]) -> float:
    """Whether what was seen is as surprising as the truth (Mann-Whitney, on the ranks within each place)."""

    def ranks(values: list[list[float]]) -> list[float]:
        return [sum((y < x) + (y == x) / 2 for y in ys) / len(ys) for xs, ys in zip(values, truth) for x in xs]

    return mannwhitneyu(ranks(seen), ranks(truth)).pvalue


def test_sampled_on_a_server_is_the_same_distribution(lab, real):
    """And at temperature 0.6 the same test is red."""
    truth = surprise(lab, lab.player(lab.sft(), 1.0, "truth"), 60)
    far = served(lab, real, 1.0, "merged/sft")
    assert p_value(surprise(lab, far, 14), truth) > 1e-4
    assert far.extra == AS_CONFIG, "transformers serve refuses top_k, and is told in its own words"
    colder = lab.player(lab.sft(), 0.6, "sft")
    assert p_value(surprise(lab, colder, 14), truth) < 1e-4


def test_an_explore_stage_on_a_server(lab, real, tmp_path):
    """The run that began here goes on there; greedily, with the same explorations."""
    near = Run.opened(copied(tmp_path / "near"), quiet=True)
    config = replace(near.config, backend="openai", url=real, served="merged/{policy}")
    far = Run(config, copied(tmp_path / "far"), quiet=True)
    assert round_of(far, 1, "explore") == round_of(near, 1, "explore")
    assert far._policy is None, "the base was loaded here too"
    assert json.loads((far.folder / "config.json").read_text())["served"] == "merged/{policy}"
    assert far.spent(["iteration-1"]) == near.spent(["iteration-1"])
    assert sorted(p.name for p in (far.folder / "iteration-1").iterdir()) == ["explorations.jsonl"]


def test_a_model_that_is_not_there(lab, real):
    """Neither by its path, nor as an adapter; the book quotes both."""
    page = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
    for model, adapter in (("merged/ipr-9", None), ("ipr-1-0a1b2c3d", lab.folder / "sft")):
        with pytest.raises(ServerError, match=f"has no model '{model}'") as told:
            served(lab, real, model=model, adapter=adapter).play(starts(lab, 1))
        said = str(told.value).replace(real, "http://localhost:8000/v1")
        before, after = re.fullmatch(r"(.*it lists) .* (\(.*\); .*)", said).groups()
        assert before in page and after.rpartition(")")[2] in page, said


def test_a_stage_that_broke_asks_for_the_rest_alone(lab, tmp_path):
    """Nothing half-written; the journal goes when the stage stands."""
    config = replace(lab.config, backend="openai", served="{policy}", requests=1)
    with Fake(["sft"], errors=[(0, "")] * 14 + [(400, "no")]) as server:
        run = Run(replace(config, url=server.url), copied(tmp_path / "run"), quiet=True)
        with pytest.raises(ServerError, match="HTTP 400: no"):
            round_of(run, 1, "explore")
        journal = run.file(1, "explorations.journal")
        assert [p.name for p in journal.parent.iterdir()] == [journal.name]
        kept = read_journal(journal)
        assert kept and all(t.agent == "ipr-0" for t in kept.values())
        before = len(server.asked)
        journal.write_bytes(journal.read_bytes() + b'{"key": "half a l\xc3')
        found = round_of(Run(replace(config, url=server.url), run.folder, quiet=True), 1, "explore")
        assert not journal.exists()
        rest = len(server.asked) - before
    with Fake(["sft"]) as server:
        whole = Run(replace(config, url=server.url), copied(tmp_path / "whole"), quiet=True)
        assert round_of(whole, 1, "explore") == found
        assert rest < len(server.asked) and whole.spent(["iteration-1"]) == run.spent(["iteration-1"])
    assert read_trajectories(run.file(1, "explorations.jsonl")) == found


def test_a_busy_server_is_asked_again(lab):
    with Fake(errors=[(503, "busy"), (503, "busy")]) as server:
        found = served(lab, server.url).play(starts(lab, 1))
        assert found[0].extra == {"terminated": False, "invalid": 1, "tokens": 90} | found[0].extra
        assert len(server.asked) == found[0].steps + 2
    with (
        Fake(errors=[(503, "busy")] * 3) as server,
        pytest.raises(ServerError, match="HTTP 503: busy.*the same command again"),
    ):
        served(lab, server.url, retries=1).play(starts(lab, 1))


def test_samples_have_seeds_of_their_own_and_greedy_asks_once(lab):
    episodes = [lab.start(task, seed) for task in envs.tasks("shop", "test")[:2] for seed in range(3)]
    with Fake() as server:
        sampled = served(lab, server.url, 1.0).play(episodes)
        seeds = [asked["seed"] for asked in server.asked]
        assert len(set(seeds)) == len(seeds) == sum(t.steps for t in sampled) and max(seeds) < 2**31
        asked = server.asked[0]
        assert (asked["temperature"], asked["top_p"], asked["max_tokens"], asked["top_k"]) == (1.0, 1.0, 160, -1)
        assert asked["key"] == f"Bearer {os.environ.get('OPENAI_API_KEY') or 'none'}"
        server.asked.clear()
        episodes = [lab.start(task, seed) for task in envs.tasks("shop", "test")[:2] for seed in range(3)]
        greedy = served(lab, server.url, 0.0).play(episodes)
        assert len(server.asked) == sum(t.steps for t in greedy) / 3 and "seed" not in server.asked[0]


def test_fields_that_a_server_does_not_know_are_left_out(lab):
    refused = [
        (422, "Unexpected fields: {'top_k'}"),
        (400, "Unrecognized request argument supplied: generation_config"),
    ]
    with Fake(errors=refused) as server:
        player = served(lab, server.url, batch_size=1)
        with pytest.warns(UserWarning, match="takes no top_k"):
            player.play(starts(lab, 2))
        sent = [asked.keys() & (SAMPLING.keys() | AS_CONFIG.keys()) for asked in server.asked]
        assert sent[:2] == [SAMPLING.keys(), {"min_p", "repetition_penalty", "generation_config"}]
        assert all(fields == {"min_p", "repetition_penalty"} for fields in sent[2:])


LONG = {
    "vLLM": "This model's maximum context length is 4096 tokens. However, you requested 4200 tokens",
    "vLLM 0.9": "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "SGLang": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "llama.cpp": '{"error": {"code": 400, "type": "exceed_context_size_error", "message": "request (9 tokens) exceeds the '
    'available context size"}}',
    "TGI": '{"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4200"}',
    "TensorRT-LLM": "prompt length (5000) should not exceed max_seq_len (4096)",
    "hosted": '{"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 5000 tokens"}}',
}


@pytest.mark.parametrize("error", [
    *((status, told) for status in (400, 422, 500) for told in LONG.values()),
    (413, LONG["hosted"]),
    (200, LONG["llama.cpp"]),
    (200, LONG["hosted"]),
    (200, completion("Thought", "length", {"completion_tokens": 1})),
    (200, completion("", "length", {"completion_tokens": 1})),
    (200, completion("Thought: ", "length", {})),
])  # fmt: skip
def test_a_history_that_does_not_fit_the_server_is_an_overflow(lab, error):
    with Fake(errors=[(0, ""), error]) as server, pytest.warns(UserWarning, match="episodes end there, for reward 0"):
        found = served(lab, server.url, retries=0).play(starts(lab, 1))[0]
    assert found.extra["overflow"] and found.reward == 0 and found.steps == 1 and found.messages[-1]["role"] == "user"


@pytest.mark.parametrize("told", [
    completion([{"type": "text", "text": BUY[:9]}, {"type": "text", "text": BUY[9:]}]),
    completion([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": BUY}]),
    completion([BUY]),
    completion(BUY, finish=None),
    completion(BUY, "length", {"completion_tokens": 160}),
    completion(BUY, usage={}),
    completion(BUY, usage={"prompt_tokens": None, "completion_tokens": None}),
    completion(BUY, usage={"completion_tokens": "nine"}),
    json.dumps(json.loads(completion(BUY)) | {"usage": None, "error": None}),
    completion(BUY, refusal=None, tool_calls=[], reasoning_content=None),
])  # fmt: skip
def test_an_answer_is_read_whatever_its_shape(lab, told):
    with Fake(errors=[(200, told)]) as server:
        found = served(lab, server.url).play(starts(lab, 1))[0]
    assert found.messages[2]["content"] == BUY
    counted = len(lab.chat.content(BUY)) + 1
    assert found.extra["tokens"] - 9 * (found.steps - 1) in {9, 160, counted}


@pytest.mark.parametrize("told", [
    '{"error": {"message": "Overloaded", "type": "overloaded_error", "code": 529}}',
    '{"error": {"message": "try again", "code": "429"}}',
    '{"error": "Model is overloaded"}',
    '{"object": "error", "message": "engine busy", "code": 503}',
    '{"choices": null, "error": {"message": "no worker is free"}}',
    '{"choices": []}',
    completion(None),
    completion(" \n"),
    completion(None, refusal="I cannot help with that."),
    completion(None, "tool_calls", tool_calls=[{"type": "function"}]),
    completion(None, "length", {"completion_tokens": 160}, reasoning_content="Let me think"),
    completion(None, "content_filter"),
])  # fmt: skip
def test_what_is_no_turn_is_asked_for_again_and_no_action(lab, told):
    """Were it one, it would earn nothing, and make pairs. What stays is told in the server's words."""
    with Fake(errors=[(200, told)]) as server:
        found = served(lab, server.url, 1.0).play(starts(lab, 1))[0]
        assert [m["content"] for m in found.messages[2::2]] == [BUY] * found.steps
        assert len(server.asked) == found.steps + 1
    with Fake(errors=[(200, told)] * 9) as server, pytest.raises(ServerError) as raised:
        served(lab, server.url, retries=1).play(starts(lab, 1))
    said = " ".join(json.loads(told).get("message", told).split())
    assert said[:300] in str(raised.value) and "; " in str(raised.value)


def test_a_template_that_thinks_is_told_not_to(lab):
    """Qwen3 thinks and Llama 3.2 writes today's date unless they are told; where that is refused, it is said."""
    for family, constants in (("qwen3", {"enable_thinking": False}), ("llama3_2", {"date_string": "26 Jul 2024"})):
        chat = Chat(dressed(load_tokenizer(TINY_BASE), family))
        with Fake(errors=[(0, ""), (400, "extra fields: chat_template_kwargs")]) as server:
            player = ServedRollouts(
                server.url, "m", chat, temperature=0.0, max_new_tokens=9, max_length=4096, batch_size=1, agent="sft"
            )
            with pytest.warns(UserWarning, match="may not be those of training; serve a checkpoint that `python -m"):
                player.play(starts(lab, 2))
            sent = [asked.get("chat_template_kwargs") for asked in server.asked]
            assert sent[:2] == [constants] * 2 and set(map(bool, sent[2:])) == {False}
            assert all(asked["top_k"] == -1 for asked in server.asked)


def test_a_prompt_of_another_length_is_another_prompt(lab):
    told = completion(BUY, usage={"prompt_tokens": 5, "completion_tokens": 9})
    with Fake(errors=[(200, told)]) as server, pytest.warns(UserWarning, match="reads 5 tokens where training reads"):
        served(lab, server.url).play(starts(lab, 1))


def test_overflow_is_that_of_local_rollouts(lab):
    episode = starts(lab, 1)[0]
    room = len(lab.chat.prompt(episode.messages)) + 160
    with Fake() as server:
        for length, steps in ((room, 1), (room - 1, 0)):
            found = served(lab, server.url, max_length=length).play(starts(lab, 1))[0]
            assert found.extra["overflow"] and found.steps == steps


@pytest.mark.parametrize("answer", ["half a pair: \ud83d", "\x1b[2J\x00 {policy} </s>" * 50])
def test_whatever_a_server_writes_can_be_written_down(lab, answer, tmp_path):
    with Fake(answer=answer) as server:
        found = served(lab, server.url, journal=tmp_path / "j.journal").play(starts(lab, 1))
    assert found[0].extra["invalid"] == found[0].steps > 0
    assert list(read_journal(tmp_path / "j.journal").values()) == found


def test_a_world_that_fails_is_no_reward_of_0(lab):
    episode, step = starts(lab, 1)[0], 0

    def failing(message):
        nonlocal step
        step += 1
        return ("page", 0.0, False, False, {"invalid": False}) if step < 2 else 1 / 0

    episode.env.step = failing
    place = rf"shop failed in task '{episode.task.id}', step 2, at 'Thought: Action: click\[buy now\]' .*ZeroDivision"
    with Fake() as server, pytest.raises(RuntimeError, match=place):
        served(lab, server.url).play([episode])


@pytest.mark.parametrize(
    "key",
    [
        "sk-dachshundpoodle\n",
        "sk-dachshund\npoodle",
        "sk dachshundpoodle",
        "sk-dachshundüpoodle",
        "sk-dachshundpoodle\u200b",
        "\x1bsk-dachshundpoodle",
    ],
)
def test_a_key_is_shown_nowhere(lab, key, monkeypatch, tmp_path, capsys):
    """A server may say it again; a client says what it could not send."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    errors = [(401, json.dumps({"error": f"Incorrect API key provided: {key.strip()}"}))] * 99
    with Fake(["sft"], errors=errors) as server:
        config = replace(lab.config, backend="openai", url=server.url, served="{policy}")
        with pytest.raises(ServerError, match="OPENAI_API_KEY") as told:
            run(config, copied(tmp_path / "run"), quiet=True)
    assert {asked["key"] for asked in server.asked} == (
        {"Bearer sk-dachshundpoodle"} if key == "sk-dachshundpoodle\n" else set()
    )
    written = [path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()]
    everything = str(told.value) + capsys.readouterr().err + b"".join(written).decode("utf-8", "replace")
    assert "OPENAI_API_KEY" in everything and not re.search("dachshund|poodle", everything)


@pytest.mark.parametrize("given", [{"slow": 20}, {"errors": [(503, "busy")] * 999}])
def test_ctrl_c_ends_at_once(lab, given):
    """While a server sleeps over its answers, and while a busy one is to be asked again: nobody waits for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    with Fake(**given) as server:

        def press():
            while len(server.asked) < 8:
                time.sleep(0.05)
            pressed.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        pressed = []
        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            served(lab, server.url).play(starts(lab, 8))
        assert time.monotonic() - pressed[0] < 2
        assert [thread for thread in threading.enumerate() if not thread.daemon] == [threading.main_thread()]


@pytest.mark.parametrize(("error", "remedy"), [
    ((401, "wrong key"), "HTTP 401: wrong key; set OPENAI_API_KEY"),
    ((404, "nothing here"), "HTTP 404: nothing here; give the --url up to its /v1"),
    ((200, "<html>"), "HTTP 200: <html>; that is not OpenAI's API: give the --url"),
    ((200, '{"hello": 1}'), 'HTTP 200: {"hello": 1}; that is not OpenAI\'s API: give the --url'),
    ((200, '{"detail": "9' + "9" * 5000 + '"}'), "that is not OpenAI's API"),
    ((200, "9" * 5000), "that is not OpenAI's API"),
    ((200, "[" * 2000), "that is not OpenAI's API"),
    ((200, '{"error": {"code": 401, "message": "wrong key"}}'), "HTTP 401: .*wrong key.*; set OPENAI_API_KEY"),
    ((200, '{"error": {"type": "invalid_request_error", "message": "no"}}'), "HTTP 400: .*; its log says more"),
    ((400, "System role not supported"), "HTTP 400: System role not supported; its log says more"),
    ((400, "max_tokens is too large: 160"), "HTTP 400: max_tokens is too large"),
    ((400, "\x1b[31mred\nlines " * 99), r"HTTP 400: \\x1b\[31mred lines"),
])  # fmt: skip
def test_what_a_server_refuses_is_told_with_the_remedy(lab, error, remedy):
    with Fake(errors=[error]) as server, pytest.raises(ServerError, match=remedy) as told:
        served(lab, server.url).play(starts(lab, 1))
    assert server.url in str(told.value)
    assert str(told.value).isprintable() and len(str(told.value)) < 500


def test_an_adapter_is_loaded_by_its_name(lab, tmp_path):
    """As vLLM does it: the folder of the run, under a name that changes with the weights."""
    with Fake(["base"]) as server:
        run = Run(replace(lab.config, backend="openai", url=server.url), copied(tmp_path / "run", 1), quiet=True)
        round_of(run, 1, "explore")
        (asked,) = server.loaded
        assert asked["lora_path"] == str((run.folder / "sft").resolve()) and re.fullmatch(
            r"sft-[0-9a-f]{8}", asked["lora_name"]
        )
        assert {body["model"] for body in server.asked} == {asked["lora_name"]}
        assert run.player(None, 0.0, "base").model == run.scale.model
        with pytest.raises(ValueError, match="need --backend local"):
            run.player(dict(run.sft()), 0.0, "rft")


def test_where_episodes_are_played_is_no_setting(tmp_path):
    assert Config(backend="openai", url="http://other/v1", served="{policy}", requests=4).setting == "default"
    with pytest.raises(ValueError, match="write {policy} where base, sft"):
        Config(served="sft")


def test_merge_refuses_what_is_not_there(lab, tmp_path, capsys):
    assert main(["merge", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert main(["merge", str(lab.folder), "--agent", "ipr-7", "--out", str(tmp_path / "x")]) == 2
    assert main(["merge", str(lab.folder), "--agent", "sft", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "no run there" in told and "no agent 'ipr-7'" in told and "is there already" in told
    assert not (tmp_path / "x").exists()


def test_troubleshooting_quotes_an_unreachable_server(tmp_path, monkeypatch, capsys):
    copied(tmp_path / "run", 1)
    monkeypatch.chdir(tmp_path)
    assert main("explore --out run --backend openai --url http://localhost:9/v1".split()) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "start the server there, or correct --url" in told
    quoted = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
    assert re.sub(r"\(.*\)", "([Errno 111] Connection refused)", told) in quoted
