"""Search with a judge: beams against a tree worked out by hand, hindsight against the worlds' own rewards."""

import itertools
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ipr_lite import checks, envs
from ipr_lite.config import Config
from ipr_lite.envs.base import TextEnv
from ipr_lite.envs.shop.reward import purchase_reward
from ipr_lite.methods import armap, beam, orps
from ipr_lite.records import Task, Trajectory
from ipr_lite.rollout import Episode
from ipr_lite.study import search

TASK = Task("t", "tree", "test", "go")


class Tree(TextEnv):
    """Two actions, "a" and "b", three deep at most; "aa" and "ba" end the episode, with the rewards 0.2 and 1."""

    name, max_steps = "tree", 3
    ends = {"aa": 0.2, "ba": 1.0}

    def __init__(self):
        super().__init__()
        self.path = ""

    def parse(self, message):
        return message[-1] if message[-1] in "ab" else None

    def step(self, action):
        self.path += self.parse(action) or "?"
        over = self.path in self.ends
        reward = self.ends.get(self.path, 0.0)
        info = {"invalid": "?" in action, "success": reward == 1.0}
        return self.path, reward, over, not over and len(self.path) == self.max_steps, info

    def clone(self):
        other = Tree()
        other.path = self.path
        return other


class Scripted:
    """Writes "a", "b", "a", ... in turn, whoever asks."""

    def __init__(self):
        self.actions_taken = self.tokens_written = 0
        self.words = itertools.cycle("ab")

    def play(self, episodes, progress=None):
        self.actions_taken += len(episodes)
        self.tokens_written += 3 * len(episodes)
        written = []
        for e in episodes:
            message = {"role": "assistant", "content": f"Action: {next(self.words)}"}
            written.append(Trajectory(e.task, [*e.messages, message], 0.0, False, "x", e.seed, {"stopped": True}))
        return written


def searched(values, width):
    """The beam's answer on the tree, for a judge that says these values of the paths; what was judged, in order."""
    player, seen = Scripted(), []

    def judge(run, nodes):
        paths = [node.env.path for node in nodes]
        seen.extend(paths)
        return [values[path] for path in paths]

    start = [{"role": "system", "content": "s"}, {"role": "user", "content": "go"}]
    run = SimpleNamespace(
        config=Config(), sft=dict, player=lambda *_: player, bar=lambda what: None,
        start=lambda task, seed: Episode(Tree(), task, start, seed),
    )  # fmt: skip
    found, spent = beam.search(run, [TASK], "x", judge, width, branch=2)
    return [action[-1] for action in found[0].actions], found[0].reward, seen, spent.actions_taken


def test_a_narrow_beam_follows_the_judge_and_a_wide_one_survives_its_error():
    """The judge likes "a" better than "b" at first, wrongly: what ends under it is worth 0.2, under "b" 1."""
    values = {"a": 0.6, "b": 0.5, "aa": 0.2, "ab": 0.3, "ba": 0.9, "bb": 0.1, "aba": 0.0, "abb": 0.0}
    # Width 1: "a" alone goes on; "aa" ends with .2; "ab" promises more and is cut off after its third action.
    assert searched(values, 1) == (["a", "a"], 0.2, ["a", "b", "aa", "ab"], 6)
    # Width 2: all are tried; "ba" ends with .9, and nothing promises more.
    assert searched(values, 2) == (["b", "a"], 1.0, ["a", "b", "aa", "ab", "ba", "bb"], 6)


def test_the_judge_decides_and_not_the_reward():
    values = {"a": 0.6, "b": 0.5, "aa": 0.8, "ab": 0.3, "ba": 0.1, "bb": 0.1}
    assert searched(values, 2)[:2] == (["a", "a"], 0.2)


def test_an_episode_that_nobody_ended_is_no_answer():
    """Everything that goes on is liked better, so that "aa" and "ba" are left and the cap comes; they are still there."""
    values = {"a": 0.1, "b": 0.9, "ba": 0.2, "bb": 0.9, "bba": 1.0, "bbb": 1.0}
    assert searched(values, 1)[:2] == (["b", "a"], 1.0)
    never = values | {"ba": -math.inf}
    assert searched(never, 1)[:2] == ([], 0.0)


def test_equal_actions_are_tried_once_and_what_is_refused_is_counted():
    node = beam.Node(TASK, Tree(), [{"role": "system", "content": "s"}, {"role": "user", "content": "go"}])

    def wrote(*texts):
        messages = [[*node.messages, {"role": "assistant", "content": text}] for text in texts]
        return [Trajectory(TASK, m, 0.0, False, "x") for m in messages]

    found = beam.children(node, wrote("First a", "Then a", "What?", "Or b"))
    assert [child.env.path for child in found] == ["a", "?", "b"] and node.env.path == ""
    assert [child.invalid for child in found] == [0, 1, 0] and found[0].messages[2]["content"] == "First a"
    full = [replace(t, extra={"overflow": True}) for t in wrote("a")]
    assert beam.children(node, full) == []


