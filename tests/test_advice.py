"""Two roles: outlines and preferences worked out by hand; MPO and ACC-Collab on a real run's adapters."""

import pytest

from ipr_lite import envs
from ipr_lite.config import Config
from ipr_lite.methods import METHODS, acc_collab, advice, bank, critic, mpo
from ipr_lite.methods.explored import best_over_worst
from ipr_lite.methods.outline import Outlines
from ipr_lite.records import Task, Trajectory
from ipr_lite.run import Run

SHOP = envs.make("shop")


def episode(reward: float, *actions: str, instruction: str = "find me a red shirt, size small") -> Trajectory:
    messages = [{"role": "system", "content": "s"}]
    for action in actions:
        messages += [
            {"role": "user", "content": "page"},
            {"role": "assistant", "content": f"Thought: x\nAction: {action}"},
        ]
    return Trajectory(Task("t", "shop", "train", instruction), messages, reward, reward == 1.0, "x")


def test_outline_by_hand():
    """What neither the instruction nor half of the demonstrations say is "it"; an action that is told again is left out."""
    bought = episode(1, "search[red shirt]", "click[B0714]", "click[small]", "click[Buy Now]")
    other = episode(1, "search[blue hat]", "click[B4838]", "click[Buy Now]", instruction="a blue hat")
    outlines = Outlines(SHOP, [bought, other, other])
    assert outlines.common == {"search", "click", "blue", "hat", "b4838", "buy", "now"}
    outlines = Outlines(SHOP, [bought, other])
    assert {"small", "hat", "search"} <= outlines.common
    outlines.common -= {"b0714", "b4838", "small", "red", "shirt", "blue", "hat"}  # each said by half of two
    assert outlines.of(bought) == ["search[red shirt]", "click[it]", "click[small]", "click[buy now]"]
    again = episode(0, "search[cheap red shirt]", "click[B1]", "click[B2]", "click[Mavuton Shirt]")
    assert outlines.of(again) == ["search[it red shirt]", "click[it]", "click[it shirt]"]
    assert outlines.lacking(again, bought) == ["search[red shirt]", "click[small]", "click[buy now]"]
    assert advice.line_of("Comment", outlines.lacking(bought, bought)) == acc_collab.NONE == "Comment: nothing"


def test_a_line_stands_under_the_first_observation_alone():
    t = episode(1, "search[x]", "click[y]")
    told = advice.below(t.messages, "Plan: go")
    assert told[1]["content"] == "page\nPlan: go" and told[:1] + told[2:] == t.messages[:1] + t.messages[2:]
    thought = mpo.in_thought(t.prefix(1), "Plan: go")
    assert [m["role"] for m in thought] == ["system", "user", "assistant", "user"]


def test_preferences_by_hand():
    prompt = advice.asked("s", "page")
    tries = {"a": [episode(1.0, "x"), episode(0.2, "x")], "b": [episode(0.5, "x")] * 2, "c": [episode(0.4, "x")] * 2}
    pair = advice.preferred(prompt, tries, 0.1, "t")
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"]) == ("a", "c")
    assert (pair.chosen_outcome, pair.rejected_outcome) == pytest.approx((0.6, 0.4))
    assert advice.preferred(prompt, tries, 0.25, "t") is None
    best, worst = episode(1.0, "search[x]"), episode(0.2, "search[y]", "click[z]")
    worst.messages.append({"role": "user", "content": "no room"})
    pair = best_over_worst([worst, best], 0.25)
    assert (pair.chosen, pair.rejected) == (best.suffix(1), worst.suffix(1)[:-1])
    assert best_over_worst([worst, best], 0.8) is None and best_over_worst([episode(0.0)], 0.0) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = Config(demonstrations=12, sft_epochs=1, iterations=1, samples=2, updates=2, dev=2, test=3, budget="paper")
    return Run(config, tmp_path_factory.mktemp("two") / "run", quiet=True)


