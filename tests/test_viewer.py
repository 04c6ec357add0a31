"""Pages: what a model wrote is text, never markup; a run in any state gets its report."""

import json
import random
import re

import pytest

from ipr_lite.evaluation import summarize, write_metrics
from ipr_lite.records import (
    Pair,
    StepReward,
    Task,
    Trajectory,
    write_atomically,
    write_pairs,
    write_step_rewards,
    write_trajectories,
)
from ipr_lite.study.report import report
from ipr_lite.study.viewer import page, pair_html, trajectory_html

EVIL = "</pre><script>alert(\"1\")</script><img src=x onerror='x'>"


def episode(number: int, agent: str, reward: float, split: str = "test", text: str = "mug") -> Trajectory:
    messages = [
        {"role": "system", "content": f"You are web shopping. {text}"},
        {"role": "user", "content": f"WebShop [SEP] Instruction: [SEP] i need a {text} [SEP] Search"},
        {"role": "assistant", "content": f"Thought: I think of {text}.\nAction: search[{text}]"},
        {"role": "user", "content": f"Page 1 (Total results: 3) [SEP] B001 [SEP] {text}"},
        {"role": "assistant", "content": f"Thought: {text}\nAction: click[B001]"},
        {"role": "user", "content": "Price: $9.50 [SEP] Buy Now"},
        {"role": "assistant", "content": f"{text} without the right form"},
    ]
    task = Task(f"shop-{split}-{number}", "shop", split, f"i need a {text}")
    return Trajectory(task, messages, reward, reward == 1.0, agent, 0, {"invalid": 1})


def scored(trajectory: Trajectory, who: str, rewards: list[float]) -> list[StepReward]:
    steps = trajectory.as_steps()
    return [
        StepReward(trajectory.id, t, step.action, step.observation, who, reward, 2, [reward, reward], 1.0, False)
        for t, (step, reward) in enumerate(zip(steps, rewards), start=1)
    ]


def pairs(trajectory: Trajectory) -> list[Pair]:
    t, turn = trajectory, [{"role": "assistant", "content": f"Action: click[{EVIL}]"}]
    found = [Pair(t.prefix(1), t.suffix(1), turn, "outcome", t.id, 1, None, None, 1.0, 0.2)]
    return found + [
        Pair(t.prefix(2), t.suffix(2), turn, "step", f"{t.id}-{g}", 2, 0.9, 0.9 - g, 1.0, 0.2) for g in (0.1, 0.5, 0.3)
    ]


def is_safe(html: str) -> bool:
    """No tag, attribute or address but the page's own."""
    tags = set(re.findall(r"<\s*/?([a-zA-Z0-9]+)", html))
    own = set("html head meta title style body main h1 h2 h3 p div span pre code details summary article section figure "
              "img figcaption table thead tbody tr th td strong".split())  # fmt: skip
    images = re.findall(r"<img [^>]*>", html)
    return (
        tags <= own and "http:" not in html and "https:" not in html and all('src="data:image/png' in i for i in images)
    )


def test_what_a_model_wrote_is_escaped_in_a_trajectory():
    shown = episode(1, EVIL, 0.5, text=EVIL)
    html = page(
        EVIL, trajectory_html(shown, scored(shown, "agent", [0.1, 0.9]) + scored(shown, "demonstrator", [0.5]), EVIL)
    )
    assert is_safe(html) and html.count("&lt;script&gt;alert(&#34;1&#34;)") > 5
    assert "onerror=&#39;x&#39;" in html


@pytest.mark.parametrize("agent", ["demonstrator", "habitual"])
def test_a_trajectory_shows_every_step_with_its_reward_in_number_and_colour(agent):
    shown = episode(1, agent, 1.0)
    html = trajectory_html(shown, scored(shown, "demonstrator", [0.0, 1.0, 0.5]) + scored(shown, "agent", [0.25]))
    assert html.count('<details class="step"') == 3
    assert "#d55e00" in html.split("</style>")[1] and "border-left-color:#0072b2" in html
    assert "0.50 (of 2)" in html and "The agent would have done this, step reward 0.25 (of 2)" in html
    assert "mug without the right form" in html and "the episode ends" in html
    assert "border-left-color:#" not in trajectory_html(shown).split("</style>")[1]


def test_a_pair_stands_side_by_side_with_its_rewards():
    html = pair_html(pairs(episode(1, "demonstrator", 1.0))[1])
    assert is_safe(html)
    assert "step reward 0.900, outcome 1.000" in html and "step reward 0.800, outcome 0.200" in html
    assert html.count('class="chosen"') == html.count('class="rejected"') == 1
    assert "not known" in pair_html(pairs(episode(1, "demonstrator", 1.0))[0])