# --- ORPS -----------------------------------------------------------------------------------------


def asked(*messages):
    roles = itertools.cycle(("assistant", "user"))
    start = [{"role": "system", "content": "s"}, {"role": "user", "content": "How many?"}]
    said = [{"role": role, "content": text} for role, text in zip(roles, messages, strict=False)]
    return beam.Node(Task("q", "sql", "test", "How many?"), None, start + said)


@pytest.mark.parametrize(
    ("answer", "outcome"), [("[(3,)]", 1.0), ("[]", 0.5), ("Error executing query: no such table", 0.0)]
)
def test_what_a_query_shows(answer, outcome, monkeypatch):
    node = asked("Action: \n```sql\nSELECT 1\n```", f"Observation: {answer}")
    submitted = asked("Action: \n```sql\nSELECT 1\n```", f"Observation: {answer}", "Action: submit")
    assert orps.executed(node) == orps.executed(submitted) == outcome
    monkeypatch.setattr(orps, "by_the_model", lambda run, nodes: [0.4, 1.7])
    assert orps.half_and_half(None, [node, submitted]) == pytest.approx([(0.4 + outcome) / 2, (1 + outcome) / 2])


def test_the_database_says_what_orps_reads():
    """The three answers come from the real world, in its own words."""
    env = envs.make("sql")
    task = envs.tasks("sql", "dev")[0]
    table = env.databases[task.setup["db"]].query("SHOW TABLES")[0][0]
    for query, outcome in (
        (f"SELECT * FROM {table}", 1.0),
        (f"SELECT * FROM {table} WHERE 1 = 2", 0.5),
        ("SELECT FROM", 0.0),
    ):
        env.reset(options={"task": task})
        message = env.message(query)
        observation, *_ = env.step(message)
        assert orps.executed(replace(asked(message, observation), task=task)) == outcome
    env.reset(options={"task": task})
    observation, *_ = env.step("I would rather not.")
    assert orps.executed(replace(asked("I would rather not.", observation), task=task)) == 0.0


def test_orps_needs_queries():
    with pytest.raises(ValueError, match="orps executes queries; the world 'shop' has none: --env sql"):
        orps.executed(replace(asked("a", "b"), task=Task("q", "shop", "test", "buy")))


# --- ARMAP ----------------------------------------------------------------------------------------


def careful(world, n):
    """Episodes of a careful person, each with the world as it left it."""
    env, people = envs.make(world), envs.people_of(world)
    for t in people.demonstrations(envs.tasks(world, "train")[:n], env, people.careful, 0, keep=-math.inf):
        after = env.clone()
        after.reset(options={"task": t.task})
        for action in t.actions:
            after.step(action)
        yield t, after


def test_a_rewritten_instruction_asks_for_what_was_bought():
    """By the shop's own rule: the purchase is perfect for the goal that the new text states, word for word."""
    hindsight, seen = envs.world("shop").hindsight, 0
    for t, shop in careful("shop", 40):
        product, chosen = shop.purchase()
        if product is None:
            continue
        text = hindsight(shop, t.task, random.Random(0))
        limit = float(text.split("lower than ")[1].split(" dollars")[0])
        goal = t.task.setup | {
            "query": product.query, "product_category": product.product_category, "name": product.title,
            "attributes": list(product.attributes[:1]), "goal_options": list(chosen.values()), "price_upper": limit,
        }  # fmt: skip
        assert purchase_reward(product, goal, product.price, chosen)[0] == 1.0
        assert (
            all(value in text for value in chosen.values()) and product.attributes[0] in text and product.query in text
        )
        seen += 1
    assert seen > 30


def test_a_rewritten_errand_is_the_one_that_was_done():
    """Where the household's own game is won, hindsight asks for the same thing in the same place, treated alike."""
    hindsight, kinds = envs.world("house").hindsight, set()
    for t, house in careful("house", 36):
        if not t.success:
            continue
        words = {hindsight(house, t.task, random.Random(seed)) for seed in range(8)}
        assert t.task.instruction in words, (t.task.instruction, words)
        kinds.add(t.task.setup["type"])
    assert len(kinds) == 6


def test_nothing_done_is_nothing_to_ask_for():
    for world in ("shop", "house"):
        env, task = envs.make(world), envs.tasks(world, "train")[0]
        env.reset(options={"task": task})
        assert envs.world(world).hindsight(env, task, random.Random(0)) is None


