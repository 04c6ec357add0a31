"""What a notebook writes out is what the package does; a fault put into either shows."""

import ast
import importlib.util
import itertools
import json
import math
import random
import shutil
import types
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from scipy import stats

from ipr_lite import checks, envs, evaluation, losses, train
from ipr_lite.chat import Chat, Encoded, EncodedPair
from ipr_lite.config import Config
from ipr_lite.engine.trl import AgentTokenCollator
from ipr_lite.envs.sql.reward import answer_reward, tau_b
from ipr_lite.ipr import round_of
from ipr_lite.methods import random_pairs
from ipr_lite.model import TINY_BASE, load_tokenizer
from ipr_lite.pairs import Contrast, PairRule, contrast, count, explore, judge, pairs_of, steps_to_score
from ipr_lite.records import Pair, StepReward, Task, Trajectory, read_pairs, read_step_rewards, read_trajectories
from ipr_lite.rollout import Episode, stable_seed
from ipr_lite.run import Run
from ipr_lite.step_reward import ScoredStep, monte_carlo, steps_of
from ipr_lite.study import power
from ipr_lite.study.power import Moments
from ipr_lite.study.quality import page_score

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SHOWCASE = TINY_BASE.parent / "showcase"


def functions(notebook: str, *names: str, fault: tuple[str, str] | None = None, **known) -> types.SimpleNamespace:
    """The functions of a notebook, nothing else of it run; `fault` replaces one text in them."""
    book = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))
    trees = [ast.parse("".join(c["source"])) for c in book["cells"] if c["cell_type"] == "code"]
    found = {n.name: n for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef)}
    missing = set(names) - set(found)
    assert not missing, f"{notebook} no longer defines {missing}"
    source = "\n\n".join(ast.unparse(found[name]) for name in names)
    if fault:
        if source.count(fault[0]) != 1:  # no AssertionError: a fault that is not there would look like one that is seen
            raise LookupError(f"{fault[0]!r} must stand once in {names}")
        source = source.replace(*fault)
    space = {"torch": torch, "F": F, **known}
    exec(source, space)
    return types.SimpleNamespace(**{name: space[name] for name in names})


# --- 02: the masked log-likelihood ------------------------------------------------------------------


def logps_of(model, ids, mask):
    """The package's log-probabilities of a batch that nobody padded: (rows,)."""
    rows = [Encoded(*row) for row in zip(ids.tolist(), mask.tolist())]
    return train.log_probabilities(model, rows)


class Says(torch.nn.Module):
    """A model that answers with a random table's logits for each token it reads."""

    device = torch.device("cpu")

    def __init__(self, vocabulary):
        super().__init__()
        self.table = torch.randn(vocabulary, vocabulary) * 3

    def forward(self, input_ids, logits_to_keep=slice(None), use_cache=False):
        return types.SimpleNamespace(logits=self.table[input_ids][:, logits_to_keep])


def check_log_probabilities(fault=None, name="log_probabilities"):
    mine = getattr(functions("02_imitate.ipynb", name, fault=fault), name)
    torch.manual_seed(0)
    for batch, length, vocabulary in [(1, 2, 2), (4, 9, 7), (3, 30, 50)]:
        model = Says(vocabulary)
        ids = torch.randint(vocabulary, (batch, length))
        mask = torch.randint(2, (batch, length))
        mask[:, 0], mask[:, -1] = 0, 1
        rows = [Encoded(*row) for row in zip(ids.tolist(), mask.tolist())]
        found = mine(model, rows) if name == "log_probabilities" else mine(model(ids).logits, ids, mask)
        torch.testing.assert_close(found, logps_of(model, ids, mask))


@pytest.mark.parametrize("name", ["log_probabilities", "agent_logps_draft"])
def test_log_probabilities(name):
    check_log_probabilities(name=name)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("log_probabilities", ("labels - 1", "labels")),
        ("log_probabilities", ("if mine", "if not mine")),
        ("log_probabilities", ("ids[labels]", "ids[labels - 1]")),
        ("log_probabilities", ("reduction='sum'", "reduction='mean'")),
        ("log_probabilities", ("-F.cross_entropy", "F.cross_entropy")),
        ("agent_logps_draft", ("logits[row, i - 1]", "logits[row, i]")),
        ("agent_logps_draft", ("range(1, input_ids.shape[1])", "range(1, input_ids.shape[1] - 1)")),
    ],
)
def test_log_probabilities_check_sees_a_fault(name, fault):
    with pytest.raises(AssertionError):
        check_log_probabilities(fault, name)


# --- 03: one number per episode ---------------------------------------------------------------------


def check_outcome_credit(fault=None):
    mine = functions("03_one_number_is_not_enough.ipynb", "outcome_credit", fault=fault).outcome_credit
    rng = np.random.default_rng(0)
    for episodes, steps in [(1, 1), (7, 3), (60, 5)]:
        did, outcomes = rng.integers(3, size=(episodes, steps)), rng.random(episodes)
        found = mine([(tuple(row), outcome) for row, outcome in zip(did.tolist(), outcomes)])
        expected = {
            (step + 1, action): outcomes[did[:, step] == action].mean()
            for step in range(steps)
            for action in set(did[:, step].tolist())
        }
        assert found == pytest.approx(expected)


