"""Batched rollouts: the same tokens as one-at-a-time `generate`, the right distribution."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ipr_lite import envs
from ipr_lite.chat import Chat
from ipr_lite.engine import cache as branches
from ipr_lite.engine.attention import attend_plainly
from ipr_lite.engine.cache import Branch, _Store
from ipr_lite.engine.lookup import NGrams, accepted
from ipr_lite.engine.rollouts import Rollouts
from ipr_lite.envs.base import TextEnv
from ipr_lite.make.pretrain import train_tokenizer
from ipr_lite.model import TINY_BASE, load_tokenizer
from ipr_lite.records import Task
from ipr_lite.rollout import Episode, WorldError, stable_seed
from ipr_lite.rollout import Rollouts as Plain
from ipr_lite.study import generate as plain_rollouts


class Echo(TextEnv):
    """Answers with a text that depends on all that was said; ends after `task.setup["steps"]`."""

    name, system_prompt, max_steps = "echo", "Say something.", 9

    def __init__(self):
        super().__init__()
        self.said = []

    def parse(self, message):
        return message or None

    def clone(self):
        copy = Echo()
        copy.task, copy.said = self.task, list(self.said)
        return copy

    def reset(self, *, seed=None, options=None):
        self.task, self.said = options["task"], []
        return f"Task {self.task.instruction} begins.", {"task": self.task}

    def step(self, action):
        if self.task.setup.get("raises") and len(self.said) == 1:
            raise RuntimeError("the world broke")
        self.said.append(action)
        rng = random.Random(repr(self.said))
        words = " ".join(rng.choice(["red", "blue", "[SEP]", "B01"]) for _ in range(rng.randint(1, 12)))
        done = len(self.said) >= self.task.setup["steps"]
        info = {"task": self.task, "action": action, "invalid": not action, "success": done}
        return words, float(len(words)) if done else 0.0, done, False, info


@pytest.fixture(scope="module")
def chat():
    texts = ["Thought: red blue\nAction: click[B01] [SEP] Say something. Task begins."] * 20
    return Chat(train_tokenizer(texts, 320, 4096))


@pytest.fixture(scope="module")
def model(chat):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def episodes(count, samples=1, raises=()):
    made = []
    for number in range(count):
        setup = {"steps": 1 + number % 4, "raises": number in raises}
        task = Task(f"t{number}", "echo", "test", f"number {number} " + "so " * (number % 5), setup)
        env = Echo()
        observation, _ = env.reset(options={"task": task})
        for sample in range(samples):
            seed = stable_seed(0, task.id, 1, sample)
            made.append(Episode(env.clone(), task, env.messages(observation, task), seed))
    return made


def player(model, chat, rollouts=Rollouts, **changes):
    settings = {"temperature": 0.0, "max_new_tokens": 12, "max_length": 1000, "batch_size": 5, "agent": "test"}
    return rollouts(model, chat, **(settings | changes))


def plainly(model, chat, episodes, batch_size=1, write=plain_rollouts.generate, temperature=0.0):
    """The plain way: transformers' `generate` on the whole history, turn after turn; here one episode at a time."""
    return plain_rollouts.play(
        episodes, write(model, chat, temperature, 12), chat, batch_size=batch_size, max_new_tokens=12, max_length=1000,
        agent="test",
    )  # fmt: skip


