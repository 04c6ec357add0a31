"""What a model, a file or a person wrote is shown as text, whole pages replace whole pages, commands can be pasted."""

import json
import random
import re
import shlex
import sys
import time
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ipr_lite import envs
from ipr_lite.__main__ import main, read
from ipr_lite.config import Config
from ipr_lite.engine.folder import write_manifest
from ipr_lite.envs.shop.env import Catalogue, Shop
from ipr_lite.envs.shop.reward import Product
from ipr_lite.evaluation import METRICS
from ipr_lite.records import StepReward, Task, Trajectory, write_atomically, write_step_rewards, write_trajectories
from ipr_lite.study import plots, rounds
from ipr_lite.study.cases import cases_markdown
from ipr_lite.study.report import report
from ipr_lite.study.viewer import page, trajectory_html

UNSEEN = "\x1b[2J\x07\x00\x9b31m\u202eevil\u2066\u200f\ud800"
SCRIPT = "<script>alert(1)</script>"


def episode(text: str, identity: str = "t1", agent: str = "sft") -> Trajectory:
    messages = [
        {"role": "user", "content": f"Instruction: {text}"},
        {"role": "assistant", "content": f"Thought: {text}\nAction: search[{text}]"},
    ]
    return Trajectory(Task(identity, "shop", "test", text), messages, 0.5, False, agent, 0)


# --- time: twice the text, twice the time -------------------------------------------------------

PARSERS = ("shop", "sql", "house", "all", "house's commands", "viewer")
TEXTS = {
    "blank lines": ("Thought:", "\n", ""),
    "thoughts": ("", "Thought: ", "\n"),
    "actions": ("Thought:", " Action", "x"),
    "open brackets": ("Action: ", "a[", ""),
    "closed brackets": ("Action: a[", "]", "\n]"),
    "brackets and lines": ("Action: ", "a[b", "\n]"),
    "fences": ("Action: ", "```sql", ""),
    "ticks": ("Action: ```sql", "`` ", ""),
    "words between": ("take a", " from a", "\n x"),
    "words between, told": ("Action: put a", " in/on a", "\n x"),
}  # fmt: skip


@pytest.fixture(scope="module", params=PARSERS)
def parse(request):
    if request.param == "viewer":
        first, task = {"role": "user", "content": ""}, Task("t", "shop", "test", "x")
        return lambda text: trajectory_html(
            Trajectory(task, [first, {"role": "assistant", "content": text}], 0.0, False, "sft", 0)
        )
    env = envs.make(request.param.removesuffix("'s commands"))
    env.reset(seed=0)
    return env.act if request.param == "house's commands" else env.parse


@pytest.mark.parametrize("form", TEXTS)
def test_twice_the_model_text_takes_at_most_two_and_a_half_times_the_time(parse, form):
    """The text grows until it takes two milliseconds, so that a slow parser is found on a small one."""
    before, unit, after = TEXTS[form]

    def spent(n: int) -> float:
        text = before + unit * n + after
        start = time.thread_time()  # what others do on the machine does not count
        parse(text)
        return time.thread_time() - start

    n = 64
    while (short := spent(n) < 0.002) and n * len(unit) < 30_000:
        n *= 2
    once, twice = (min(times) for times in zip(*((spent(n), spent(2 * n)) for _ in range(20))))
    assert short or twice / once <= 2.5, f"{2 * n} x {unit!r} take {twice:.4f} s, half as many {once:.4f} s"


def test_the_shop_splits_as_webshop_does():
    draw, shop = random.Random(0), envs.make("shop")
    for _ in range(20_000):
        action = "".join(draw.choices("ab[]\n", k=draw.randint(1, 9))).strip() or "a"
        found = re.match(r"(.+)\[(.+)\]", action)
        assert shop.parse(f"Action: {action}") == (f"{found[1]}[{found[2]}]" if found else action)


# --- pages --------------------------------------------------------------------------------------


def shown(path, *options) -> str:
    assert main(["show", str(path), *options]) == 0
    return path.with_suffix(".html").read_text(encoding="utf-8")