def test_outcome_credit():
    check_outcome_credit()


@pytest.mark.parametrize(
    "fault",
    [
        ("start=1", "start=0"),
        ("sum(found) / len(found)", "max(found)"),
        ("sum(found) / len(found)", "sum(found) / len(outcomes)"),
        ("setdefault((step, action)", "setdefault((1, action)"),
    ],
)
def test_outcome_credit_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_outcome_credit(fault)


def check_first_difference(fault=None):
    book = "03_one_number_is_not_enough.ipynb"
    mine = functions(book, "first_difference", fault=fault, itertools=itertools).first_difference
    env, rng = envs.make("shop"), random.Random(0)
    words = ["Thought: a.\nAction: click[red]", "Thought: b.\nAction: click[Red]", "Action: click[blue]", "no action"]
    seen = set()
    for number in range(300):
        task = Task(f"t{number}", "shop", "train", "buy")
        expert = [rng.choice(words) for _ in range(rng.randint(2, 4))]
        start = rng.randint(2, len(expert))
        agent = expert[: start - 1] + [rng.choice(words) for _ in range(rng.randint(1, 3))]
        pair = trajectory(task, 1.0, *expert), trajectory(task, 0.0, *agent)
        [contrasted] = contrast([pair[0]], [from_step(start, pair[1])], env, PairRule())
        found = mine(*pair, env.parse)
        assert (found != start) == (contrasted.verdict == "same_action")
        parsed = [[env.parse(action) for action in one.actions] for one in pair]
        assert (found is None) == (parsed[0] == parsed[1])
        assert found == mine(*pair[::-1], env.parse)
        seen.add(found)
    assert {None, 2, 3} <= seen


def test_first_difference():
    check_first_difference()


@pytest.mark.parametrize(
    "fault",
    [
        ("itertools.zip_longest", "zip"),
        ("start=1", "start=0"),
        ("parse(mine) != parse(theirs)", "mine != theirs"),
        ("mine is None or ", ""),
    ],
)
def test_first_difference_check_sees_a_fault(fault):
    with pytest.raises((AssertionError, AttributeError)):
        check_first_difference(fault)


def check_still_possible(fault=None):
    mine = functions("03_one_number_is_not_enough.ipynb", "still_possible", fault=fault).still_possible
    env = envs.make("shop")
    played = read_trajectories(SHOWCASE / "evaluations" / "base-test.jsonl")[:80]
    search = env.parse(played[0].actions[0])
    played.append(play_out(env, played[0].task, search, "click[back to search]", search))
    for one in played:
        found = mine(env, one)
        scores = [page_score(step) for step in steps_of(env, one, "agent")]
        at_search = [env.parse(action) == "click[back to search]" for action in one.actions]
        expected = [1.0, *(1.0 if back else score for back, score in zip(at_search, scores))]
        assert found[:-1] == expected[:-1]
        assert found[-1] == one.reward
        if one.actions and env.parse(one.actions[-1]) == "click[buy now]":
            assert found[-1] == pytest.approx(scores[-1])


def play_out(env, task, *actions):
    world, messages = env.clone(), []
    observation, _ = world.reset(options={"task": task})
    messages += env.messages(observation, task)
    for action in actions:
        observation, *_ = world.step(env.message(action))
        messages += [{"role": "assistant", "content": env.message(action)}, {"role": "user", "content": observation}]
    return Trajectory(task, messages[:-1], 0.0, False, "a")


def test_still_possible():
    check_still_possible()


@pytest.mark.parametrize(
    "fault",
    [
        ("values = [1.0]", "values = [0.0]"),
        ("1.0 if searching else", "0.0 if searching else"),
        ("*values[:-1], trajectory.reward", "*values"),
        ("'click[back to search]'", "'click[buy now]'"),
    ],
)
def test_still_possible_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_still_possible(fault)


def check_step_logps(fault=None):
    lab = types.SimpleNamespace(chat=Chat(load_tokenizer(TINY_BASE)))
    mine = functions("03_one_number_is_not_enough.ipynb", "step_logps", fault=fault, lab=lab).step_logps
    vocabulary = len(lab.chat.tokenizer)

    def model(input_ids, logits_to_keep=slice(None), use_cache=False):
        generator = torch.Generator().manual_seed(input_ids.shape[1])
        logits = torch.randn(*input_ids.shape, vocabulary, generator=generator)
        return types.SimpleNamespace(logits=logits[:, logits_to_keep])

    model.device = torch.device("cpu")
    pairs = [p for p in read_pairs(SHOWCASE / "iteration-1" / "pairs.jsonl") if p.kind == "outcome"][:4]
    for pair, side in itertools.product(pairs, ("chosen", "rejected")):
        messages = pair.prompt + getattr(pair, side)
        found = mine(model, pair, side)
        example = lab.chat.encode(messages)
        ids, mask = torch.tensor([example.input_ids]), torch.tensor([example.agent_mask])
        actions = [m for m in messages if m["role"] == "assistant"]
        assert len(found) == len(actions)
        torch.testing.assert_close(found.sum()[None], logps_of(model, ids, mask))
        begin = example.agent_mask.index(1)
        length = len(lab.chat.content(actions[0]["content"])) + 1  # and its end token
        only = torch.zeros_like(mask)
        only[0, begin : begin + length] = 1
        torch.testing.assert_close(found[:1], logps_of(model, ids, only))


