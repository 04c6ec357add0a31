"""The trainers against losses.py, against TRL's own loss, and against what they must leave alone."""

import math
import random
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_families import folder_of
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOTrainer
from trl.trainer import utils as trl_head
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ipr_lite import train
from ipr_lite.batches import plan_batches
from ipr_lite.chat import Encoded, EncodedPair
from ipr_lite.engine import trl
from ipr_lite.engine.shared_prompt import Piece, cut, reading
from ipr_lite.engine.trl import AgentTokenCollator, PreferenceTrainer
from ipr_lite.losses import agent_logps, ipr_loss
from ipr_lite.model import load_base, load_tokenizer
from ipr_lite.train import PreferenceSettings, TrainSettings, health, sides

VOCABULARY = 100
LORA = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
LN2 = math.log(2)

# peft and TRL's unmodified loss still ask transformers 5 by this name; it says nothing about our code.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def tokenizer():
    words = {f"w{i}": i for i in range(VOCABULARY - 2)} | {"<pad>": VOCABULARY - 2, "<eos>": VOCABULARY - 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), pad_token="<pad>", eos_token="<eos>"
    )


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        initializer_range=0.2,
        max_position_embeddings=256,
        pad_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["full", "nf4"])
def precision(request):
    return request.param


@pytest.fixture(params=[train, trl], ids=["plain", "trl"])
def training(request):
    """The module that trains: both keep the same promises."""
    return request.param


@pytest.fixture
def policy(base_folder):
    return make_policy(base_folder, "full")


def make_policy(folder, precision: str, seed: int = 0):
    """A policy whose adapters "default" and "sft" are equal and not zero."""
    base = load_base(str(folder), precision)
    torch.manual_seed(0)  # LoRA draws its first weights
    policy = get_peft_model(base, replace(LORA))
    policy.add_adapter("sft", replace(LORA))
    shake(policy, "sft", seed)
    copy(policy, "sft", "default")
    return policy.eval()


