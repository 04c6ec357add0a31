"""What a notebook writes out is what the package does; a fault put into either shows."""

import ast
import json
import random
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F

from ipr_lite import losses
from ipr_lite.envs.sql_reward import answer_reward, tau_b
from ipr_lite.pairs import Exploration, PairRule, empty_counts, outcome_pairs, step_pairs
from ipr_lite.records import StepReward
from ipr_lite.rollout import stable_seed
from ipr_lite.step_reward import ScoredStep, monte_carlo
from ipr_lite.trajectory import Task, Trajectory

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def functions(notebook: str, *names: str, fault: tuple[str, str] | None = None, **known) -> types.SimpleNamespace:
    """The functions of a notebook, nothing else of it run; `fault` replaces one text in them."""
    book = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))
    trees = [ast.parse("".join(c["source"])) for c in book["cells"] if c["cell_type"] == "code"]
    found = {n.name: n for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef)}
    missing = set(names) - set(found)
    assert not missing, f"{notebook} no longer defines {missing}"
    source = "\n\n".join(ast.unparse(found[name]) for name in names)
    if fault:
        assert source.count(fault[0]) == 1, f"{fault[0]!r} must stand once in {names}"
        source = source.replace(*fault)
    space = {"torch": torch, "F": F, **known}
    exec(source, space)
    return types.SimpleNamespace(**{name: space[name] for name in names})


# --- 02: the masked log-likelihood ------------------------------------------------------------------


def check_agent_logps(fault=None, name="agent_logps"):
    mine = getattr(functions("02_imitate.ipynb", name, fault=fault), name)
    torch.manual_seed(0)
    for batch, length, vocabulary in [(1, 2, 2), (4, 9, 7), (3, 30, 50)]:
        logits = torch.randn(batch, length, vocabulary) * 3
        ids = torch.randint(vocabulary, (batch, length))
        mask = torch.randint(2, (batch, length))
        torch.testing.assert_close(mine(logits, ids, mask), losses.agent_logps(logits, ids, mask))


@pytest.mark.parametrize("name", ["agent_logps", "agent_logps_draft"])
def test_agent_logps(name):
    check_agent_logps(name=name)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("agent_logps", ("logits[:, :-1]", "logits[:, 1:]")),
        ("agent_logps", ("mask[:, 1:]", "mask[:, :-1]")),
        ("agent_logps", ("~written_by_agent", "written_by_agent")),
        ("agent_logps_draft", ("logits[row, i - 1]", "logits[row, i]")),
        ("agent_logps_draft", ("range(1, input_ids.shape[1])", "range(1, input_ids.shape[1] - 1)")),
    ],
)
def test_agent_logps_check_sees_a_fault(name, fault):
    with pytest.raises(AssertionError):
        check_agent_logps(fault, name)


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
        step = ScoredStep(task, 3, "agent", "a", "o", Walk(left), history, False, 0.0)
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


# --- 07: the pair rule and the loss -----------------------------------------------------------------


def trajectory(task, reward, *actions):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "o"}]
    for action in actions:
        messages += [{"role": "assistant", "content": action}, {"role": "user", "content": "o"}]
    return Trajectory(task, messages[:-1], reward, False, "a")


def reward_of(task, step, who, value, outcome):
    return StepReward(task.id, step, "a", "o", who, value, 0, [], outcome, True)


def winner_of(pairs):
    if not pairs:
        return None
    return "expert" if pairs[0].chosen[-1]["content"].startswith("expert") else "agent"


def check_pair_winner(fault=None):
    mine = functions("07_train_a_round.ipynb", "pair_winner", fault=fault).pair_winner
    rng, rule = random.Random(0), PairRule(tau_step=0.1, tau_outcome=0.3)
    taus = {"tau_step": 0.1, "tau_outcome": 0.3}
    seen = set()
    for number in range(400):
        task = Task(f"t{number}", "shop", "train", "buy")
        outcomes = [rng.choice((0.0, 0.25, 0.5, 1.0)) for _ in range(2)]
        values = [rng.choice((0.0, 0.05, 0.25, 0.3, 0.5, 1.0)) for _ in range(2)]
        expert, agent = (
            trajectory(task, outcome, f"{who} 1", f"{who} 2") for who, outcome in zip(("expert", "agent"), outcomes)
        )
        theirs = winner_of(outcome_pairs([expert], [Exploration(1, agent)], rule, empty_counts()))
        assert mine(*outcomes, **taus) == theirs
        theirs = None
        if abs(outcomes[0] - outcomes[1]) > rule.tau_outcome:  # `contrasts` lets no other through
            rewards = [reward_of(task, 2, who, v, o) for who, v, o in zip(("expert", "agent"), values, outcomes)]
            theirs = winner_of(step_pairs([(expert, Exploration(2, agent))], rewards, rule, empty_counts()))
        assert mine(*outcomes, *values, **taus) == theirs
        seen.add(theirs)
    assert seen == {"expert", "agent", None}


def test_pair_winner():
    check_pair_winner()


@pytest.mark.parametrize(
    "fault",
    [
        ("<= tau_outcome", "<= tau_step"),
        ("agent_outcome > expert_outcome", "agent_outcome < expert_outcome"),
        ("gain > tau_step", "gain > 0"),
        ("gain < -tau_step", "gain < tau_step"),
        ("winner if agreed else None", "winner"),
    ],
)
def test_pair_winner_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_pair_winner(fault)


def check_ipr_loss(fault=None):
    mine = functions("07_train_a_round.ipynb", "dpo_loss", "ipr_loss", fault=fault).ipr_loss
    generator = torch.Generator().manual_seed(0)
    for outcomes in ([1, 0, 1, 0, 0, 1, 0], [1, 1, 1], [0, 0]):
        is_outcome = torch.tensor(outcomes, dtype=torch.bool)
        logps = [torch.randn(len(outcomes), generator=generator) * 5 for _ in range(4)]
        tokens = torch.randint(5, 40, (len(outcomes),), generator=generator)
        for policy in logps[:2]:
            policy.requires_grad_()
        options = {"beta": 0.3, "w_outcome": 0.5, "w_step": 2.0, "w_sft": 0.7}
        ours = mine(*logps, is_outcome, tokens, **options)
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
        ("chosen_tokens[is_outcome].sum()", "len(chosen_tokens)"),
        ("w_step * step", "w_outcome * step"),
    ],
)
def test_ipr_loss_check_sees_a_fault(fault):
    with pytest.raises(AssertionError):
        check_ipr_loss(fault)


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