def test_what_cannot_be_seen_is_written_out_in_a_page():
    html = page("t", trajectory_html(episode(UNSEEN)))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    assert html.count(r"\x1b[2J\x07\x00\x9b31m\u202eevil\u2066\u200f\ud800") >= 3


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path, monkeypatch):
    write_trajectories(tmp_path / "t.jsonl", [episode("a mug")])
    old = shown(tmp_path / "t.jsonl")
    monkeypatch.setattr("ipr_lite.study.viewer.page", lambda *_: "half a page \ud800")
    assert main(["show", str(tmp_path / "t.jsonl")]) != 0
    assert (tmp_path / "t.html").read_text(encoding="utf-8") == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.html", "t.jsonl"]


def test_show_never_writes_over_what_it_shows(tmp_path, capsys):
    source = write_trajectories(tmp_path / "t.html", [episode("a mug")])
    (tmp_path / "link.html").symlink_to(source)
    old = source.read_bytes()
    assert main(["show", str(source)]) == 2 and "--out" in capsys.readouterr().err
    assert main(["show", str(source), "--out", str(tmp_path / "link.html")]) == 2
    assert source.read_bytes() == old
    assert main(["show", str(source), "--out", str(tmp_path / "page.html")]) == 0


def test_compare_keeps_its_pages_off_its_results(tmp_path, capsys):
    results = write_atomically(tmp_path / "results.md", "mine\n")
    assert main(["compare", "--out", str(tmp_path), "--results", str(results)]) == 2
    assert ".csv" in capsys.readouterr().err and results.read_text(encoding="utf-8") == "mine\n"


def run_folder(folder, text: str, identity: str):
    one = episode(text, identity, "demonstrator")
    write_trajectories(folder / "demonstrations.jsonl", [one])
    rewards = [StepReward(identity, 1, one.actions[0], "", "demonstrator", 0.5, 2, [0.0, 1.0], 0.5, False)]
    write_step_rewards(folder / "demonstration_step_rewards.jsonl", rewards)
    return folder


def test_a_long_text_is_cut_with_a_note(tmp_path):
    html = report(run_folder(tmp_path, "longer " * 150_000, "t1")).read_text(encoding="utf-8")
    assert len(html) < 400_000 and re.search(r"cut: 1,0\d\d,\d\d\d more characters", html)


@pytest.mark.parametrize("name", [r"$\frac{$", r"$\x$", r"\$ $_$", "a" * 5000, UNSEEN.replace("\ud800", "")])
def test_figures_take_names_as_they_are(tmp_path, name):
    row = dict.fromkeys(METRICS, 0.5) | {"agent": name, "split": "test", "n": 4, "reward": 0.5}
    assert plots.png_bytes(plots.reward_by_agent([row])).startswith(b"\x89PNG")
    assert plots.png_bytes(plots.forest([(name, 0.1, 0.0, 0.2, 3)], name, name, name)).startswith(b"\x89PNG")
    assert plots.png_bytes(plots.learning_curves([{"step": 1, "loss": 0.5}], name)).startswith(b"\x89PNG")
    assert "Each dot is the outcome" in report(run_folder(tmp_path, "mug", name)).read_text(encoding="utf-8")


def test_cases_are_text_in_the_book(tmp_path):
    said = f"Thought: x\nAction: search[`{SCRIPT}` ``two`` {UNSEEN[:4]}]"
    one = episode(f"a *mug* {SCRIPT} `x` {{ref}} $x$ [a](b)")
    one = replace(one, messages=[one.messages[0], {"role": "assistant", "content": said}])
    one = replace(one, extra={"case": "largest gain", "step_rewards": [0.5]})
    write_trajectories(tmp_path / "c.jsonl", [one])
    told = cases_markdown(tmp_path / "c.jsonl")
    html = MarkdownIt("commonmark").render(told)
    assert "<script" not in html and "<em>" not in html and "<a " not in html and "\x1b" not in told
    assert "<code>search[`&lt;script&gt;alert(1)&lt;/script&gt;` ``two`` \\x1b[2J]</code> 0.50" in html
    assert "a *mug* &lt;script&gt;alert(1)&lt;/script&gt; `x` {ref} $x$ [a](b)" in html
    assert r"\$x\$" in told and r"\{ref" in told, "MyST reads mathematics and roles too"


