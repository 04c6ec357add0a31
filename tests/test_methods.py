"""The methods: their pairs, budgets, references and losses, on the shipped base and a small finished run."""

import itertools
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from ipr_lite.config import Config
from ipr_lite.ipr import round_of
from ipr_lite.losses import agent_logps, ppo_loss
from ipr_lite.methods import (
    METHODS,
    atlas,
    explored,
    hpl,
    istar,
    judge,
    learned_rewards,
    policy_gradient,
    ppo,
    reward_model,
)
from ipr_lite.methods.best_of_n import by_the_model, by_the_oracle
from ipr_lite.methods.sft import all_updates
from ipr_lite.model import adapter_weights, set_adapter_weights
from ipr_lite.records import Pair, read_trajectories
from ipr_lite.run import Run, draw_demonstrations
from ipr_lite.step_reward import steps_of
from ipr_lite.study import compare as compare_module
from ipr_lite.study.compare import compare
from ipr_lite.study.job import run
from ipr_lite.study.results import read_results
from ipr_lite.train import log_probabilities

SMALL = Config(demonstrations=12, sft_epochs=1, iterations=2, samples=2, updates=3, dev=4, test=4, showcase=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines") / "run"
    return run(SMALL, folder, quiet=True).parent


@pytest.fixture
def lab(finished, tmp_path):
    """A copy of the run, for baselines to write into."""
    shutil.copytree(finished, tmp_path / "run")
    return Run(SMALL, tmp_path / "run", quiet=True)


# --- PPO ------------------------------------------------------------------------------------------


def test_ppo_loss_by_hand():
    """Four tokens, clip 0.2: ratios 1, 1.5, 0.5 and 1.5 with advantages 2, 1, 1 and -1."""
    old = torch.log(torch.tensor([0.5, 0.2, 0.4, 0.2]))
    logps = torch.log(torch.tensor([0.5, 0.3, 0.2, 0.3])).requires_grad_()
    losses = ppo_loss(logps, old, torch.tensor([2.0, 1.0, 1.0, -1.0]), clip=0.2)
    # -min(1*2, 1*2), -min(1.5*1, 1.2*1), -min(0.5*1, 0.8*1), -min(1.5*-1, 1.2*-1)
    assert torch.allclose(losses, torch.tensor([-2.0, -1.2, -0.5, 1.5]))
    losses.sum().backward()
    # d ratio / d logp = ratio: -A * ratio where it counts, 0 where the clip has cut it off.
    assert torch.allclose(logps.grad, torch.tensor([-2.0, 0.0, -0.5, 1.5]))


def test_ppo_reads_what_transformers_computes(lab):
    trajectory = lab.demonstrations()[0]
    episode = policy_gradient.experience(lab.chat, trajectory, [1.0] * trajectory.steps)
    with torch.no_grad():
        logps, states = policy_gradient.read(lab.policy, episode)
        ids = torch.tensor([episode.input_ids])
        out = lab.policy.get_base_model()(input_ids=ids, output_hidden_states=True)
    mask = torch.tensor([[d >= 0 for d in episode.decision]])
    assert torch.allclose(logps.sum(), agent_logps(out.logits, ids, mask)[0], atol=1e-3)
    assert len(set(episode.decision)) - 1 == trajectory.steps == len(states)
    # The first decision is made where the prompt ends.
    prompt = len(lab.chat.prompt(trajectory.prefix(1)))
    assert torch.allclose(states[0], out.hidden_states[-1][0, prompt - 1], atol=1e-4)


def test_ppo_makes_what_paid_likelier(lab):
    good, bad = lab.demonstrations()[:2]
    episodes = [
        policy_gradient.experience(lab.chat, good, [1.0] * good.steps),
        policy_gradient.experience(lab.chat, bad, [0.0] * bad.steps),
    ]
    parameters = [p for name, p in lab.policy.named_parameters() if ".default." in name]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    with torch.no_grad():
        before = [policy_gradient.read(lab.policy, e)[0].sum() for e in episodes]
    policy_gradient.learn(lab.policy, episodes, ppo.Baseline().advantages, optimizer, updates=1, seed=0)
    with torch.no_grad():
        after = [policy_gradient.read(lab.policy, e)[0].sum() for e in episodes]
    assert after[0] > before[0] and after[1] < before[1]


def test_the_baseline_learns_the_value_of_states():
    torch.manual_seed(0)
    weights = torch.randn(8)
    states = torch.randn(400, 8)
    baseline = ppo.Baseline()
    assert baseline.values(states).tolist() == [0.0] * 400
    baseline.add(states, states @ weights + 0.3)
    other = torch.randn(50, 8)
    values, truth = baseline.values(other), other @ weights + 0.3
    assert torch.corrcoef(torch.stack([values, truth]))[0, 1] > 0.99


@pytest.mark.parametrize("method", ["ppo", "step-ppo", "gigpo"])
def test_ppo_spends_as_ipr_does(method, lab):
    agents = METHODS[method].train(lab)
    first, second = (lab.agent(agent) for agent in agents)
    assert any(not torch.equal(first[k], second[k]) for k in first)
    for number in (1, 2):
        spent, budget = lab.spent([f"{method}/{number}"]), explored.round_budget(lab, number)
        assert spent["updates"] == SMALL.updates
        assert 0.6 * budget <= spent["env_steps"] <= 1.6 * budget


def test_step_returns_are_monte_carlo_step_rewards(lab):
    experts = lab.demonstrations()[:3]
    returns = ppo.step_returns(lab, experts, lab.player(lab.sft(), 1.0, "scorer"))
    assert [len(r) for r in returns] == [t.steps for t in experts]
    # The last action of a demonstration ends the episode: its step reward is the outcome.
    assert [r[-1] for r in returns] == [t.reward for t in experts]


# --- which steps are learned ----------------------------------------------------------------------


def test_the_highest_steps_of_all_are_kept():
    assert atlas.highest([[0.5, -0.2], [0.1, 0.4, 0.0]], 0.4) == [{1}, {2}]
    assert atlas.highest([[0.1, 0.1], [0.1]], 0.7) == [{1, 2}, set()]  # of equal ones, the first


def test_masked_steps_are_read_and_not_learned(lab):
    """The ids stay; of the agent's tokens those of the kept step alone carry loss, its end token included."""
    trajectory = lab.demonstrations()[0]
    whole, masked = lab.chat.encode(trajectory.messages), lab.chat.encode(atlas.only(trajectory, {2}).messages)
    assert masked.input_ids == whole.input_ids
    learned = [i for i, mine in zip(masked.input_ids, masked.agent_mask, strict=True) if mine]
    assert learned == [*lab.chat.content(trajectory.actions[1]), lab.chat.end]
    assert learned != [i for i, mine in zip(whole.input_ids, whole.agent_mask, strict=True) if mine]


def test_criticality_is_what_an_action_adds(lab):
    """The rewards of a demonstration's steps add up again: their sum is the outcome minus the value of the start."""
    demonstrations, found = lab.demonstrations(), atlas.criticality(lab)
    labelled = learned_rewards.labelled_episodes(lab)
    for trajectory, critical, known in zip(demonstrations, found, labelled, strict=False):
        rewards = known.extra["step_rewards"]
        assert len(critical) == trajectory.steps and rewards[-1] == trajectory.reward
        assert critical[1:] == pytest.approx([b - a for a, b in itertools.pairwise(rewards)])
        assert 0 <= trajectory.reward - sum(critical) <= 1


@pytest.mark.parametrize("method", ["atlas", "atlas-random", "atlas-least"])
def test_atlas_clones_three_steps_in_ten(method, lab, monkeypatch):
    calls = watched(monkeypatch, "clone")
    assert METHODS[method].train(lab) == [method]
    (masked, _, (_, log)), all_steps = calls[-1], sum(t.steps for t in lab.demonstrations())
    kept = sum(m.get("weight", 1) for t in masked for m in t.messages if m["role"] == "assistant")
    assert kept == round(0.3 * all_steps) and len(log) == lab.spent(["sft"])["updates"]


# --- groups of actions ----------------------------------------------------------------------------


def test_hpl_takes_easy_groups_first():
    pairs = [Pair([], [], [], "step", str(i), 2, 0.5 + gap, 0.5) for i, gap in enumerate((0.1, 0.4, 0.2, 0.3))]
    assert [[p.id for p in phase] for phase in hpl.curriculum(pairs)] == [["1"], ["3"], ["2", "0"]]
    assert [hpl.third(left) for left in (1, 3, 4, 7)] == [1, 1, 2, 3]
    assert hpl.first(["a", "o", "b", "p", "c"], 2) == ["a", "o", "b"]


def test_hpl_trains_on_pairs_of_three_sizes(lab, monkeypatch):
    calls = watched(monkeypatch, "learn")
    assert METHODS["hpl"].train(lab) == ["hpl-1", "hpl-2"] and len(calls) == 2 * hpl.PHASES
    by_key = {t.key: t for t in lab.demonstrations()}
    sizes = [len(pairs) for pairs, *_ in calls]
    assert sizes[:3] == sorted(sizes[:3])
    for pairs, *_ in calls:
        for pair in pairs:
            whole, sides = by_key[pair.id].suffix(pair.step), (pair.chosen, pair.rejected)
            demonstrated = next(side for side in sides if side == whole[: len(side)])
            if pair.kind == "step":  # one action, or a third of what is left
                assert (len(demonstrated) + 1) // 2 in (1, hpl.third((len(whole) + 1) // 2))
                assert pair.chosen_reward > pair.rejected_reward and pair.chosen_outcome > pair.rejected_outcome
    assert lab.spent(["hpl/1"])["updates"] == SMALL.updates and lab.spent(["hpl/1"])["env_steps"] > 0


# --- step rewards without rollouts ----------------------------------------------------------------


def test_implicit_step_rewards_are_log_ratios(lab):
    """Against both policies' log-probabilities of the action, read plainly."""
    lab.config = replace(SMALL, step_reward="implicit")
    trajectory = lab.demonstrations()[0]
    steps = steps_of(lab.env, trajectory, "demonstrator")
    rewards = judge.judge_of(lab)(steps)
    action = lab.chat.encode(istar.only_last(trajectory.messages[:5]))
    assert sum(action.agent_mask) == len(lab.chat.content(trajectory.actions[1])) + 1
    logps = []
    for weights in (istar.trajectory_policy(lab), lab.sft()):
        set_adapter_weights(lab.policy, weights, "default")
        with torch.no_grad():
            logps.append(log_probabilities(lab.policy, [action]).item())
    assert rewards[1].reward_mc == pytest.approx(0.1 * (logps[0] - logps[1]), abs=1e-4)
    assert abs(logps[0] - logps[1]) > 1e-3 and rewards[1].action == trajectory.actions[1]


# --- preferences ----------------------------------------------------------------------------------


def watched(monkeypatch, name):
    """Calls of a method of Run, recorded."""
    calls, original = [], getattr(Run, name)

    def wrapped(self, first, *others, **named):
        found = original(self, first, *others, **named)
        calls.append((first, named, found))
        return found

    monkeypatch.setattr(Run, name, wrapped)
    return calls


def test_eto_contrasts_whole_trajectories(lab, monkeypatch):
    calls = watched(monkeypatch, "learn")
    assert METHODS["eto"].train(lab) == ["eto-1", "eto-2"] and len(calls) == 2
    for pairs, _, (_, log) in calls:
        assert {p.kind for p in pairs} == {"outcome"} and {p.step for p in pairs} == {1}
        assert all(p.chosen_outcome > p.rejected_outcome for p in pairs)
        assert len({json.dumps([p.prompt, p.chosen, p.rejected]) for p in pairs}) == len(pairs)
        assert all(row["loss"] == pytest.approx(row["loss_outcome"]) for row in log)  # no SFT term
    # The reference is the current iterate, in the second round too: there is no preference yet.
    assert calls[1][2][1][0]["loss_outcome"] == pytest.approx(math.log(2), abs=1e-4)
    # Every round's adapter is kept, and is what learning has made.
    for number, (_, _, (weights, _)) in enumerate(calls, start=1):
        assert all(torch.equal(weights[k], w) for k, w in lab.agent(f"eto-{number}").items())
    calls.clear()
    assert METHODS["eto"].train(lab) == ["eto-1", "eto-2"] and not calls


def test_on_its_papers_budget_eto_explores_each_task_once(lab):
    lab.config = replace(SMALL, budget="paper")
    METHODS["eto"].train(lab)
    tasks = [t.task for t in lab.demonstrations()]
    once = lab.play(tasks, lab.sft(), "eto")
    assert lab.spent(["eto/1"])["env_steps"] == sum(t.steps for t in once)


def test_eto_explores_for_as_many_actions_as_ipr(lab):
    greedy = lab.play([e.task for e in lab.demonstrations()], lab.sft(), "eto")
    played, spent = explored.explored(lab, lab.sft(), "eto-1", 300, greedy_first=True)
    assert [t.messages for t in played[: len(greedy)]] == [t.messages for t in greedy]
    assert spent["env_steps"] == sum(t.steps for t in played) and 240 <= spent["env_steps"] <= 330
    once, _ = explored.explored(lab, lab.sft(), "eto-1", 0, greedy_first=True)
    assert [t.messages for t in once] == [t.messages for t in greedy]


def test_naive_step_dpo_contrasts_single_actions_by_the_outcome(lab, monkeypatch):
    calls = watched(monkeypatch, "learn")
    METHODS["naive-step-dpo"].train(lab)
    pairs = calls[0][0]
    assert pairs and {p.kind for p in pairs} == {"step"} and 1 in {p.step for p in pairs}
    for p in pairs:
        assert [m["role"] for m in p.chosen] == [m["role"] for m in p.rejected] == ["assistant"]
        assert p.chosen_reward == p.chosen_outcome > p.rejected_outcome == p.rejected_reward


def test_rft_adds_what_the_policy_did_better(lab, monkeypatch):
    calls = watched(monkeypatch, "clone")
    METHODS["rft"].train(lab)
    examples, _, (_, log) = calls[-1]
    experts = lab.demonstrations()
    outcome = {e.id: e.reward for e in experts}
    added = examples[len(experts) :]
    assert examples[: len(experts)] == experts and added
    assert all(t.success or t.reward > outcome[t.id] for t in added)
    assert len({(t.id, *t.actions) for t in added}) == len(added)
    assert len(log) == all_updates(lab)


# --- the reward model -----------------------------------------------------------------------------


def test_the_reward_model_learns_a_rule_and_generalises(lab):
    """Labels that can be read off the action: 1 for a purchase, 0.2 else; held-out tasks are predicted."""
    experts = draw_demonstrations(replace(lab.config, demonstrations=24), lab.env, lab.config.habits)
    for t in experts:
        t.extra["step_rewards"] = [1.0 if "Buy Now" in action else 0.2 for action in t.actions]
    seen, unseen = experts[:16], experts[16:]
    default = adapter_weights(lab.policy)
    model = reward_model.fit(lab.policy, lab.chat, lab.fresh, learned_rewards.regression(seen), 0.5, seed=0)
    assert all(torch.equal(w, adapter_weights(lab.policy)[k]) for k, w in default.items())
    predicted = model.predict(lab.policy, lab.chat, [t.messages for t in unseen])
    labels = [r for t in unseen for r in t.extra["step_rewards"]]
    facts = learned_rewards.fit_quality([p for ps in predicted for p in ps], labels)
    assert facts["explained"] > 0.4 and facts["correlation"] > 0.7 and facts["steps"] == len(labels)


def test_a_prediction_depends_on_the_past_alone_and_survives_a_file(lab, tmp_path):
    model = learned_rewards.reward_model(lab)
    trajectory = lab.demonstrations()[0]
    (whole,) = model.predict(lab.policy, lab.chat, [trajectory.messages])
    for step in range(1, trajectory.steps + 1):
        begun = [*trajectory.prefix(step), trajectory.suffix(step)[0]]
        (part,) = model.predict(lab.policy, lab.chat, [begun])
        assert part[-1] == pytest.approx(whole[step - 1], abs=1e-4) and len(part) == step
    model.save(tmp_path / "saved")
    (again,) = reward_model.RewardModel.load(tmp_path / "saved").predict(lab.policy, lab.chat, [trajectory.messages])
    assert again == whole
    facts = json.loads((lab.folder / "reward_model.json").read_text())
    data = read_trajectories(lab.folder / "reward-model-data.jsonl")
    assert 0 < facts["steps"] < sum(t.steps for t in data)


def test_pairs_by_the_outcome_alone(lab):
    """`step_reward="outcome"`: nothing is played to score a step, and each open contrast becomes a pair."""
    lab.config = replace(SMALL, step_reward="outcome")
    by_outcome = judge.judge_of(lab)
    for name in ("step_rewards.jsonl", "pairs.jsonl"):
        (lab.folder / "iteration-1" / name).unlink()
    rewards = round_of(lab, 1, "score", by_outcome)
    assert rewards and all(r.n == 0 and r.reward_mc == r.outcome for r in rewards)
    pairs = round_of(lab, 1, "pairs", by_outcome)
    assert len([p for p in pairs if p.kind == "step"]) == len(rewards) / 2
    assert all(p.chosen_outcome > p.rejected_outcome for p in pairs)


def unscored(lab):
    """The run without its step rewards, to be scored anew."""
    for place in ("iteration-1/", "iteration-2/", "demonstration_"):
        (lab.folder / f"{place}step_rewards.jsonl").unlink()


def test_pairs_by_the_reward_model(lab):
    """`step_reward="model"`: no Monte Carlo; a purchase keeps its outcome."""
    lab.config = replace(SMALL, step_reward="model")
    unscored(lab)
    rewards = round_of(lab, 1, "score", judge.judge_of(lab))
    assert rewards and {r.n for r in rewards} == {0}
    assert all(r.reward_mc == r.outcome for r in rewards if r.terminal)
    assert any(not r.terminal for r in rewards)


def test_the_reward_model_of_another_run_may_judge(lab, finished, tmp_path):
    other = tmp_path / "seed-0"
    shutil.copytree(lab.folder, other)
    theirs = Run(SMALL, other, quiet=True)
    flat = torch.zeros(theirs.policy.get_base_model().config.hidden_size + 1)
    flat[-1] = 0.625  # a model that always says .625
    reward_model.RewardModel(theirs.fresh, flat).save(other / "reward-model")
    lab.config = replace(SMALL, step_reward=str(tmp_path / "seed-{seed}"))
    unscored(lab)
    rewards = round_of(lab, 1, "score", judge.judge_of(lab))
    assert {r.reward_mc for r in rewards if not r.terminal} == {0.625}
    lab.config = replace(SMALL, step_reward=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="no step reward model there"):
        judge.judge_of(lab)


def test_the_oracle_takes_the_best_of_what_the_model_chooses_from(lab, monkeypatch):
    monkeypatch.setattr("ipr_lite.methods.best_of_n.N", 3)
    chosen, best = by_the_model(lab, "best-of-n", "test"), by_the_oracle(lab, "best-of-n-oracle", "test")
    sampled = read_trajectories(lab.folder / "evaluations" / "sft-sampled-3-test.jsonl")
    by_task = {}
    for t in sampled:
        by_task.setdefault(t.id, []).append(t)
    assert len(best) == len(by_task) == SMALL.test and {len(s) for s in by_task.values()} == {3}
    for mine, theirs in zip(best, chosen):
        assert mine.reward == max(t.reward for t in by_task[mine.id])
        assert any(theirs.messages == t.messages for t in by_task[theirs.id])
    assert lab.spent(["best-of-n-oracle"])["env_steps"] == sum(t.steps for t in sampled)


# --- compare --------------------------------------------------------------------------------------


def test_a_setting_says_what_differs_and_reads_back():
    assert Config().setting == Config(seed=3, env="sql", dev=5).setting == "default"
    changed = Config(w_step=0.0, both_directions=False, scorer="current")
    assert changed.setting == "scorer=current both_directions=False w_step=0.0"
    assert Config(seed=1).with_setting(changed.setting) == replace(changed, seed=1)
    for text, message in (
        ("warp=1", "no option 'warp'"), ("updates=many", "--updates many: should be a valid integer"),
        ("action_only=maybe", "--action-only maybe: should be a valid boolean"), ("seed=3", "no option 'seed'"),
        ("beta=nan", "--beta nan: should be a finite number"), ("beta", "--beta : should be a valid number"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Config().with_setting(text)


def test_compare_runs_cells_once_and_in_any_order(finished, tmp_path, monkeypatch):
    """Settings that leave SFT and pairs alone share them; what the results file holds is not run again."""
    shutil.copytree(finished, tmp_path / "default" / "seed-0")
    monkeypatch.setattr("ipr_lite.config.Config.setting", property(lambda c: "default" if c.w_step else "w_step=0.0"))
    results = tmp_path / "results.csv"
    learnt = watched(monkeypatch, "learn")
    jobs = ((["ipr", "eto"], ["default"]), (["ipr", "sft"], ["default", "w_step=0.0"]))
    rest = ([0], tmp_path, results, "compare")
    rows = [row for job in jobs for row in compare(SMALL, *job, *rest, quiet=True)]
    found = {(r["method"], r["setting"], r["iteration"]) for r in rows}
    both = {(m, s, i) for s in ("default", "w_step=0.0") for m, i in (("ipr", 1), ("ipr", 2), ("sft", 0))}
    assert found == both | {("eto", "default", 1), ("eto", "default", 2)}
    shared = tmp_path / "w_step=0.0" / "seed-0"
    for name in ("sft_log.csv", "demonstrations.jsonl", "iteration-1/pairs.jsonl"):
        assert (shared / name).read_bytes() == (finished / name).read_bytes(), name
    assert (shared / "iteration-1/train_log.csv").read_bytes() != (finished / "iteration-1/train_log.csv").read_bytes()
    table = read_results(results)
    assert len(table) == len(rows)
    by = {(r["method"], r["setting"], r["iteration"]): r for r in rows}
    sft = by["sft", "default", 0]["updates"]
    assert by["eto", "default", 2]["updates"] == by["ipr", "default", 2]["updates"] == sft + 2 * SMALL.updates
    assert by["ipr", "default", 1]["env_steps"] == by["ipr", "w_step=0.0", 1]["env_steps"] > 0
    assert 0.6 < by["eto", "default", 2]["env_steps"] / by["ipr", "default", 2]["env_steps"] < 1.4

    before = results.read_bytes()
    monkeypatch.setattr(Run, "play", None)
    for job in jobs:
        assert compare(SMALL, *job, *rest, quiet=True) == [] and results.read_bytes() == before
    log = results.with_suffix(".log").read_text().splitlines()
    assert log[0] == "# compare" and len([line for line in log if line.startswith("shop ")]) == 5
    assert len(learnt) == 4  # ETO's two rounds, and IPR's two with the other setting

    monkeypatch.undo()
    with pytest.raises(ValueError, match="unknown method dpo"):
        compare(SMALL, ["dpo"], ["default"], [0], tmp_path, results, "compare")


@pytest.mark.parametrize(
    "changed, shared",
    [
        ({"beta": 0.2}, "pairs"),
        ({"samples": 3}, "sft"),
        ({"max_length": 900}, ""),
        ({"keep": 0.9}, ""),
        ({"dev": 3}, ""),
    ],
)
def test_settings_share_only_what_they_have_no_part_in(changed, shared, finished, tmp_path):
    one = Run(replace(SMALL, **changed), tmp_path / "other", quiet=True)
    compare_module._share(one, finished)
    assert (one.folder / "sft").exists() == bool(shared)
    assert (one.folder / "iteration-1" / "pairs.jsonl").exists() == (shared == "pairs")


def test_dev_can_be_scored_without_a_look_at_test(lab, tmp_path):
    folder = lab.folder.parent / "compare"
    shutil.copytree(lab.folder, folder / "demonstrations=12,iterations=1" / "seed-0")
    place = folder / "demonstrations=12,iterations=1" / "seed-0"
    shutil.rmtree(place / "evaluations")
    config = replace(Config(), demonstrations=12, iterations=1, dev=4, test=4)
    (place / "config.json").unlink()
    compare(
        config, ["sft", "naive-step-dpo"], ["default"], [0], folder, tmp_path / "r.csv", "x", split="dev", quiet=True
    )
    assert set(read_results(tmp_path / "r.csv")["split"]) == {"dev"}
    assert not list((place / "evaluations").glob("*-test.jsonl"))


# --- search with a judge --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["armap", "agentrm"])
def test_who_searches_answers_every_task_and_says_what_it_spent(lab, method):
    """Rows of the whole cell; the second time nothing is played."""
    (row,) = compare_module.cell_rows(lab, method, "test")
    assert row["n"] == SMALL.test and 0 <= row["reward"] <= 1 and row["env_steps"] > 0 and row["updates"] > 0
    again = compare_module.cell_rows(Run(lab.config, lab.folder, quiet=True), method, "test")
    assert [row] == again


def test_orps_in_a_world_without_queries(lab):
    with pytest.raises(ValueError, match="orps executes queries; the world 'shop' has none"):
        compare_module.cell_rows(lab, "orps", "test")