def make_run(folder, text: str = "mug", n: int = 30):
    """A whole run, as `python -m ipr_lite` leaves it, with invented rewards."""
    draw = random.Random(0)
    config = {"env": "shop", "scale": "tiny", "seed": 3, "iterations": 2, "quick": True, "model": None, "note": text}
    write_atomically(folder / "config.json", json.dumps(config))
    write_atomically(folder / "manifest.json", json.dumps({"commit": "abc", "versions": {"torch": "2"}}))
    demonstrations = [episode(i, "demonstrator", 0.8, "train", text) for i in range(4)]
    write_trajectories(folder / "demonstrations.jsonl", demonstrations)
    write_atomically(folder / "sft_log.csv", "step,loss\n" + "".join(f"{i},{2 / (i + 1):.4f}\n" for i in range(20)))
    expert = [s for d in demonstrations for s in scored(d, "demonstrator", [0.5, 0.7, 0.8])]
    write_step_rewards(folder / "demonstration_step_rewards.jsonl", expert)
    for number in (1, 2):
        inside = folder / f"iteration-{number}"
        write_trajectories(inside / "explorations.jsonl", [episode(i, "sft", 0.4, "train", text) for i in range(4)])
        agent = [s for i, d in enumerate(demonstrations) for s in scored(d, "agent", [0.5, 0.1 * i])]
        write_step_rewards(inside / "step_rewards.jsonl", agent)
        write_pairs(inside / "pairs.jsonl", pairs(demonstrations[0]))
        counts = {
            "outcome": {"win": 3, "tie": 5, "lose": 12},
            "step": {"win": 4, "tie": 6, "lose": 9, "same_action": 40},
        }
        write_atomically(inside / "pair_counts.json", json.dumps(counts))
        columns = "step,loss,loss_outcome,loss_step,loss_sft,accuracy,margin,chosen_logp,rejected_logp"
        lines = [f"{i},{2 - i / 40:.3f},{0.69 - i / 90:.3f},{0.69 - i / 60:.3f},{0.6 - i / 200:.3f},"
                 f"{0.5 + i / 60:.3f},{i / 50:.3f},{-20 + i / 40:.3f},{-21 - i / 10:.3f}" for i in range(25)]  # fmt: skip
        write_atomically(inside / "train_log.csv", "\n".join([columns, *lines]) + "\n")
    rows = []
    for agent, mean in (("base", 0.3), ("sft", 0.55), ("ipr-1", 0.65), ("ipr", 0.75), ("careful", 0.85)):
        did = [episode(i, agent, round(min(1, max(0, draw.gauss(mean, 0.2))), 3)) for i in range(n)]
        write_trajectories(folder / "evaluations" / f"{agent}-test.jsonl", did)
        rows.append(summarize(did, agent, "test"))
    rows.append({**rows[1], "split": "dev"})
    write_metrics(folder / "metrics.csv", rows)
    write_atomically(folder / "selected.json", json.dumps({"agent": "ipr-2", "dev": {"ipr-1": 0.6, "ipr-2": 0.7}}))
    write_atomically(folder / "iteration-2" / "warnings.txt", f"the chosen log-probability falls: {text}\n")
    return folder


def test_the_report_of_a_whole_run_tells_the_gain_and_shows_everything(tmp_path):
    path = report(make_run(tmp_path / "first"))
    html = path.read_text(encoding="utf-8")
    assert path.name == "report.html" and is_safe(html) and len(html) < 1_500_000
    for part in ("IPR (ipr-2, chosen on dev)", "Task by task the difference is", "n = 30 tasks", "lies above zero",
                 "The careful person gets", "agent wins", "Three pairs", "the chosen log-probability falls",
                 "python -m ipr_lite run --seed 3 --out ", "&#34;commit&#34;"):  # fmt: skip
        assert part in html, part
    assert html.count("<img ") == 5 and html.count('class="sides"') == 3
    assert ">missing<" not in html
    assert report(tmp_path / "first").read_text(encoding="utf-8") == html


def test_the_report_escapes_what_models_wrote(tmp_path):
    html = report(make_run(tmp_path / "evil", EVIL, n=2)).read_text(encoding="utf-8")
    assert is_safe(html) and "&lt;script&gt;" in html


def test_the_report_of_a_failed_run_says_why_and_what_to_do(tmp_path):
    write_atomically(tmp_path / "config.json", json.dumps({"env": "sql", "iterations": 1}))
    write_atomically(tmp_path / "error.txt", "no <pairs>: lower tau_step\n")
    html = report(tmp_path).read_text(encoding="utf-8")
    assert is_safe(html) and "This run failed" in html and "no &lt;pairs&gt;: lower tau_step" in html
    assert "What to do" in html and "stopped before an agent was scored" in html and ">missing<" in html


@pytest.mark.parametrize(
    "keep", ["", "config.json", "demonstrations.jsonl", "iteration-1", "metrics.csv", "evaluations"]
)
def test_a_half_done_run_gets_a_report(tmp_path, keep):
    whole, part = make_run(tmp_path / "whole", n=3), tmp_path / "part"
    part.mkdir()
    if keep:
        (whole / keep).rename(part / keep)
    html = report(part).read_text(encoding="utf-8")
    assert is_safe(html) and "What happened" in html and "could not be read" not in html


def test_a_round_without_pairs_and_a_broken_file_are_told(tmp_path):
    run = make_run(tmp_path / "run", n=3)
    write_pairs(run / "iteration-1" / "pairs.jsonl", [])
    write_atomically(run / "selected.json", "[]")
    write_atomically(run / "metrics.csv", "agent\nsft\n")
    html = report(run).read_text(encoding="utf-8")
    assert "Round 1 built no pairs" in html and html.count('class="sides"') == 3
    assert "selected.json could not be read" in html and "metrics.csv could not be read: metrics.csv: no column" in html
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        report(tmp_path / "nowhere")