def test_step_logps():
    check_step_logps()


@pytest.mark.parametrize(
    "fault",
    [
        ("logits[0, :-1]", "logits[0, 1:]"),
        ("-F.cross_entropy", "F.cross_entropy"),
        ("mask[:-1] == 0", "mask[:-1] == 1"),
        (")[1:]", ")[:-1]"),
    ],
)
def test_step_logps_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_step_logps(fault)


# --- 04: Monte Carlo step rewards -------------------------------------------------------------------


@dataclass
class Walk:
    """A world in which reward is a sum of what was said; it ends after `left` steps."""

    left: int
    total: float = 0.0

    def clone(self):
        return Walk(self.left, self.total)

    def step(self, action):
        assert self.left > 0, "the episode is over"
        self.left -= 1
        self.total += float(action)
        over = self.left == 0
        return f"{self.left} left", self.total * over, over, False, {"invalid": False, "success": False}


def act(messages, rng):
    """Says a random digit that depends on all it has read."""
    return str(rng.randrange(10) * (1 + sum(len(m["content"]) for m in messages) % 7))


class PlainScorer:
    """What `Rollouts` does with a batch, one episode at a time, with `act` in place of a model."""

    def play(self, episodes, progress=None):
        return [self.one(episode) for episode in episodes]

    def one(self, episode):
        messages, rng, over = list(episode.messages), random.Random(episode.seed), False
        while not over:
            message = act(messages, rng)
            observation, reward, over, _, _ = episode.env.step(message)
            messages += [{"role": "assistant", "content": message}, {"role": "user", "content": observation}]
        return Trajectory(episode.task, messages, reward, False, "scorer")


def check_mc_step_reward(fault=None):
    mine = functions("04_step_rewards.ipynb", "mc_step_reward", fault=fault, fmean=fmean).mc_step_reward
    for left in (1, 2, 5):
        task = Task(f"t{left}", "walk", "train", "walk")
        history = [{"role": "system", "content": "s"}, {"role": "user", "content": "o" * left}]
        step = ScoredStep(task.id, task, 3, "agent", "a", "o", Walk(left), history, False, 0.0)
        [theirs] = monte_carlo([step], PlainScorer(), n=6, seed=5)
        rngs = [random.Random(stable_seed(5, task.id, 3, "a", sample)) for sample in range(6)]
        value, outcomes = mine(step.env, step.messages, act, rngs)
        assert outcomes == theirs.samples
        assert value == pytest.approx(theirs.reward_mc)
        assert (step.env, len(history)) == (Walk(left), 2), "the state that is scored has changed"


def test_mc_step_reward():
    check_mc_step_reward()


@pytest.mark.parametrize(
    "fault",
    [
        ("world.clone()", "world"),
        ("list(history)", "history"),
        ("outcomes.append(reward)", "outcomes.append(reward / 2)"),
        ("'role': 'user', 'content': observation", "'role': 'user', 'content': ''"),
        ("return (fmean(outcomes), outcomes)", "return (max(outcomes), outcomes)"),
    ],
)
def test_mc_step_reward_check_sees_a_fault(fault):
    with pytest.raises((AssertionError, ValueError)):
        check_mc_step_reward(fault)


# --- 05 and 06: the pair rule and the loss ----------------------------------------------------------


def trajectory(task, reward, *actions):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "o"}]
    for action in actions:
        messages += [{"role": "assistant", "content": action}, {"role": "user", "content": "o"}]
    return Trajectory(task, messages[:-1], reward, False, "a")


def from_step(start, exploration):
    exploration.extra["start_step"] = start
    return exploration


RULE = ("outcome_verdict", "with_step_rewards", "contrast", "judge", "pairs_of")


