"""Rollouts on a server: a real `transformers serve` on the CPU, and a small one that misbehaves on command."""

import json
import os
import re
import shutil
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
from scipy.stats import mannwhitneyu

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.config import Config
from ipr_lite.engine.served import PLAIN_SAMPLING, ServedRollouts, ServerError, read_journal
from ipr_lite.ipr import Run
from ipr_lite.rollout import Episode, stable_seed
from ipr_lite.trajectory import read_trajectories

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
    """Answers every chat with `answer`, after the errors in `errors`: (status, text), the first first."""

    def __init__(self, models=("m",), answer=BUY, errors=()):
        super().__init__(("localhost", 0), _Handler)
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
        if error and error[0]:
            return self.tell(*error)
        message = {"role": "assistant", "content": server.answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.tell(200, json.dumps({
            "id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
            "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
        }))  # fmt: skip


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
    assert far.sampling == 1, "transformers serve refuses top_k, and is told in its own words"
    colder = lab.player(lab.sft(), 0.6, "sft")
    assert p_value(surprise(lab, colder, 14), truth) < 1e-4


def test_an_explore_stage_on_a_server(lab, real, tmp_path):
    """The run that began here goes on there; greedily, with the same explorations."""
    near = Run.opened(copied(tmp_path / "near"), quiet=True)
    config = replace(near.config, backend="openai", url=real, served="merged/{policy}")
    far = Run(config, copied(tmp_path / "far"), quiet=True)
    assert far.explorations(1) == near.explorations(1)
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
            run.explorations(1)
        journal = run.file(1, "explorations.journal")
        assert [p.name for p in journal.parent.iterdir()] == [journal.name]
        kept = read_journal(journal)
        assert kept and all(t.agent == "ipr-0" for t in kept.values())
        before = len(server.asked)
        journal.write_bytes(journal.read_bytes() + b'{"key": "half a l\xc3')
        found = Run(replace(config, url=server.url), run.folder, quiet=True).explorations(1)
        assert not journal.exists()
        rest = len(server.asked) - before
    with Fake(["sft"]) as server:
        whole = Run(replace(config, url=server.url), copied(tmp_path / "whole"), quiet=True)
        assert whole.explorations(1) == found
        assert rest < len(server.asked) and whole.spent(["iteration-1"]) == run.spent(["iteration-1"])
    assert read_trajectories(run.file(1, "explorations.jsonl")) == [e.trajectory for e in found]


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
        extra = [
            next((i for i, fields in enumerate(PLAIN_SAMPLING) if fields.keys() & asked.keys()), 2)
            for asked in server.asked
        ]
        assert extra[:3] == [0, 1, 2] and set(extra[2:]) == {2}


@pytest.mark.parametrize("told", [
    "This model's maximum context length is 4096 tokens. However, you requested 4200 tokens",
    '{"error": {"code": 400, "type": "exceed_context_size_error", "message": "request (9 tokens) exceeds the available context size"}}',
])  # fmt: skip
def test_a_history_that_does_not_fit_the_server_is_an_overflow(lab, told):
    with Fake(errors=[(0, ""), (400, told)]) as server:
        found = served(lab, server.url).play(starts(lab, 1))[0]
    assert found.extra["overflow"] and found.reward == 0 and found.steps == 1 and found.messages[-1]["role"] == "user"


def test_overflow_is_that_of_local_rollouts(lab):
    episode = starts(lab, 1)[0]
    room = len(lab.chat.prompt(episode.messages)) + 160
    with Fake() as server:
        for length, steps in ((room, 1), (room - 1, 0)):
            found = served(lab, server.url, max_length=length).play(starts(lab, 1))[0]
            assert found.extra["overflow"] and found.steps == steps


@pytest.mark.parametrize("answer", [None, "", "half a pair: \ud83d", "\x1b[2J\x00 {policy} </s>" * 50])
def test_whatever_a_server_writes_can_be_written_down(lab, answer, tmp_path):
    with Fake(answer=answer) as server:
        found = served(lab, server.url, journal=tmp_path / "j.journal").play(starts(lab, 1))
    assert found[0].extra["invalid"] == found[0].steps > 0
    assert list(read_journal(tmp_path / "j.journal").values()) == found


def test_an_error_of_the_world_is_kept(lab):
    episode = starts(lab, 1)[0]
    episode.env.step = lambda message: 1 / 0
    with Fake() as server:
        found = served(lab, server.url).play([episode])[0]
    assert "ZeroDivisionError" in found.extra["error"] and found.reward == 0


@pytest.mark.parametrize(("error", "remedy"), [
    ((401, "wrong key"), "HTTP 401: wrong key; set OPENAI_API_KEY"),
    ((404, "nothing here"), "HTTP 404: nothing here; give the --url up to its /v1"),
    ((200, "<html>"), "does not speak OpenAI's API; give the --url"),
    ((200, '{"hello": 1}'), "does not speak OpenAI's API; give the --url"),
    ((400, "\x1b[31mred\nlines " * 99), r"HTTP 400: \[31mred lines"),
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
        run.explorations(1)
        (asked,) = server.loaded
        assert asked["lora_path"] == str((run.folder / "sft").resolve()) and re.fullmatch(
            r"sft-[0-9a-f]{8}", asked["lora_name"]
        )
        assert {body["model"] for body in server.asked} == {asked["lora_name"]}
        assert run.player(None, 0.0, "base").model == run.scale.model
        with pytest.raises(ValueError, match="what a baseline trains needs --backend local"):
            run.player(dict(run.sft()), 0.0, "rft")


def test_where_episodes_are_played_is_no_setting(tmp_path):
    assert Config(backend="openai", url="http://other/v1", served="{policy}", requests=4).setting == "default"
    with pytest.raises(ValueError, match="write {policy} where base, sft"):
        Config(served="sft").check()


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