def histories(model, chat, count):
    """Episodes that begin in the middle of conversations: every prefix of some played ones, twice each."""
    made = []
    for trajectory, start in zip(player(model, chat).play(episodes(count)), episodes(count)):
        env = start.env
        for step in range((len(trajectory.messages) - 1) // 2):
            history = trajectory.messages[: 2 + 2 * step]
            seeds = [stable_seed(1, trajectory.id, step, sample) for sample in range(2)]
            made += [Episode(env.clone(), trajectory.task, history, seed) for seed in seeds]
            env.step(trajectory.messages[2 + 2 * step]["content"])
    return made


def test_greedy_batches_equal_generate_token_for_token(model, chat):
    for make in (lambda: episodes(17), lambda: histories(model, chat, 6)):
        turns = set()
        for mine, theirs in zip(player(model, chat).play(make()), plainly(model, chat, make()), strict=True):
            assert mine.messages == theirs.messages
            assert (mine.reward, mine.success, mine.extra) == (theirs.reward, theirs.success, theirs.extra)
            turns |= set(mine.actions)
        assert len(turns) > 10, "the model says the same everywhere: the comparison is empty"


@pytest.mark.parametrize("write", [plain_rollouts.generate, plain_rollouts.generate_continuously])
def test_the_plain_ways_agree_with_each_other(model, chat, write):
    one, several = plainly(model, chat, episodes(9)), plainly(model, chat, episodes(9), 4, write)
    assert [t.messages for t in one] == [t.messages for t in several]
    # At temperature 1 they draw: ever new texts from the same distribution.
    torch.manual_seed(0)
    drawn = [plainly(model, chat, episodes(9), 4, write, temperature=1.0) for _ in range(2)]
    assert [t.messages for t in drawn[0]] != [t.messages for t in drawn[1]]
    assert model.config._attn_implementation == "sdpa"


FAMILIES = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 24},
    "phi3": {"pad_token_id": 0},
    "gemma3_text": {"sliding_window": 24, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": {"sliding_window": 24, "head_dim": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "granite": {"logits_scaling": 0.2},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_of_models_equals_generate(family, chat):
    """Grouped heads, normed queries, sliding windows, capped scores, scaled logits: whatever a model adds."""
    torch.manual_seed(5)
    config = AutoConfig.for_model(
        family, vocab_size=len(chat.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.3,
        tie_word_embeddings=False, **FAMILIES[family],
    )  # fmt: skip
    attention = "eager" if family == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    played = player(model, chat).play(episodes(7))
    assert [t.messages for t in played] == [t.messages for t in plainly(model, chat, episodes(7))]
    assert model.config._attn_implementation == attention


def test_attention_written_plainly_plays_the_same(model, chat, monkeypatch):
    """What a GPU computes, where torch's fused attention for CPUs is not to be had."""
    monkeypatch.setattr(branches, "attend", attend_plainly)
    played = player(model, chat).play(episodes(9, samples=2))
    monkeypatch.undo()
    assert [t.messages for t in played] == [t.messages for t in player(model, chat).play(episodes(9, samples=2))]


@pytest.mark.parametrize("off", [{"share": False}, {"draft": False}, {"share": False, "draft": False}], ids=str)
def test_what_saves_time_changes_no_sample(model, chat, off):
    made = [lambda: episodes(6, samples=5), lambda: histories(model, chat, 8)]
    for make in made:
        fast, plain = player(model, chat, temperature=1.0), player(model, chat, temperature=1.0, **off)
        one, other = fast.play(make()), plain.play(make())
        assert [t.messages for t in one] == [t.messages for t in other]
        assert [t.reward for t in one] == [t.reward for t in other]
        assert fast.tokens_written == plain.tokens_written
        if "share" in off:
            assert fast.tokens_read < plain.tokens_read


@pytest.fixture(scope="module")
def shopper():
    """The shipped base, which writes real text: what it wrote and what is read of it are the same tokens."""
    return AutoModelForCausalLM.from_pretrained(TINY_BASE).eval(), Chat(load_tokenizer(str(TINY_BASE)))


@pytest.fixture(scope="module")
def trajectories(shopper):
    """Greedy episodes of the shipped base in the shop, four steps or longer."""
    env, made = envs.make("shop"), []
    for task in envs.tasks("shop", "dev")[:12]:
        observation, _ = env.reset(options={"task": task})
        made.append(Episode(env.clone(), task, env.messages(observation, task), 0))
    found = [t for t in in_shop(shopper).play(made) if t.steps >= 4]
    assert len(found) >= 4
    return found[:4]


def in_shop(shopper, **changes):
    return player(*shopper, **({"max_new_tokens": 60, "max_length": 2000, "batch_size": 64} | changes))


def from_every_step(trajectories, samples=1):
    """Episodes that begin before every step of some trajectories."""
    made, env = [], envs.make("shop")
    for trajectory in trajectories:
        env.reset(options={"task": trajectory.task})
        for step, action in enumerate(trajectory.actions):
            for sample in range(samples):
                seed = stable_seed(2, trajectory.id, step, sample)
                made.append(Episode(env.clone(), trajectory.task, trajectory.messages[: 2 + 2 * step], seed))
            env.step(action)
    return made


@pytest.mark.parametrize("batch_size", [1, 64])
def test_rows_that_come_to_one_history_go_on_as_one(shopper, trajectories, batch_size):
    """Greedily, what is played from the middle of an episode is the rest of it: written once for all its steps."""
    fast, plain = in_shop(shopper, batch_size=batch_size), in_shop(shopper, share=False)
    one, other = fast.play(from_every_step(trajectories)), plain.play(from_every_step(trajectories))
    assert [(t.messages, t.reward, t.extra) for t in one] == [(t.messages, t.reward, t.extra) for t in other]
    assert [t.messages for t in one] == [trajectory.messages for trajectory in trajectories for _ in trajectory.actions]
    assert fast.tokens_written == plain.tokens_written and fast.actions_taken == plain.actions_taken
    assert fast.tokens_read < plain.tokens_read / 3


@pytest.mark.parametrize("later", [1, 2])
def test_an_episode_that_stops_leaves_its_row_to_those_that_joined_it(shopper, trajectories, later):
    """Three begin at one episode's first or a later step; one of them is to stop at its first message: before another
    comes by (later = 2), or when it has joined (1)."""
    trajectory, asked = trajectories[0], []

    def stop(message):
        asked.append(message)
        return True

    for order in (1, -1):
        made = from_every_step([trajectory])
        first, second = made[0], made[later]
        made = [first, second, replace(second, env=second.env.clone(), stop=stop)]
        played = in_shop(shopper, draft=later == 1).play(made[::order])[::order]
        assert [t.messages for t in played[:2]] == [trajectory.messages] * 2
        assert played[0].extra == trajectory.extra and played[1].extra["tokens"] < trajectory.extra["tokens"]
        assert played[2].extra["stopped"] and played[2].messages == trajectory.messages[: 3 + 2 * later]
    assert asked == [trajectory.actions[later]] * 2


def test_samples_that_follow_a_demonstration_to_the_letter_read_none_of_its_answers(shopper, trajectories):
    cold = {"temperature": 0.001, "draft": False}
    fast, plain = in_shop(shopper, **cold), in_shop(shopper, **cold, share=False)
    played = fast.play(from_every_step(trajectories[:1], samples=2))
    assert [t.messages for t in played] == [
        t.messages for t in plain.play(from_every_step(trajectories[:1], samples=2))
    ]
    assert all(t.messages == trajectories[0].messages for t in played)
    chat, messages = shopper[1], trajectories[0].messages
    shared = len(chat.prompt(messages[: 2 * trajectories[0].steps]))
    # Beyond what is shared, each of the steps (two samples are one row) reads its own first token and what it writes.
    written = sum(t.extra["tokens"] for t in played) // 2
    assert shared < fast.tokens_read <= shared + written + trajectories[0].steps


def test_drafts_that_come_true_save_passes(model, chat):
    """A model that has been here before: played again, its messages are drafted."""
    first = player(model, chat)
    first.play(episodes(5))
    passes = []
    for draft in (True, False):
        again = player(model, chat, draft=draft, batch_size=1)
        assert [t.messages for t in again.play(episodes(5) + episodes(5))] == 2 * [t.messages for t in first.finished]
        passes.append(again.passes)
    assert passes[0] < 0.75 * passes[1]


def test_a_draft_is_kept_as_far_as_each_sample_draws_it():
    chosen = [[7, 7, 7, 5], [8, 8, 2, 9], [4, 3, 0, 0]]
    found = accepted([7, 8], chosen, range(4))
    assert found == [([3], [5]), ([2], [7, 2]), ([0], [7, 8, 4]), ([1], [7, 8, 3])]
    assert accepted([], [[6, 6]], range(2)) == [([0, 1], [6])]


def test_n_grams_remember_the_longest_context_and_stop_before_the_end():
    ngrams = NGrams()
    ngrams.learn([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 10)
    ngrams.learn([0, 0, 7, 8, 11], 5)
    assert ngrams.draft([20, 7, 8], 5, end=99) == [11]
    assert ngrams.draft([2, 3, 4, 5, 6, 7, 8], 5, end=99) == [9, 10]  # four equal tokens weigh more than two
    ngrams.learn([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 2)
    assert ngrams.draft([1, 2, 3, 4, 5, 6, 7, 8], 5, end=99) == [9, 10]
    assert ngrams.draft([1, 2, 3, 4, 5, 6, 7, 8], 5, end=10) == [9]
    assert ngrams.draft([20, 21], 5, end=99) == []


def test_a_sample_can_be_replayed_alone(model, chat):
    together = player(model, chat, temperature=1.0).play(episodes(4, samples=6))
    alone = player(model, chat, temperature=1.0).play([episodes(4, samples=6)[13]])
    assert alone[0].messages == together[13].messages


def test_the_batch_size_does_not_change_what_is_sampled(model, chat):
    texts = []
    for size in (1, 4, 64):
        played = player(model, chat, temperature=1.0, batch_size=size).play(episodes(6, samples=4))
        texts.append([t.messages for t in played])
    assert texts[0] == texts[1] == texts[2]
    actions = {repr(t[2]) for t in texts[0]}
    assert len(actions) > 12, "samples of one task should differ"


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("settings", [{}, {"draft": False}, {"share": False}], ids=str)
def test_sampling_has_the_models_distribution(model, chat, settings, temperature):
    """Frequencies of messages of two tokens (at 1, where few come twice, of first tokens) at one history against
    the model's own probabilities."""
    n = 4000
    start = episodes(1)[0]
    many = [Episode(start.env.clone(), start.task, start.messages, seed) for seed in range(n)]
    length = 1 if temperature == 1 else 2
    played = player(model, chat, temperature=temperature, max_new_tokens=length, batch_size=200, **settings).play(many)

    def probabilities(ids):
        with torch.no_grad():
            return (model(torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1)

    expected, prompt = {}, chat.prompt(start.messages)
    written = {(token,): p for token, p in enumerate(probabilities(prompt).tolist())}
    if length == 2:
        likely = [token for token, p in written.items() if n * p > 8 and token != (chat.end,)]
        written = {
            (*one, two): written[one] * p
            for one in likely
            for two, p in enumerate(probabilities([*prompt, *one]).tolist())
        }
    for ids, p in written.items():
        text = chat.text([token for token in ids if token != chat.end])
        # A byte that is no character by itself cannot be told from its text.
        if n * p > 8 and chat.end not in ids and chat.content(text) == list(ids):
            expected[text] = n * p
    assert len(expected) > 20
    counts = Counter(trajectory.actions[0] for trajectory in played)
    chi_square = sum((counts[text] - count) ** 2 / count for text, count in expected.items())
    # Mean len(expected), standard deviation sqrt(2 len(expected)): five of them above is an error.
    assert chi_square < len(expected) + 5 * (2 * len(expected)) ** 0.5


@pytest.mark.parametrize("rollouts", [Rollouts, Plain])
def test_a_world_that_raises_is_an_error_and_no_reward_of_0(rollouts, model, chat):
    with pytest.raises(
        WorldError, match=r"the world 'echo' failed in task t3, step 2, .*RuntimeError: the world broke"
    ):
        player(model, chat, rollouts=rollouts).play(episodes(8, raises=(3,)))


def test_what_does_not_fit_is_counted_and_scores_nothing(model, chat):
    played = player(model, chat, max_length=70).play(episodes(8))
    assert any(t.extra.get("overflow") for t in played)
    assert all(t.reward == 0.0 for t in played if t.extra.get("overflow"))
    assert any(not t.extra.get("overflow") for t in played)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("more", [{}, {"max_length": 70}])
def test_the_plain_rollouts_play_the_same(model, chat, temperature, more):
    """Token for token, sampled too: each token is decided by the episode's next uniform number; the counts as well."""
    both = [player(model, chat, rollouts, temperature=temperature, **more) for rollouts in (Plain, Rollouts)]
    plain, fast = (one.play(episodes(9, samples=2)) for one in both)
    assert [t.to_record() for t in plain] == [t.to_record() for t in fast]
    assert len({(one.actions_taken, one.tokens_written, one.overflowed) for one in both}) == 1
    assert both[0].overflowed == sum(t.extra.get("overflow", False) for t in plain)


def test_no_episode_and_one_episode(model, chat):
    assert player(model, chat).play([]) == []
    one = player(model, chat).play(episodes(1))
    assert len(one) == 1 and one[0].steps == 1 and one[0].extra["terminated"]


def test_a_branch_that_holds_nothing_yet_may_take_over_a_slot():
    store, held = _Store(8, 99), torch.ones(1, 8, 4)
    first, second, empty = Branch(), Branch(), Branch()
    for branch in (first, second):
        store.add(branch)
        for tensor in store.layer(0, held, held):
            tensor[branch.slot, :, :3] = 1 + branch.slot
        branch.length = 3
    while len(store.branches) < 16:
        store.add(Branch())
    store.add(empty)  # the tensors have 16 slots, this is the 17th
    store.free(first.slot)
    assert empty.slot == 0 and store.branches[0] is empty
    store.free(empty.slot)
    assert [store.layer(0, held, held)[0][second.slot, 0, 0, 0], second.slot] == [2, 1]