def check_pairs(fault=None):
    mine = functions("05_build_pairs.ipynb", *RULE, fault=fault, Contrast=Contrast)
    env, rng, seen = envs.make("shop"), random.Random(0), set()
    demonstrations, explorations, rewards = [], [], []
    said = ["Thought: {}.\nAction: click[red]", "Thought: {}.\nAction: click[blue]"]
    for number in range(300):
        task = Task(f"t{number}", "shop", "train", "buy")
        actions, t = [said[0].format(f"expert {i}") for i in range(4)], rng.choice((1, 2, 3))
        demonstration = trajectory(task, rng.choice((0.0, 0.5, 1.0)), *actions)
        action = rng.choice(said).format(f"agent {number}")
        agent = trajectory(
            task, rng.choice((0.0, 0.5, 0.505, 1.0)), *actions[: t - 1], action, "Action: click[buy now]"
        )
        demonstration.demonstration = agent.demonstration = rng.choice(("", f"t{number}/2"))
        demonstrations.append(demonstration)
        explorations.append(from_step(t, agent))
        for one in (demonstration, agent):
            value = rng.choice((0.0, 0.5, 0.505, 1.0))
            rewards.append(StepReward(one.key, t, one.actions[t - 1], "o", "", value, 0, [], one.reward, False))
    found = mine.contrast(demonstrations, explorations, env.parse)
    theirs = contrast(demonstrations, explorations, env, PairRule())
    assert found == theirs
    assert mine.judge(found, rewards) == judge(theirs, rewards, PairRule())
    pairs = pairs_of(theirs, PairRule())
    assert mine.pairs_of(found) == [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    seen = {(c.kind, c.verdict) for c in found}
    assert seen == {*itertools.product(("outcome", "step"), ("win", "lose", "tie")), ("step", "same_action")}


def test_contrast_judge_and_pairs_of():
    check_pairs()


@pytest.mark.parametrize(
    "fault",
    [
        ("<= tau", "< tau - 1"),
        ("agent > demonstration", "agent < demonstration"),
        ("gain > tau", "gain > 0"),
        ("gain < -tau", "gain < tau"),
        ("verdict if agreed else 'tie'", "verdict"),
        ("t.key: t", "t.id: t"),
        (
            "parse(agent.actions[t - 1]) == parse(demonstration.actions[t - 1])",
            "agent.actions[t - 1] == demonstration.actions[t - 1]",
        ),
        ("outcomes + steps", "steps + outcomes"),
        ("c.kind == 'step' and c.open", "c.kind == 'step' and c.verdict == 'win'"),
        ("c.acted.reward_mc - c.demonstrated.reward_mc", "c.demonstrated.reward_mc - c.acted.reward_mc"),
        ("(c.agent, c.demonstration) if c.verdict == 'win'", "(c.agent, c.demonstration) if c.verdict == 'lose'"),
        ("c.demonstration.prefix(c.step)", "c.demonstration.prefix(1)"),
        ("loser.suffix(c.step)", "loser.suffix(1)"),
    ],
)
def test_check_of_pairs_sees_a_fault(fault):
    with pytest.raises((AssertionError, KeyError)):
        check_pairs(fault)


def check_ipr_loss(fault=None):
    mine = functions("06_losses.ipynb", "dpo_loss", "ipr_loss", fault=fault).ipr_loss
    generator = torch.Generator().manual_seed(0)
    for outcomes in ([1, 0, 1, 0, 0, 1, 0], [1, 1, 1], [0, 0]):
        is_outcome = torch.tensor(outcomes, dtype=torch.bool)
        logps = [torch.randn(len(outcomes), generator=generator) * 5 for _ in range(4)]
        tokens = torch.randint(5, 40, (len(outcomes),), generator=generator)
        for policy in logps[:2]:
            policy.requires_grad_()
        options = {"beta": 0.3, "w_outcome": 0.5, "w_step": 2.0, "w_sft": 0.7}
        ours = mine(*logps, is_outcome, **options)
        theirs = losses.ipr_loss(*logps, is_outcome, tokens, **options)
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b)
        for a, b in zip(torch.autograd.grad(ours[0], logps[:2]), torch.autograd.grad(theirs.total, logps[:2])):
            torch.testing.assert_close(a, b)


def test_ipr_loss():
    check_ipr_loss()


@pytest.mark.parametrize(
    "fault",
    [
        ("policy_rejected - ref_rejected", "ref_rejected - policy_rejected"),
        ("-F.logsigmoid(margin)", "-F.logsigmoid(-margin)"),
        ("contrast[is_outcome].mean()", "contrast.mean()"),
        ("-policy_chosen[is_outcome].mean()", "-policy_chosen.mean()"),
        ("w_step * step", "w_outcome * step"),
    ],
)
def test_ipr_loss_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_ipr_loss(fault)


# --- 07: random preferences ---------------------------------------------------------------------------


def check_flipped(fault=None):
    mine = functions("07_train_a_round.ipynb", "flipped", fault=fault, replace=replace).flipped
    for number in range(5):
        sides = (
            trajectory(Task("t", "shop", "train", "b"), 1.0, f"a{number}").messages[2:],
            [{"role": "assistant", "content": "b"}],
        )
        pair = Pair([], *sides, "step", "t", 2, 0.9 - number, 0.4, 1.0, 0.5 * number)
        assert mine(pair) == random_pairs.flipped(pair) != pair
        assert mine(mine(pair)) == pair