def test_pairs_by_hindsight():
    """Two people shop for the same; each is asked for what they bought, against the other."""
    env, people = envs.make("shop"), envs.people_of("shop")
    tasks = envs.tasks("shop", "train")[:12]
    played = people.demonstrations(tasks, env, people.careful, 0, keep=-math.inf)
    played += people.demonstrations(tasks, env, people.habitual, 1, keep=-math.inf)
    run = SimpleNamespace(config=Config(), env=env)
    pairs = armap.hindsight_pairs(run, played)
    assert pairs
    for better, worse in pairs:
        pages = [m["content"] for m in better + worse if m["role"] == "user"]
        said = {page.split("Instruction: [SEP] ")[1].split(" [SEP]")[0] for page in pages if "Instruction:" in page}
        assert len(said) == 1 and not said & {task.instruction for task in tasks}
        assert [m["content"] for m in better if m["role"] == "assistant"] != [
            m["content"] for m in worse if m["role"] == "assistant"
        ]
    same = [t for t in played if t.agent == "careful"]
    assert armap.hindsight_pairs(run, same + same) == []


def test_armap_needs_a_rule():
    with pytest.raises(ValueError, match="armap rewrites instructions, and the world 'sql' has no rule for it"):
        armap.hindsight_pairs(SimpleNamespace(config=Config(env="sql")), [])


def test_the_ranking_loss_by_hand():
    """s+ = 2, s- = 1: -log sigmoid(1) + .001 * 9; only the last actions count."""
    better = torch.tensor([7.0, 2.0], requires_grad=True)
    loss = armap.rank([better, torch.tensor([1.0])])
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) + 0.009, abs=1e-6)
    loss.backward()
    assert better.grad.tolist() == pytest.approx([0.0, -1 / (1 + math.e) + 0.006], abs=1e-6)


# --- the curve ------------------------------------------------------------------------------------


def test_the_best_of_n_over_all_choices():
    """Against every choice written out."""
    rng = random.Random(0)
    for size in (1, 3, 6):
        scores, rewards = [rng.random() for _ in range(size)], [rng.random() for _ in range(size)]
        for n in range(1, size + 1):
            every = itertools.combinations(range(size), n)
            chosen = [rewards[max(some, key=scores.__getitem__)] for some in every]
            assert search.chosen_of_n(scores, rewards, n) == pytest.approx(sum(chosen) / len(chosen))


def test_the_curve_counts_by_task():
    def episode(task, reward, steps):
        said = [{"role": "user", "content": "o"}, {"role": "assistant", "content": "a"}] * steps
        return Trajectory(
            Task(task, "toy", "test", "go"), [{"role": "system", "content": "s"}, *said], reward, False, "x"
        )

    played = [episode("p", 0.0, 1), episode("p", 1.0, 3), episode("q", 0.5, 2), episode("q", 0.5, 2)]
    assert search.best_of(played, [1.0, 2.0, 0.0, 0.0], 1) == (2.0, 0.5)
    assert search.best_of(played, [1.0, 2.0, 0.0, 0.0], 2) == (4.0, 0.75)
    assert search.best_of(played, [2.0, 1.0, 0.0, 0.0], 2) == (4.0, 0.25)


# --- the exercises of chapter 13 ------------------------------------------------------------------


def by_all_choices(scores, rewards, n):
    every = list(itertools.combinations(range(len(scores)), n))
    return sum(rewards[max(some, key=scores.__getitem__)] for some in every) / len(every)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda s, r, n: sum(map(max, itertools.combinations(r, n))) / math.comb(len(r), n), "an oracle"),
        (lambda s, r, n: sum(map(max, itertools.combinations(s, n))) / math.comb(len(s), n), "the best scores"),
        (lambda s, r, n: r[max(range(n), key=s.__getitem__)], "the first 2 alone"),
        (lambda s, r, n: 7.0, "choices of 2"),
    ],
)
def test_a_wrong_best_of_n_is_told_why(wrong, says, capsys):
    with pytest.raises(checks.WrongAnswer, match=says):
        checks.chosen_of_n(wrong)
    checks.chosen_of_n(by_all_choices)
    assert "right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda b, w: F.logsigmoid(b - w) - 0.001 * (b + w) ** 2, "the sign"),
        (lambda b, w: -F.logsigmoid(w - b) + 0.001 * (b + w) ** 2, "the wrong order"),
        (lambda b, w: -F.logsigmoid(b - w), "the second term"),
        (lambda b, w: b - w, "gives"),
    ],
)
def test_a_wrong_ranking_loss_is_told_why(wrong, says, capsys):
    with pytest.raises(checks.WrongAnswer, match=says):
        checks.ranking_loss(wrong)
    checks.ranking_loss(lambda b, w: -F.logsigmoid(b - w) + 0.001 * (b + w) ** 2)
    assert "right" in capsys.readouterr().out