def test_the_terminal_gets_no_escapes(tmp_path, capsys, monkeypatch):
    assert main(["show", str(tmp_path / "\x1b[2Jno.jsonl")]) == 2
    assert "\x1b" not in capsys.readouterr().err
    monkeypatch.setattr("builtins.input", lambda prompt: "quit")
    env, task = envs.make("shop"), Task("x", "shop", "dev", f"a mug {UNSEEN[:4]}", envs.tasks("shop", "dev")[0].setup)
    monkeypatch.setattr(envs, "make", lambda *_: env)
    monkeypatch.setattr(envs, "tasks", lambda *_: [task])
    assert main(["play"]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told and r"a mug \x1b[2J" in told


# --- records ------------------------------------------------------------------------------------


def test_a_run_is_whole_where_there_is_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert json.loads(write_manifest(tmp_path, 0).read_text(encoding="utf-8"))["commit"] is None


def test_do_it_again_does_the_same_again(tmp_path):
    config = Config(
        env="sql", data="my data/it's", seed=4, keep=0.5, both_directions=False, action_only=True,
        gradient_checkpointing=False, sft_learning_rate=1e-05,
    )  # fmt: skip
    folder = tmp_path / "a run"
    write_atomically(folder / "config.json", json.dumps(asdict(config)))
    html = report(folder).read_text(encoding="utf-8")
    command = unescape(re.search(r"<pre>(python -m ipr_lite run .*?)</pre>", html)[1])
    _, given = read(shlex.split(command)[3:])
    assert given["config"] == config and Path(given["folder"]) == folder
    assert "--beta" not in command


def test_the_command_of_record_can_be_pasted(tmp_path, monkeypatch):
    recorded = []
    monkeypatch.setattr("ipr_lite.study.transfer.transfer", lambda *_: [])
    monkeypatch.setattr("ipr_lite.study.transfer.results_rows", lambda *_: [])
    monkeypatch.setattr("ipr_lite.study.results.results_table", lambda *_: "")
    monkeypatch.setattr("ipr_lite.study.results.add_results", lambda path, rows, command: recorded.append(command))
    monkeypatch.setattr(sys, "argv", ["pytest", "--of-another-program"])
    arguments = ["transfer", "my run", "--data", "it's here", "--results", "a b.csv"]
    assert main(arguments) == 0
    monkeypatch.setattr(rounds, "round_rows", lambda folder: [])
    monkeypatch.setattr(rounds, "keep_rows", lambda *given: recorded.append(given[4]))
    more = ["rounds", "a b", "--results", "c d.csv"]
    assert main(more) == 0
    assert [shlex.split(c) for c in recorded] == [["python", "-m", "ipr_lite", *line] for line in (arguments, more)]


# --- the shop -----------------------------------------------------------------------------------


def test_a_product_of_any_spelling_is_opened_and_its_option_is_one_text():
    product = Product(
        asin="b00abC", title="Walking shoe", query="shoe", product_category="shoes", category="fashion", description="",
        bullets=[], attributes=("light",), options={"size": ("6 | 6.5", "7")}, price=9.0, price_tag="$9.0",
    )  # fmt: skip
    setup = {"asin": "b00abC", "category": "fashion", "query": "shoe", "name": "Walking shoe", "product_category": "shoes",
             "attributes": ["light"], "goal_options": ["6 | 6.5"], "price_upper": 10.0}  # fmt: skip
    task = Task("t", "shop", "test", "a light walking shoe", setup)
    env = Shop(Catalogue([product]), [task])
    env.reset(options={"task": task})
    for action in ("search[shoe]", "click[B00ABC]", "click[6 | 6.5]"):
        page, _, _, _, info = env.step(env.message(action))
        assert not info["invalid"], action
    page, reward, done, _, _ = env.step(env.message("click[Buy Now]"))
    assert done and reward == 1.0
    assert '[SEP] {"size": "6 | 6.5"} [SEP]' in page