def test_flipped():
    check_flipped()


@pytest.mark.parametrize(
    "fault",
    [
        ("rejected=pair.chosen", "rejected=pair.rejected"),
        ("chosen_outcome=pair.rejected_outcome", "chosen_outcome=1.0"),
    ],
)
def test_flipped_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_flipped(fault)


# --- 08: a round --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second_round(tmp_path_factory):
    """A run with the shipped adapters in place of training, and what its stages make of round 2."""
    # Sampled, not greedy, explorations, so that their seed matters; no showcase, so that batches are the same.
    config = Config(demonstrations=8, samples=2, explore_temperature=1.0, showcase=0)
    run = Run(config, tmp_path_factory.mktemp("rounds"), quiet=True)
    for place in ("sft", "iteration-1/adapter", "iteration-2/adapter"):
        shutil.copytree(SHOWCASE / place, run.folder / place)
    pairs = round_of(run, 2, "pairs")
    assert {pair.kind for pair in pairs} == {"outcome", "step"}
    budget = json.loads((run.folder / "budget.json").read_text(encoding="utf-8"))
    return run, pairs, [budget[f"iteration-2/{stage}"]["env_steps"] for stage in ("explore", "score")]


def check_one_round(second_round, fault=None):
    run, theirs, (explored, scored) = second_round
    used = (PairRule, stable_seed, monte_carlo, explore, contrast, count, judge, pairs_of, steps_to_score)
    names = {one.__name__: one for one in used}
    mine = functions("08_iterate.ipynb", "key", "one_round", fault=fault, **names)
    learnt = []

    class Lab:  # the run, but for training
        def __getattr__(self, name):
            return getattr(run, name)

        def learn(self, pairs, start, number):
            learnt.append((pairs, start, number))
            return run.agent("ipr-2"), [{}] * 20

    known = {mine.key(reward): reward for reward in read_step_rewards(run.file(1, "step_rewards.jsonl"))}
    start, counts = run.agent("ipr-1"), json.loads(run.file(2, "pair_counts.json").read_text(encoding="utf-8"))
    before = len(known)
    for again in (False, True):  # the second time, all is known
        policy, pairs, made = mine.one_round(Lab(), run.demonstrations(), start, 2, known)
        assert pairs == theirs == learnt[-1][0]
        assert learnt[-1][1] is start and learnt[-1][2] == 2 and policy is run.agent("ipr-2")
        assert made["explore"] == explored and made["updates"] == 20 and made["counts"] == counts
        assert made["score"] == (0 if again else scored)
        assert made["steps"] == len(read_step_rewards(run.file(2, "step_rewards.jsonl")))
        assert made["reused"] == (made["steps"] if again else made["steps"] - (len(known) - before))


def test_one_round(second_round):
    check_one_round(second_round)


@pytest.mark.parametrize(
    "fault",
    [
        ("stable_seed(c.seed, number)", "stable_seed(c.seed, 1)"),
        ("run.player(run.sft(), 1.0", "run.player(policy, 1.0"),
        ("if key(step) not in scored", "if True"),
        ("(step.id, step.step, step.action)", "(step.id, step.step)"),
        ("c.samples", "1"),
        ("run.learn(pairs, policy, number)", "run.learn(pairs, run.sft(), number)"),
    ],
)
def test_one_round_check_sees_a_fault(second_round, fault):
    with pytest.raises((AssertionError, ValueError)):  # a DataError, where step rewards are missing
        check_one_round(second_round, fault)


# --- 10: intervals and verdicts -----------------------------------------------------------------------


def check_intervals(fault=None):
    mine = functions(
        "10_report_results.ipynb", "student_interval", "paired_difference", "verdict", "holms_p",
        fault=fault, np=np, math=math, stats=stats,
    )  # fmt: skip
    rng = random.Random(0)
    for n in (2, 3, 5, 10, 12, 300):
        a, b = ([rng.gauss(0.5, 0.2) for _ in range(n)] for _ in "ab")
        assert mine.student_interval(a) == pytest.approx(evaluation.student_interval(a), abs=2e-4)
        assert mine.paired_difference(a, b) == pytest.approx(evaluation.paired_difference(a, b), abs=2e-4)
    assert mine.student_interval([0.5]) == pytest.approx(evaluation.student_interval([0.5]), nan_ok=True)
    for paired in (mine.paired_difference, evaluation.paired_difference):
        with pytest.raises(ValueError):
            paired([1.0, 2.0], [1.0])
    for middle, spread in (
        (-0.15, 0.05),
        (0.0, 0.1),
        (0.1, 0.1),
        (0.15, 0.05),
        (0.0, 0.02),
        (0.0, 0.032),
        (0.005, 0.04),
    ):
        gaps = [middle + spread * x for x in (-1.2, -0.4, 0.1, 0.3, 1.2)]
        moments = Moments.of(gaps)
        for paper in (-0.05, 0.05):
            assert mine.verdict(gaps, paper) == moments.verdict(paper)
            assert mine.verdict(gaps, paper, 0.06) == moments.verdict(paper, 0.06)
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.5], [0.02, 0.02, 0.9]):
        assert mine.holms_p(p_values) == pytest.approx(power.holm(p_values))