def shake(policy, adapter: str, seed: int, by: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.named_parameters():
        if f".{adapter}." in name:
            weight.data += by * torch.randn(weight.shape, generator=generator)


def copy(policy, source: str, target: str) -> None:
    for name, weight in policy.named_parameters():
        if f".{source}." in name:
            policy.get_parameter(name.replace(f".{source}.", f".{target}.")).data.copy_(weight.data)


def snapshot(policy, adapter: str | None = None) -> dict[str, bytes]:
    """The bytes of an adapter's weights, or of everything that belongs to no adapter."""
    return {
        name: w.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, w in policy.named_parameters()
        if (f".{adapter}." in name if adapter else "lora_" not in name)
    }


def turns(rng: random.Random, n: int, start: int) -> list[int]:
    """A mask of n tokens: `start` 0s, then runs of agent tokens and of observations."""
    mask = [0] * start
    while len(mask) < n:
        mask += [1] * rng.randint(2, 4) + [0] * rng.randint(1, 4)
    return mask[:n]


def demonstrations(n: int = 12, seed: int = 0, stretch: int = 1) -> list[Encoded]:
    rng = random.Random(seed)
    lengths = [stretch * rng.randint(10, 30) for _ in range(n)]
    return [Encoded([rng.randrange(VOCABULARY - 2) for _ in range(k)], turns(rng, k, 3)) for k in lengths]


def preference_pairs(outcome: int = 3, step: int = 9, seed: int = 0, stretch: int = 1) -> list[EncodedPair]:
    rng = random.Random(seed)

    def ids(n):
        return [rng.randrange(VOCABULARY - 2) for _ in range(n)]

    pairs = []
    for k in range(outcome + step):
        chosen, rejected = (ids(stretch * rng.randint(5, 16)) for _ in range(2))
        pairs.append(
            EncodedPair(
                ids(stretch * rng.randint(3, 12)),
                chosen,
                rejected,
                turns(rng, len(chosen), 0),
                turns(rng, len(rejected), 0),
                "outcome" if k < outcome else "step",
            )
        )
    return pairs


def plain_logps(policy, adapter: str, pairs: list[EncodedPair]) -> list[list[float]]:
    """[chosen, rejected] log-probabilities, one sequence at a time, from plain logits: no TRL, no padding."""
    policy.set_adapter(adapter)
    found = []
    for side in ("chosen", "rejected"):
        found.append([])
        for p in pairs:
            ids = torch.tensor([p.prompt_ids + getattr(p, f"{side}_ids")])
            mask = torch.tensor([[0] * len(p.prompt_ids) + getattr(p, f"{side}_mask")])
            with torch.no_grad():
                found[-1].append(agent_logps(policy(input_ids=ids).logits, ids, mask).item())
    policy.set_adapter("default")
    return found


def expected_loss(policy, pairs, settings) -> float:
    """losses.py over the whole set, from plain logits."""
    sides = plain_logps(policy, "default", pairs) + plain_logps(policy, "sft", pairs)
    kinds = torch.tensor([p.kind == "outcome" for p in pairs])
    tokens, others = (
        torch.tensor([sum(mask) for mask in m]) for m in zip(*((p.chosen_mask, p.rejected_mask) for p in pairs))
    )
    s = settings
    return ipr_loss(
        *map(torch.tensor, sides), kinds, tokens, s.beta, s.w_outcome, s.w_step, s.w_sft, s.sft_on, s.sft_per,
        rejected_tokens=others, ratio_per=s.ratio_per,
    ).total.item()  # fmt: skip


@contextmanager
def trl_trainer(policy, tokenizer, pairs, settings):
    """TRL's trainer as `train_preferences` makes it, and the batch of its first update."""
    with trl._lent_to_trl(policy, settings), TemporaryDirectory() as folder:
        trainer = PreferenceTrainer(policy, tokenizer, pairs, settings, folder)
        size = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
        yield trainer, trainer.data_collator([trainer.train_dataset[i] for i in range(size)])


# --- what carries loss -----------------------------------------------------------------------------------------------


def hidden_gradient(policy, work) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Rows that the model reads in this work, and the gradients on the hidden states that its LM head reads."""
    model, read, kept = policy.get_base_model().model, [], []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    handles = [
        model.embed_tokens.register_forward_hook(lambda module, inputs, output: read.extend(inputs[0].tolist())),
        model.norm.register_forward_hook(keep),
    ]
    work()
    for handle in handles:
        handle.remove()
    return read, [row for states in kept for row in states.grad]


def check_only_agent_tokens(gradient: list[torch.Tensor], masks: list[list[int]]) -> None:
    """Position i carries what predicts token i + 1."""
    for row, mask in zip(gradient, masks, strict=True):
        predicts_agent = mask[1:] + [0] * (row.size(0) - len(mask) + 1)
        assert [bool(x.abs().max() > 0) for x in row] == [bool(m) for m in predicts_agent]


def test_sft_gradient_reaches_agent_tokens_only(training, policy, tokenizer):
    examples = demonstrations(4, seed=1)  # which begin with different tokens
    settings = TrainSettings(batch_size=4, max_steps=1)
    read, gradient = hidden_gradient(policy, lambda: training.train_sft(policy, tokenizer, examples, settings))
    masks = []
    for row in read:
        row, mask = [token for token in row if token != tokenizer.pad_token_id], []
        while len(mask) < len(row):  # several examples may be read one after the other
            rest = row[len(mask) :]
            mask += next(e.agent_mask for e in examples if rest[: len(e.input_ids)] == e.input_ids)
        masks.append(mask)
    assert sum(map(len, masks)) == sum(len(e.input_ids) for e in examples)
    check_only_agent_tokens(gradient, masks)
    with pytest.raises(AssertionError):  # the check sees a mask of all ones
        check_only_agent_tokens(gradient, [[1] * len(m) for m in masks])


def preference_gradient_check(policy, tokenizer):
    pairs = preference_pairs(2, 3)
    with trl_trainer(policy, tokenizer, pairs, PreferenceSettings(sft_on="all_winners")) as (trainer, batch):
        work = lambda: trainer._compute_loss(trainer.model, batch, False).backward()  # noqa: E731
        read, gradient = hidden_gradient(policy, work)
    mask_of = {tuple(side.input_ids): side.agent_mask for pair in pairs for side in sides(pair)}
    masks = [mask_of[tuple(t for t in row if t != tokenizer.pad_token_id)] for row in read]
    check_only_agent_tokens(gradient, masks)


def test_preference_gradient_reaches_agent_tokens_only(policy, tokenizer):
    preference_gradient_check(policy, tokenizer)


def test_preference_gradient_check_sees_the_missing_mask(policy, tokenizer, monkeypatch):
    def unmasked(self, examples):
        batch = DataCollatorForPreference.torch_call(self, examples)
        return batch | {"is_outcome": torch.tensor([e["is_outcome"] for e in examples])}

    monkeypatch.setattr(AgentTokenCollator, "torch_call", unmasked)
    with pytest.raises(AssertionError):
        preference_gradient_check(policy, tokenizer)


def test_sft_loss_is_the_mean_over_the_batch_s_agent_tokens(training, policy, tokenizer):
    examples = demonstrations(6)
    total, tokens = 0.0, 0
    for e in examples:
        ids, mask = torch.tensor([e.input_ids]), torch.tensor([e.agent_mask])
        with torch.no_grad():
            total -= agent_logps(policy(input_ids=ids).logits, ids, mask).item()
        tokens += sum(e.agent_mask)
    for micro in (6, 2):
        rows = training.train_sft(policy, tokenizer, examples, TrainSettings(max_steps=1, micro_batch_size=micro))
        assert rows[0]["loss"] == pytest.approx(total / tokens, abs=1e-5)
        assert rows[0]["tokens"] == sum(len(e.input_ids) for e in examples)


# --- the loss, against losses.py and against TRL ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sft_on": "all_winners"},
        {"sft_per": "sequence", "w_sft": 0.1},
        {"w_outcome": 2.0, "w_step": 0.5, "beta": 0.4},
        {"ratio_per": "token", "beta": 5.0},
    ],
)
def test_first_loss_equals_losses_py(training, policy, tokenizer, precision, base_folder, options):
    policy = make_policy(base_folder, precision)
    shake(policy, "default", 7)
    pairs, settings = preference_pairs(), PreferenceSettings(updates=1, **options)
    expected = expected_loss(policy, pairs, settings)
    rows = training.train_preferences(policy, tokenizer, pairs, settings)
    assert rows[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"sft_on": "all_winners", "sft_per": "sequence"}])
def test_batches_of_one_pass_average_to_losses_py(training, policy, tokenizer, options):
    """4 outcome and 12 step pairs in 4 batches of 1 + 3; at rate 0 every batch sees the same policy."""
    shake(policy, "default", 7)
    pairs = preference_pairs(4, 12)
    settings = PreferenceSettings(updates=4, batch_size=4, learning_rate=0.0, **options)
    rows = training.train_preferences(policy, tokenizer, pairs, settings)
    expected = expected_loss(policy, pairs, settings)
    assert sum(r["loss"] for r in rows) / 4 == pytest.approx(expected, rel=1e-5)
    assert any(abs(r["loss"] - expected) > 1e-2 for r in rows)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("ratio_per, theirs", [("sequence", "sigmoid"), ("token", "sigmoid_norm")])
def test_loss_and_gradient_equal_trl_s_where_trl_can_say_it(policy, tokenizer, seed, ratio_per, theirs):
    """All winners, per token, and weights that merge the two DPO means into the one over all pairs.

    TRL's side is its unmodified `_compute_loss`, with the attention mask and with the reference's
    log-probabilities from its adapter "ref" on the spot.
    """
    outcome, step = 3, 6
    shake(policy, "default", seed + 10)
    weights = {"w_outcome": outcome / 9, "w_step": step / 9}
    settings = PreferenceSettings(sft_on="all_winners", sft_per="token", ratio_per=ratio_per, **weights)
    pairs = preference_pairs(outcome, step, seed)
    with trl_trainer(policy, tokenizer, pairs, settings) as (trainer, batch):
        results = []
        trainer.loss_types, trainer.loss_weights, trainer.precompute_ref_logps = [theirs, "sft"], [1.0, 1.0], False
        without_kind = {name: values for name, values in batch.items() if name != "is_outcome"}
        for compute in (
            lambda: PreferenceTrainer._compute_loss(trainer, trainer.model, batch, False),
            lambda: DPOTrainer._compute_loss(trainer, trainer.model, without_kind, False),
        ):
            policy.zero_grad()
            loss = compute()
            loss.backward()
            gradient = {name: w.grad.clone() for name, w in policy.named_parameters() if w.grad is not None}
            results.append((loss.item(), gradient))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(ours - rough_first_loss(policy, batch)) > 1e-3  # the policy differs from the reference
    assert our_gradient.keys() == their_gradient.keys() and our_gradient
    for name, gradient in our_gradient.items():
        assert torch.allclose(gradient, their_gradient[name], atol=1e-5), name


def rough_first_loss(policy, batch) -> float:
    """What the loss would be with policy = reference: ln 2 plus the SFT term at the reference."""
    tokens = batch["completion_mask"].chunk(2)[0].sum()
    return LN2 - (batch["ref_chosen_logps"].sum() / tokens).item()


def test_parts_of_a_batch_train_like_the_batch(training, base_folder, tokenizer):
    results = []
    for micro in (8, 2):
        policy = make_policy(base_folder, "full")
        rows = training.train_preferences(
            policy, tokenizer, preference_pairs(), PreferenceSettings(updates=4, batch_size=8, micro_batch_size=micro)
        )
        results.append((rows, {n: w.detach().clone() for n, w in policy.named_parameters() if ".default." in n}))
    (whole, weights), (parts, weights_of_parts) = results
    for a, b in zip(whole, parts):
        del a["accuracy"], b["accuracy"]  # of margins that are 0 up to rounding in the first row
        assert a == pytest.approx(b, abs=1e-4)
    for name in weights:
        assert torch.allclose(weights[name], weights_of_parts[name], atol=1e-5)


def test_an_averaged_round_is_the_mean_of_its_updates(training, base_folder, tokenizer):
    policy, seen = off_reference(base_folder), []
    trainable = {name: w for name, w in policy.named_parameters() if ".default." in name}

    def look(step, updates):
        seen.append({name: weight.detach().clone() for name, weight in trainable.items()})

    settings = PreferenceSettings(updates=3, batch_size=4, average=True)
    training.train_preferences(policy, tokenizer, preference_pairs(), settings, look)
    for name, weight in trainable.items():
        mean = torch.stack([weights[name] for weights in seen]).mean(0)
        torch.testing.assert_close(weight.detach(), mean, atol=1e-6, rtol=0)
    assert len(seen) == 3 and any(not torch.equal(seen[-1][name], w) for name, w in trainable.items())


def trained(module, policy, tokenizer, run: str, stretch: int = 1, **options):
    """Rows, and the weights of the adapter after 6 updates of 4."""
    if run == "sft":
        settings = TrainSettings(**{"max_steps": 6, "batch_size": 4} | options)
        rows = module.train_sft(policy, tokenizer, demonstrations(stretch=stretch), settings)
    else:
        settings = PreferenceSettings(**{"updates": 6, "batch_size": 4} | options)
        rows = module.train_preferences(policy, tokenizer, preference_pairs(stretch=stretch), settings)
    return rows, {name: w.detach().clone() for name, w in policy.named_parameters() if ".default." in name}


def off_reference(folder, precision: str = "full"):
    policy = make_policy(folder, precision)
    shake(policy, "default", 7)
    return policy


def check_equal(plain, by_trl):
    (rows, weights), (others, other_weights) = plain, by_trl
    assert len(rows) == len(others) == 6
    for row, other in zip(rows, others):
        assert list(row) == list(other)
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row == pytest.approx(other, rel=1e-4, abs=1e-4)  # a gain is a difference of hundreds of nats
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, other_weights[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("run", ["sft", "preferences"])
def test_plain_and_trl_train_the_same(base_folder, tokenizer, precision, run):
    results = [trained(module, off_reference(base_folder, precision), tokenizer, run) for module in (train, trl)]
    check_equal(*results)
    slower = trained(train, off_reference(base_folder, precision), tokenizer, run, learning_rate=4e-4)
    with pytest.raises(AssertionError):
        check_equal(slower, results[1])


@pytest.mark.parametrize("run", ["sft", "preferences"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "phi3", "qwen3"])
def test_plain_and_trl_train_other_families_the_same(tmp_path, family, run):
    """Another size, grouped heads, windows that rows are longer than, capped scores and logits."""
    folder, tokenizer = folder_of(family, tmp_path), load_tokenizer(str(tmp_path))
    check_equal(*(trained(module, off_reference(folder), tokenizer, run, stretch=4) for module in (train, trl)))


# --- the reference ---------------------------------------------------------------------------------------------------


def test_reference_is_the_sft_policy_in_every_round(training, base_folder, tokenizer, precision):
    policy = make_policy(base_folder, precision)
    pairs = preference_pairs()
    expected = plain_logps(policy, "sft", pairs)
    settings = PreferenceSettings(updates=6, learning_rate=1e-2, warmup=0.0)

    first = training.train_preferences(policy, tokenizer, pairs, settings)[0]
    assert (first["loss_outcome"], first["loss_step"]) == pytest.approx((LN2, LN2), abs=1e-5)

    with trl_trainer(policy, tokenizer, pairs, settings) as (trainer, _):
        found = {
            tuple(row["prompt_ids"]): (row["ref_chosen_logps"], row["ref_rejected_logps"])
            for row in trainer.train_dataset
        }
    for p, chosen, rejected in zip(pairs, *expected):
        assert found[tuple(p.prompt_ids)] == pytest.approx((chosen, rejected), abs=1e-4)

    again = training.train_preferences(policy, tokenizer, pairs, settings)[0]
    assert abs(again["loss_outcome"] - LN2) > 1e-3 and abs(again["loss_step"] - LN2) > 1e-3

    # ETO's rule, and what IPR's round 2 would be if "sft" were not copied: ln 2 again.
    eto = training.train_preferences(policy, tokenizer, pairs, settings, reference="current")[0]
    assert (eto["loss_outcome"], eto["loss_step"]) == pytest.approx((LN2, LN2), abs=1e-5)


# --- what training may touch -----------------------------------------------------------------------------------------


def test_only_the_adapter_default_changes(training, base_folder, tokenizer, precision, capsys):
    policy = make_policy(base_folder, precision)
    before = {part: snapshot(policy, part) for part in ("default", "sft", None)}
    ids = torch.tensor([[5, 6, 7, 8]])
    calls = []
    for run in ("sft", "preferences"):
        if run == "sft":
            training.train_sft(
                policy,
                tokenizer,
                demonstrations(),
                TrainSettings(max_steps=3, batch_size=4),
                lambda done, total: calls.append((done, total)),
            )
        else:
            training.train_preferences(
                policy,
                tokenizer,
                preference_pairs(),
                PreferenceSettings(updates=3, batch_size=4),
                lambda done, total: calls.append((done, total)),
            )
        after = {part: snapshot(policy, part) for part in ("default", "sft", None)}
        assert all(after["default"][name] != before["default"][name] for name in before["default"])
        assert after["sft"] == before["sft"] and after[None] == before[None]
        before = after
        assert {w.dtype for name, w in policy.named_parameters() if "lora_" in name} == {torch.float32}
        assert set(policy.peft_config) == {"default", "sft"} and policy.active_adapter == "default"
        assert "forward" not in policy.get_base_model().__dict__ and not policy.training
        assert {name for name, w in policy.named_parameters() if w.requires_grad} == set(before["default"])
        assert torch.isfinite(policy(input_ids=ids).logits).all()
    assert calls == [(1, 3), (2, 3), (3, 3)] * 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("run", ["sft", "preferences"])
def test_same_seed_same_bytes(training, base_folder, tokenizer, run):
    def trained(seed):
        policy = make_policy(base_folder, "full")
        if run == "sft":
            rows = training.train_sft(
                policy, tokenizer, demonstrations(), TrainSettings(epochs=2, batch_size=4, seed=seed)
            )
        else:
            rows = training.train_preferences(
                policy, tokenizer, preference_pairs(), PreferenceSettings(updates=4, batch_size=4, seed=seed)
            )
        return rows, snapshot(policy, "default")

    assert trained(1) == trained(1)
    assert trained(1)[1] != trained(2)[1]


def test_an_interrupted_run_changes_nothing(training, base_folder, tokenizer, precision):
    policy = make_policy(base_folder, precision)
    before = {part: snapshot(policy, part) for part in ("default", "sft", None)}

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train_preferences(policy, tokenizer, preference_pairs(), PreferenceSettings(updates=4), interrupt)
    assert {part: snapshot(policy, part) for part in before} == before
    assert set(policy.peft_config) == {"default", "sft"}
    training.train_preferences(policy, tokenizer, preference_pairs(), PreferenceSettings(updates=1))


def test_no_telemetry(policy, tokenizer, monkeypatch):
    from trl.trainer import base_trainer

    def refuse(**unused):
        raise AssertionError("a connection was about to be opened")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *a, **k: refuse())
    trl.train_sft(policy, tokenizer, demonstrations(4), TrainSettings(max_steps=1))
    trl.train_preferences(policy, tokenizer, preference_pairs(), PreferenceSettings(updates=1))


def test_the_head_reads_agent_tokens_only(policy, tokenizer, monkeypatch):
    read, head = [], trl_head._ChunkedLogProbFunction

    def spy(hidden, *others):
        read.append(len(hidden))
        return head.apply(hidden, *others)

    monkeypatch.setattr(trl_head, "_ChunkedLogProbFunction", SimpleNamespace(apply=spy))
    examples, settings = demonstrations(4), TrainSettings(max_steps=1, batch_size=4)
    written = sum(sum(e.agent_mask) for e in examples)
    trl.train_sft(policy, tokenizer, examples, settings)
    assert sum(read) == written < sum(len(e.input_ids) for e in examples)
    assert not trl_head._use_triton(torch.device("cpu")), "TRL is given back as it was"
    read.clear()
    lm_head = policy.get_base_model().lm_head
    handle = lm_head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[:-1].numel()))
    train.train_sft(policy, tokenizer, examples, settings)
    handle.remove()
    assert sum(read) == written


def test_gradient_checkpointing_changes_memory_only(training, base_folder, tokenizer):
    results = []
    for on in (False, True):
        policy = make_policy(base_folder, "full")
        rows = training.train_preferences(
            policy, tokenizer, preference_pairs(), PreferenceSettings(updates=2, gradient_checkpointing=on)
        )
        assert not policy.get_base_model().is_activation_checkpointing
        results.append(rows)
    for a, b in zip(*results):
        assert a == pytest.approx(b, abs=1e-5)


def read_with_gradients(policy, rows, read):
    """Log-probabilities, and the gradient of their sum weighted by 1, 2, 3, ..."""
    found = read(policy, rows)
    policy.zero_grad()
    (found * torch.arange(1.0, len(rows) + 1)).sum().backward()
    gradient = torch.cat([w.grad.flatten() for w in policy.parameters() if w.grad is not None])
    return found.detach(), gradient


def rows_that_begin_alike() -> list[Encoded]:
    """Two sides of pairs, pairs whose prompt continues another's, a row that is another's beginning, and one twice."""
    pairs = preference_pairs(1, 3, stretch=4)
    longer = replace(pairs[1], prompt_ids=pairs[0].prompt_ids + pairs[0].chosen_ids[:9] + pairs[1].prompt_ids)
    rows = [side for pair in (*pairs, longer) for side in sides(pair)]
    whole = rows[0]
    written = [i for i, mine in enumerate(whole.agent_mask) if mine]
    return [*rows, Encoded(whole.input_ids[: written[-1]], whole.agent_mask[: written[-1]]), rows[2]]


def check_shared_reading(policy):
    rows = rows_that_begin_alike()
    plain = read_with_gradients(policy, rows, train.log_probabilities)
    by_hand = [
        agent_logps(
            policy(input_ids=torch.tensor([r.input_ids])).logits, *map(torch.tensor, ([r.input_ids], [r.agent_mask]))
        )
        for r in rows
    ]
    torch.testing.assert_close(plain[0], torch.cat(by_hand).detach(), atol=1e-4, rtol=1e-5)
    with reading(policy, 200) as read:
        shared = read_with_gradients(policy, rows, read)
    torch.testing.assert_close(shared[0], plain[0], atol=2e-4, rtol=1e-5)
    assert (shared[1] - plain[1]).norm() < 1e-4 * plain[1].norm()
    after = read_with_gradients(policy, rows, train.log_probabilities)
    assert torch.equal(after[0], plain[0]), "the model is given back as it was"


def test_shared_reading_is_the_reading_of_each_row(base_folder, precision):
    check_shared_reading(off_reference(base_folder, precision))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "phi3", "qwen3"])
def test_shared_reading_of_other_families(tmp_path, family):
    check_shared_reading(off_reference(folder_of(family, tmp_path)))


def test_what_begins_alike_is_read_once():
    pieces, path = cut([[1, 2, 3, 4], [1, 2, 5], [1, 2], [6], [1, 2, 3, 7]])
    assert [(p.tokens, p.before, p.start) for p in pieces] == [
        ([1, 2], [], 0), ([3], [0], 2), ([4], [0, 1], 3), ([7], [0, 1], 3), ([5], [0], 2), ([6], [], 0),
    ]  # fmt: skip
    assert path == [[0, 1, 2], [0, 4], [0], [5], [0, 1, 3]]
    mask = pieces[4].mask(None, torch.zeros(1))
    assert mask.tolist() == [[0.0, 0.0, 0.0]]
    mask = Piece([1, 2], [0], 2).mask(2, torch.zeros(1))
    assert mask.tolist() == [[-math.inf, 0, 0, -math.inf], [-math.inf, -math.inf, 0, 0]]


def test_training_stops_at_the_first_number_that_is_not_finite(training, base_folder, tokenizer):
    def stops(match, run, policy, **options):
        before = snapshot(policy, "default")
        with pytest.raises(FloatingPointError, match=match):
            trained(training, policy, tokenizer, run, **options)
        assert snapshot(policy, "default") == before

    as_before = "; the policy is as before the first update. Lower learning_rate"
    stops("^update 1: the loss is nan" + as_before, "preferences", off_reference(base_folder), beta=math.nan)
    stops(
        "^update 2: the largest weight is (nan|inf)" + as_before, "sft", off_reference(base_folder), learning_rate=1e39
    )
    steep = off_reference(base_folder)
    steep.get_base_model().model.norm.register_full_backward_hook(lambda module, gradient, _: (gradient[0] * math.inf,))
    stops("^update 1: the gradient's norm is (nan|inf)" + as_before, "sft", steep)


# --- what is refused, dropped, planned, warned about -----------------------------------------------------------------


def test_too_long_is_an_error_or_a_counted_drop(training, policy, tokenizer):
    examples = demonstrations()
    limit = sorted(len(e.input_ids) for e in examples)[-3]
    kept = [e for e in examples if len(e.input_ids) <= limit]
    with pytest.raises(ValueError, match=f"are longer than max_length={limit} tokens"):
        training.train_sft(policy, tokenizer, examples, TrainSettings(max_length=limit))
    rows = training.train_sft(
        policy, tokenizer, examples, TrainSettings(max_length=limit, too_long="drop", max_steps=1)
    )
    assert rows[0]["dropped"] == len(examples) - len(kept) > 0
    assert rows[0]["tokens"] == sum(len(e.input_ids) for e in kept)
    pairs = preference_pairs()
    longest = max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in pairs)
    with pytest.raises(ValueError, match="raise max_length"):
        training.train_preferences(policy, tokenizer, pairs, PreferenceSettings(max_length=longest - 1))
    rows = training.train_preferences(
        policy, tokenizer, pairs, PreferenceSettings(max_length=longest - 1, too_long="drop", updates=1)
    )
    assert rows[0]["dropped"] >= 1


def test_unusable_input_is_refused_by_name(training, policy, tokenizer):
    def refused(match, pair=None, **options):
        with pytest.raises(ValueError, match=match):
            training.train_preferences(
                policy, tokenizer, [pair] if pair else preference_pairs(), PreferenceSettings(**options)
            )

    refused("kind of pair 0 must be one of outcome, step", EncodedPair([1], [2], [3], [1], [1], "other"))
    refused("rejected side of pair 0 has no agent token", EncodedPair([1], [2], [3], [1], [0], "step"))
    refused("chosen side of pair 0 has 2 tokens but a mask of 1", EncodedPair([1], [2, 3], [3], [1], [1], "step"))
    refused("empty prompt", EncodedPair([], [2], [3], [1], [1], "step"))
    refused("batch_size must be at least 2", batch_size=1)
    refused("must divide", batch_size=4, micro_batch_size=3)
    refused("sft_on must be one of", sft_on="everything")
    with pytest.raises(ValueError, match="the list is empty"):
        training.train_sft(policy, tokenizer, [], TrainSettings())
    policy.delete_adapter("sft")
    refused('no adapter "sft"')
    assert set(policy.peft_config) == {"default"}


def test_batches_hold_both_kinds_and_see_every_pair_in_turn():
    lengths, kinds = [10 + i for i in range(60)], [i % 12 == 0 for i in range(60)]
    batches, stands_for = plan_batches(lengths, kinds, 8, 60, seed=3)
    assert all(len(b) == 8 and sum(kinds[i] for i in b) == 1 for b in batches)
    assert stands_for == {True: 5.0, False: 55 / 7}
    for kind in (True, False):
        counts = [sum(b.count(i) for b in batches) for i in range(60) if kinds[i] is kind]
        assert max(counts) - min(counts) <= 1
    assert plan_batches(lengths, kinds, 8, 60, seed=3)[0] == batches != plan_batches(lengths, kinds, 8, 60, seed=4)[0]
    whole, stands_for = plan_batches(lengths, kinds, 100, 5, seed=0)
    assert all(sorted(b) == list(range(60)) for b in whole) and stands_for == {True: 1.0, False: 1.0}
    small, _ = plan_batches(lengths[:20], [i < 10 for i in range(20)], 8, 50, seed=0)
    assert max(b.count(i) for b in small for i in b) <= 2


def test_every_pair_is_as_likely_in_every_batch():
    """`ipr_loss` is unbiased only if no place in the order prefers short or long pairs."""
    lengths, kinds = [10 * i for i in range(20)], [i % 4 == 0 for i in range(20)]
    runs = 3000
    counts = torch.zeros(3, 20)
    for seed in range(runs):
        for place, batch in enumerate(plan_batches(lengths, kinds, 4, 3, seed)[0]):
            counts[place, batch] += 1
    expected = torch.where(torch.tensor(kinds), 1 / 5, 3 / 15)
    assert (counts / runs - expected).abs().max() < 5 * math.sqrt(0.2 * 0.8 / runs)


def test_batches_of_similar_length_waste_little_padding():
    rng = random.Random(0)
    lengths = [rng.randint(200, 1200) for _ in range(300)]

    def waste(batches):
        padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
        return 1 - sum(lengths[i] for b in batches for i in b) / padded

    planned = plan_batches(lengths, [False] * 300, 16, 40, seed=0)[0]
    shuffled = [rng.sample(range(300), 16) for _ in range(40)]
    assert waste(planned) < 0.12 < 0.3 < waste(shuffled)


def row(**values) -> dict:
    return {"margin": 0.3, "chosen_gain": 0.0, "accuracy": 0.8} | values


def test_health_is_silent_on_a_healthy_run_and_names_each_illness():
    n = 40
    assert health([row(margin=0.5 * i / n, chosen_gain=i / n) for i in range(n)]) == []
    assert health([row()] * 3) == []
    falling = health([row(chosen_gain=-4 * i / n) for i in range(n)])
    assert len(falling) == 1 and "chosen side fell by 3" in falling[0]
    away = health([row(margin=8 * i / n) for i in range(n)])
    assert len(away) == 1 and "ran away" in away[0]
    memorised = health([row(margin=3 * i / n, accuracy=1.0) for i in range(n)])
    assert len(memorised) == 1 and "memorise" in memorised[0]