def test_mpo_trains_the_planner_and_leaves_the_agent(run, monkeypatch):
    learned = []
    learn = Run.learn
    monkeypatch.setattr(
        Run, "learn", lambda self, pairs, *a, **k: learned.append((pairs, a, k)) or learn(self, pairs, *a, **k)
    )
    planner, agent = mpo.roles(run)
    before = {name: value.clone() for name, value in agent.items()}
    assert METHODS["mpo"].train(run) == ["mpo-1"]
    ((pairs, (start, *_), settings),) = learned
    assert all(start[name].equal(planner[name]) for name in planner) and settings["reference"] == "current"
    assert pairs and all(p.prompt[0]["content"] == mpo.SYSTEM and "\n" not in p.chosen[0]["content"] for p in pairs)
    assert all(p.chosen_outcome - p.rejected_outcome > run.config.tau_outcome for p in pairs)
    played = METHODS["mpo"].play(run, "mpo-1", "test")
    assert all(value.equal(before[name]) for name, value in mpo.roles(run)[1].items())
    planned = advice.write(run, run.load(run.folder / "mpo-1"), "x",
                           [start_of(run, task, mpo.planning) for task in run.tasks("test")], temperature=0.0)[0]  # fmt: skip
    assert [t.messages[1]["content"].rpartition("\n")[2] for t in played] == [line for (line,) in planned]
    # Five plans a task at most, N episodes each, and each task once.
    spent = run.spent(["mpo/1"])
    assert spent["updates"] == 2 and 0 < spent["env_steps"] <= 12 * 5 * 2 * SHOP.max_steps
    assert METHODS["mpo"].spent(1) == ["mpo-planner/clone", "mpo-agent/clone", "mpo/1"]
    # The agent has the updates of SFT, the planner four times as many.
    assert run.spent(METHODS["mpo"].spent(1))["updates"] == 2 + 5 * run.spent(["sft"])["updates"]
    thought = METHODS["mpo-thought"]
    assert thought.train(run) == ["mpo-thought-1"] and thought.spent(1) == METHODS["mpo"].spent(1)
    assert all(t.actions[0].startswith("Thought: ") for t in thought.play(run, "mpo-thought-1", "test"))


def start_of(run, task, shown):
    start = run.start(task, 0)
    start.messages = shown(start.messages)
    return start


def test_acc_collab_trains_both(run, monkeypatch):
    learned = []
    learn = Run.learn
    monkeypatch.setattr(Run, "learn", lambda self, pairs, *a, **k: learned.append(pairs) or learn(self, pairs, *a, **k))
    assert METHODS["acc-collab"].train(run) == ["acc-collab-1"]
    comments, tries = learned
    assert comments and all(p.prompt[0]["content"] == critic.SYSTEM for p in comments)
    assert all("\nAttempt: " in p.prompt[1]["content"] for p in comments)
    starts = {run.start(t.task, 0).messages[1]["content"] for t in run.demonstrations()}
    assert tries and {p.prompt[1]["content"].rpartition("\n")[0] for p in tries} <= starts
    assert all(p.chosen_outcome - p.rejected_outcome > acc_collab.GAP for p in comments + tries)
    assert run.spent(["acc-collab/1"])["updates"] == 4  # two of the critic's, two of the actor's
    both = ["acc-collab-actor/clone", "acc-collab-critic/clone"]
    assert METHODS["acc-collab"].spent(1) == ["sft", *both, "acc-collab/1"]
    for agent in ("acc-collab-1", "acc-collab-sft"):
        played = METHODS["acc-collab"].play(run, agent, "test")
        assert [t.id for t in played] == [task.id for task in run.tasks("test")]
        first = (run.folder / "evaluations" / f"{agent}-first-test.jsonl").read_text()
        assert first.count(acc_collab.NONE) >= 3
    # The first tries alone are a row of their own: same actors, no comment, nothing played twice.
    alone = METHODS["acc-collab-first"]
    monkeypatch.setattr(advice, "act", None)
    assert alone.train(run) == ["acc-collab-first-1"] and alone.spent(1) == METHODS["acc-collab"].spent(1)
    played = alone.play(run, "acc-collab-first-1", "test")
    assert all(t.messages[1]["content"].endswith(acc_collab.NONE) for t in played) and len(played) == 3


def test_banks_hold_the_worlds_they_name(run):
    """In turn, so that every batch has all; each world's own demonstrations, by the run's seed."""
    mine = [t.id for t in run.demonstrations()]
    both = bank.mixed(run, True, 1)
    assert {t.task.env for t in both[:2]} == {"shop", "sql"} and [t.id for t in both if t.task.env == "shop"] == mine
    assert {t.task.env for t in bank.mixed(run, False, 2)} == {"sql", "house"}
    assert {t.task.env for t in bank.mixed(run, True, 2)[:3]} == {"shop", "sql", "house"}


def test_dev_chooses_among_rounds_as_they_are_played(run, monkeypatch):
    """A planner's adapter is no policy: played as one, dev would choose among numbers that mean nothing."""
    from ipr_lite.methods.method import Method
    from ipr_lite.study import compare

    reward = {("two-1", "dev"): 0.2, ("two-2", "dev"): 0.1, ("two-1", "test"): 0.4, ("two-2", "test"): 0.7}
    stub = Method(
        "two", "", lambda run: ["two-1", "two-2"], "", "", lambda run, agent, split: [episode(reward[agent, split])] * 2
    )
    monkeypatch.setitem(METHODS, "two", stub)
    rows = compare.cell_rows(run, "two", "test")
    assert [(row["reward"], row["selected"]) for row in rows if row["split"] == "test"] == [(0.4, 1), (0.7, 0)]