def test_intervals():
    check_intervals()


@pytest.mark.parametrize(
    "fault",
    [
        ("(values, ddof=1)", "(values, ddof=0)"),
        ("(differences, ddof=1)", "(differences, ddof=0)"),
        ("0.975", "0.95"),
        ("ppf(0.975, n - 1)", "ppf(0.975, n)"),
        ("spread / math.sqrt(n)", "spread / n"),
        ("x - y", "y - x"),
        ("0.95, n - 1", "0.975, n - 1"),
        ("+ half < margin", "< margin"),
        ("max(least, ", "max(0.0, "),
        ("(mean > 0) == (paper > 0)", "mean > 0"),
        ("len(a) != len(b)", "False"),
    ],
)
def test_intervals_check_sees_a_fault(fault):
    # pytest.fail, where nothing is raised, is no AssertionError
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_intervals(fault)


# --- 09: a whole trainer, sound and broken ----------------------------------------------------------

SILENT = "09_hunt_the_silent_bug.ipynb"
PARTS = ("score", "build_pairs", "batch_of", "logps", "reference_logps", "pair_loss", "train")


def plain_trainer(fault=None):
    known = {"Episode": Episode, "Pair": Pair, "random": random, "stable_seed": stable_seed}
    return functions(SILENT, *PARTS, fault=fault, **known)


def check_score(mine):
    steps = []
    for number in range(6):
        task = Task(f"t{number}", "walk", "train", "walk")
        history = [{"role": "system", "content": "s"}, {"role": "user", "content": "o" * number}]
        steps.append(ScoredStep(task.id, task, 3, "agent", "a", "o", Walk(2), history, number % 3 == 2, number / 10))
    for n in (1, 4):
        theirs = monte_carlo(steps, PlainScorer(), n=n, seed=5)
        samples = mine.score(steps, PlainScorer().play, n=n, seed=5)
        assert samples == [r.samples or [r.outcome] for r in theirs]
    assert any(len(set(side)) > 1 for side in samples)


def check_build_pairs(mine):
    rng, rule = random.Random(0), PairRule(tau_step=0.0, tau_outcome=0.0)
    for number in range(60):
        task, t = Task(f"t{number}", "shop", "train", "buy"), rng.choice((1, 2))
        theirs, ours = (rng.choice((0.0, 0.5, 1.0)) for _ in "ab")
        expert, agent = trajectory(task, theirs, "a", "expert 2"), trajectory(task, ours, "a", "agent 2", "agent 3")
        rewards = [
            StepReward(task.id, t, one.actions[t - 1], "o", "", one.reward, 0, [], one.reward, True)
            for one in (expert, agent)
        ]
        verdict = rule.outcome(agent, expert)
        contrasted = [Contrast("outcome" if t == 1 else "step", t, expert, agent, verdict)]
        package = pairs_of(judge(contrasted, rewards, rule), rule)
        built = mine.build_pairs([(expert, from_step(t, agent))], [(theirs, ours)])
        assert len(built) == len(package)
        for one, other in zip(built, package):
            if t == 1:  # the package leaves step rewards of whole trajectories out
                other = replace(other, chosen_reward=one.chosen_reward, rejected_reward=one.rejected_reward)
            assert one == other
            assert (one.chosen_reward, one.rejected_reward) == (max(theirs, ours), min(theirs, ours))


def some_pairs(number, vocabulary=9):
    rng, pairs = random.Random(number), []
    for _ in range(number):
        a, b, c = (rng.randint(2, 7) for _ in "abc")
        ids = [[rng.randrange(1, vocabulary) for _ in range(n)] for n in (a, b, c)]
        masks = [[rng.randint(0, 1) for _ in range(n - 1)] + [1] for n in (b, c)]
        pairs.append(EncodedPair(*ids, *masks, "step"))
    return pairs


def check_batch_of(mine):
    for number in (1, 3):
        pairs = some_pairs(number)
        package = AgentTokenCollator(pad_token_id=0)([vars(pair) | {"is_outcome": False} for pair in pairs])
        ids, mask = mine.batch_of(pairs)
        assert torch.equal(ids, package["input_ids"])
        assert torch.equal(mask, package["completion_mask"])


class TwoTables(torch.nn.Module):
    """A model of two adapters: what comes next depends on the last token, by the adapter's own table."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lora = torch.nn.ModuleDict({name: torch.nn.Embedding(9, 9) for name in ("default", "sft")})
        self.lora["default"].load_state_dict(self.lora["sft"].state_dict())
        self.set_adapter("default")

    def set_adapter(self, name):
        self.active = name

    def forward(self, input_ids, logits_to_keep=slice(None), use_cache=False):
        return types.SimpleNamespace(logits=self.lora[self.active](input_ids)[:, logits_to_keep])


def table_logps(model, adapter, ids, mask):
    model.set_adapter(adapter)
    return logps_of(model, ids, mask)


def check_reference_logps(mine):
    model = TwoTables()
    with torch.no_grad():
        model.lora["default"].weight += torch.randn(9, 9)
    ids, mask = plain_trainer().batch_of(some_pairs(3))
    reference = mine.reference_logps(model, ids, mask)
    torch.testing.assert_close(reference, table_logps(model, "sft", ids, mask))
    assert not reference.requires_grad
    policy = mine.logps(model, ids, mask, "default")
    torch.testing.assert_close(policy, table_logps(model, "default", ids, mask))
    assert policy.requires_grad


def check_pair_loss(mine):
    generator = torch.Generator().manual_seed(0)
    for pairs in (1, 5):
        policy, reference = (torch.randn(2 * pairs, generator=generator) * 9 for _ in "ab")
        policy.requires_grad_()
        tokens = torch.randint(5, 40, (pairs,), generator=generator)
        total, dpo, margin = mine.pair_loss(policy, reference, beta=0.3, w_sft=0.7)
        sides = *policy.chunk(2), *reference.chunk(2)
        is_outcome = torch.ones(pairs, dtype=torch.bool)
        package = losses.ipr_loss(*sides, is_outcome, tokens, beta=0.3, w_sft=0.7)
        torch.testing.assert_close(total, package.total)
        torch.testing.assert_close(dpo, losses.dpo_loss(*sides, beta=0.3).mean())
        torch.testing.assert_close(torch.log1p(torch.exp(-margin)).mean(), dpo)
        torch.testing.assert_close(*(torch.autograd.grad(loss, policy)[0] for loss in (total, package.total)))


def check_train(mine):
    pairs, model, twin = some_pairs(5), TwoTables(), TwoTables()
    log = mine.train(model, pairs, updates=3, size=2, rate=0.1, seed=1)
    assert len(log) == 3
    rng, optimizer = random.Random(1), torch.optim.AdamW(twin.lora["default"].parameters(), lr=0.1, weight_decay=0.0)
    drawn = [pair for _ in range(2) for pair in rng.sample(pairs, 5)][:6]
    drawn.sort(key=lambda pair: len(pair.prompt_ids) + len(pair.chosen_ids))
    batches = [drawn[:2], drawn[2:4], drawn[4:]]
    rng.shuffle(batches)
    for update, row in enumerate(log):
        batch = [vars(pair) | {"is_outcome": True} for pair in batches[update]]
        package = AgentTokenCollator(pad_token_id=0)(batch)
        ids, mask = package["input_ids"], package["completion_mask"]
        policy, reference = (table_logps(twin, name, ids, mask) for name in ("default", "sft"))
        sides = *policy.chunk(2), *reference.detach().chunk(2)
        loss = losses.ipr_loss(*sides, package["is_outcome"], mask[:2, 1:].sum(1))
        margins = 0.1 * ((sides[0] - sides[2]) - (sides[1] - sides[3]))
        expected = {
            "step": update + 1, "loss": loss.outcome, "margin": margins.mean(), "accuracy": (margins > 0).float().mean(),
            "chosen_logp": sides[0].mean(), "rejected_logp": sides[1].mean(), "chosen_gain": (sides[0] - sides[2]).mean(),
        }  # fmt: skip
        expected = {name: torch.as_tensor(value).item() for name, value in expected.items()}
        assert row == pytest.approx(expected, abs=1e-5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


CHECK_OF_PART = {
    "score": check_score,
    "build_pairs": check_build_pairs,
    "batch_of": check_batch_of,
    "reference_logps": check_reference_logps,
    "pair_loss": check_pair_loss,
    "train": check_train,
}


@pytest.mark.parametrize("part", CHECK_OF_PART)
def test_the_plain_trainer(part):
    CHECK_OF_PART[part](plain_trainer())


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("score", ("step.action, sample)", "step.action, n)")),
        ("score", ("step.step, step.action", "step.action")),
        ("score", ("[step.outcome] if step.terminal", "[0.0] if step.terminal")),
        ("build_pairs", ("ours > theirs", "ours >= theirs")),
        ("build_pairs", ("chosen, rejected = (demonstrator, agent)", "chosen, rejected = (agent, demonstrator)")),
        ("build_pairs", ("min(ours, theirs)", "theirs")),
        ("build_pairs", ("demonstrator.prefix(t)", "demonstrator.prefix(1)")),
        ("batch_of", ("[0] * len(pair.prompt_ids) + mask", "[0] * len(pair.prompt_ids) + [1] * len(ids)")),
        ("batch_of", ("('chosen', 'rejected')", "('rejected', 'chosen')")),
        ("reference_logps", ("'sft'", "'default'")),
        ("reference_logps", ("torch.no_grad()", "torch.enable_grad()")),
        ("pair_loss", ("chosen_gain - rejected_gain", "rejected_gain - chosen_gain")),
        ("pair_loss", ("-policy.chunk(2)[0].mean()", "-policy.chunk(2)[1].mean()")),
        ("pair_loss", ("dpo + w_sft * imitation", "dpo + imitation")),
        ("train", ("optimizer.step()", "pass")),
        ("train", ("mask, 'default')", "mask, 'sft')")),
        ("train", ("enumerate(batches)", "enumerate(batches[1:])")),
        ("train", ("rng.shuffle(batches)", "pass")),
        ("train", ("random.Random(seed)", "random.Random(0)")),
    ],
)
def test_the_plain_trainers_check_sees_a_fault(part, fault):
    with pytest.raises(AssertionError):
        CHECK_OF_PART[part](plain_trainer(fault))


def test_the_five_trainers_differ_in_the_lines_they_are_said_to(tmp_path):
    """Each fault shows in its own function, and in no other."""
    book = json.loads((NOTEBOOKS / SILENT).read_text(encoding="utf-8"))
    found = {}
    for source in ("".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"):
        nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        found |= {node.name: ast.get_source_segment(source, node) for node in nodes}
    path = tmp_path / "parts.py"
    path.write_text("\n\n\n".join(found[name] for name in PARTS), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("parts", path)
    module = importlib.util.module_from_spec(spec)
    known = {"Episode": Episode, "Pair": Pair, "random": random, "stable_seed": stable_seed, "torch": torch, "F": F}
    vars(module).update(known)
    spec.loader.exec_module(module)
    parts = [getattr(module, name) for name in PARTS]
    trainers, words = checks.five_trainers(parts), checks.revealed()
    assert sorted(words.values()) == sorted(["sound", *checks.FAULTS])
    for letter, trainer in trainers.items():
        for part, check in CHECK_OF_PART.items():
            fault = checks.FAULTS.get(words[letter])
            # what is changed in another function is not read by these, except by `train`, which calls all
            if fault and (
                part == fault.function or (part == "train" and fault.function in ("batch_of", "reference_logps"))
            ):
                with pytest.raises(AssertionError):
                    check(trainer)
            else:
                check(trainer)
    with pytest.raises(ValueError, match="stands 0 times in score"):
        checks.broken_trainer(parts, "score", "no such text", "")
    with pytest.raises(ValueError, match="run the chapter's cells as they are"):
        checks.five_trainers(parts[1:])


def test_the_solutions_to_09_have_the_chapters_trainer():
    written = []
    for name in (SILENT, "solutions/09_hunt_the_silent_bug_solutions.ipynb"):
        book = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
        trees = [ast.parse("".join(c["source"])) for c in book["cells"] if c["cell_type"] == "code"]
        written.append(
            {n.name: ast.dump(n) for t in trees for n in t.body if isinstance(n, ast.FunctionDef) and n.name in PARTS}
        )
    assert written[0] == written[1] and set(written[0]) == set(PARTS)


# --- 01: the database's reward ----------------------------------------------------------------------


def check_answer_reward(fault=None):
    taught = functions("01_meet_the_worlds.ipynb", "overlap", "tau", fault=fault, Counter=Counter)
    rng = random.Random(0)
    for _ in range(200):
        mine, gold = ([(rng.choice("abcd"),) for _ in range(rng.randint(1, 4))] for _ in "ab")
        if len(set(mine) & set(gold)) < 2:  # without an order, the reward is the overlap
            assert taught.overlap(mine, gold) == pytest.approx(answer_reward(mine, gold))
        # Where the gold rows are in their alphabet, places and texts say the same.
        reference = sorted(rng.sample("abcdefgh", 5))
        order = rng.sample(reference, 5)
        assert taught.tau(order, reference) == pytest.approx(tau_b(order, reference))


def test_answer_reward():
    check_answer_reward()


@pytest.mark.parametrize("fault", [("mine | gold", "gold | gold"), ("else -1", "else 0")])
def test_a_fault_in_the_answers_reward_shows(fault):
    with pytest.raises(AssertionError):
        check_answer_reward(fault)


# --- 11: four-bit weights ----------------------------------------------------------------------------


def check_quantize(fault=None):
    taught = functions("11_four_bits.ipynb", "nf4_levels", "quantize", fault=fault, np=np, norm=stats.norm)
    levels = taught.nf4_levels()
    for seed in range(3):
        weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)) * 0.3
        packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
        theirs = dequantize_4bit(packed, state)
        mine, codes = taught.quantize(weights, levels)
        assert torch.isclose(mine, theirs, atol=1e-6).float().mean() > 0.999
        assert codes.min() == 0 and codes.max() == 15


def test_quantize():
    check_quantize()


@pytest.mark.parametrize(
    "fault", [("levels[nearest] * absmax", "levels[nearest]"), ("0.9677083", "0.99"), ("argmin", "argmax")]
)
def test_quantize_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_quantize(fault)
