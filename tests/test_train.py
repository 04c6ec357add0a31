"""The trainers against losses.py, against TRL's own loss, and against what they must leave alone."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOTrainer
from trl.trainer import utils as trl_head
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ipr_lite.batches import plan_batches
from ipr_lite.chat import Encoded, EncodedPair
from ipr_lite.engine import trl as train
from ipr_lite.engine.trl import (
    AgentTokenCollator,
    PreferenceSettings,
    PreferenceTrainer,
    TrainSettings,
    health,
    train_preferences,
    train_sft,
)
from ipr_lite.losses import agent_logps, ipr_loss
from ipr_lite.model import load_base

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


@pytest.fixture
def policy(base_folder):
    return make_policy(base_folder, "full")


def make_policy(folder, precision: str, seed: int = 0):
    """A policy whose adapters "default" and "sft" are equal and not zero."""
    base = load_base(str(folder), precision)
    torch.manual_seed(0)  # LoRA draws its first weights
    policy = get_peft_model(base, LORA)
    policy.add_adapter("sft", LORA)
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


def demonstrations(n: int = 12, seed: int = 0) -> list[Encoded]:
    rng = random.Random(seed)
    lengths = [rng.randint(10, 30) for _ in range(n)]
    return [Encoded([rng.randrange(VOCABULARY - 2) for _ in range(k)], turns(rng, k, 3)) for k in lengths]


def preference_pairs(outcome: int = 3, step: int = 9, seed: int = 0) -> list[EncodedPair]:
    rng = random.Random(seed)

    def ids(n):
        return [rng.randrange(VOCABULARY - 2) for _ in range(n)]

    pairs = []
    for k in range(outcome + step):
        chosen, rejected = ids(rng.randint(5, 16)), ids(rng.randint(5, 16))
        pairs.append(
            EncodedPair(
                ids(rng.randint(3, 12)),
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
    tokens = torch.tensor([sum(p.chosen_mask) for p in pairs])
    s = settings
    return ipr_loss(
        *map(torch.tensor, sides), kinds, tokens, s.beta, s.w_outcome, s.w_step, s.w_sft, s.sft_on, s.sft_per
    ).total.item()


def whole_batch(trainer) -> dict:
    size = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    return trainer.data_collator([trainer.train_dataset[i] for i in range(size)])


# --- what carries loss -----------------------------------------------------------------------------------------------


def hidden_gradient(policy, loss_of) -> torch.Tensor:
    """The gradient on the hidden states that the LM head reads: position i carries what predicts token i + 1."""
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    handle = policy.get_base_model().model.norm.register_forward_hook(keep)
    loss_of().backward()
    handle.remove()
    return kept[0].grad


def check_only_agent_tokens(gradient: torch.Tensor, masks: list[list[int]]) -> None:
    for row, mask in zip(gradient, masks, strict=True):
        predicts_agent = mask[1:] + [0] * (row.size(0) - len(mask) + 1)
        assert [bool(x.abs().max() > 0) for x in row] == [bool(m) for m in predicts_agent]


def test_sft_gradient_reaches_agent_tokens_only(policy, tokenizer, tmp_path, monkeypatch):
    examples = demonstrations(4)
    seen = []

    def look(trainer, progress):
        batch = whole_batch(trainer)
        seen.append((batch["input_ids"], hidden_gradient(policy, lambda: trainer.compute_loss(trainer.model, batch))))
        return []

    monkeypatch.setattr(train, "_train", look)
    train_sft(policy, tokenizer, examples, TrainSettings(batch_size=4), tmp_path)
    input_ids, gradient = seen[0]
    mask_of = {tuple(e.input_ids): e.agent_mask for e in examples}
    masks = [mask_of[tuple(t for t in row if t != tokenizer.pad_token_id)] for row in input_ids.tolist()]
    check_only_agent_tokens(gradient, masks)
    with pytest.raises(AssertionError):  # the check sees a mask of all ones
        check_only_agent_tokens(gradient, [[1] * len(m) for m in masks])


def preference_gradient_check(policy, tokenizer, tmp_path):
    pairs = preference_pairs(2, 3)
    with train._lent_to_trl(policy):
        trainer = PreferenceTrainer(policy, tokenizer, pairs, PreferenceSettings(sft_on="all_winners"), tmp_path)
        batch = whole_batch(trainer)
        gradient = hidden_gradient(policy, lambda: trainer._compute_loss(trainer.model, batch, False))
    mask_of = {
        tuple(p.prompt_ids + ids): [0] * len(p.prompt_ids) + mask
        for p in pairs
        for ids, mask in ((p.chosen_ids, p.chosen_mask), (p.rejected_ids, p.rejected_mask))
    }
    masks = [mask_of[tuple(t for t in row if t != tokenizer.pad_token_id)] for row in batch["input_ids"].tolist()]
    check_only_agent_tokens(gradient, masks)


def test_preference_gradient_reaches_agent_tokens_only(policy, tokenizer, tmp_path):
    preference_gradient_check(policy, tokenizer, tmp_path)


def test_preference_gradient_check_sees_the_missing_mask(policy, tokenizer, tmp_path, monkeypatch):
    def unmasked(self, examples):
        batch = DataCollatorForPreference.torch_call(self, examples)
        return batch | {"is_outcome": torch.tensor([e["is_outcome"] for e in examples])}

    monkeypatch.setattr(AgentTokenCollator, "torch_call", unmasked)
    with pytest.raises(AssertionError):
        preference_gradient_check(policy, tokenizer, tmp_path)


def test_sft_loss_is_the_mean_over_the_batch_s_agent_tokens(policy, tokenizer, tmp_path):
    examples = demonstrations(6)
    total, tokens = 0.0, 0
    for e in examples:
        ids, mask = torch.tensor([e.input_ids]), torch.tensor([e.agent_mask])
        with torch.no_grad():
            total -= agent_logps(policy(input_ids=ids).logits, ids, mask).item()
        tokens += sum(e.agent_mask)
    for micro in (6, 2):
        rows = train_sft(policy, tokenizer, examples, TrainSettings(max_steps=1, micro_batch_size=micro), tmp_path)
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
    ],
)
def test_first_loss_equals_losses_py(policy, tokenizer, tmp_path, precision, base_folder, options):
    policy = make_policy(base_folder, precision)
    shake(policy, "default", 7)
    pairs, settings = preference_pairs(), PreferenceSettings(updates=1, **options)
    expected = expected_loss(policy, pairs, settings)
    rows = train_preferences(policy, tokenizer, pairs, settings, tmp_path)
    assert rows[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"sft_on": "all_winners", "sft_per": "sequence"}])
def test_batches_of_one_pass_average_to_losses_py(policy, tokenizer, tmp_path, options):
    """4 outcome and 12 step pairs in 4 batches of 1 + 3; at rate 0 every batch sees the same policy."""
    shake(policy, "default", 7)
    pairs = preference_pairs(4, 12)
    settings = PreferenceSettings(updates=4, batch_size=4, learning_rate=0.0, **options)
    rows = train_preferences(policy, tokenizer, pairs, settings, tmp_path)
    expected = expected_loss(policy, pairs, settings)
    assert sum(r["loss"] for r in rows) / 4 == pytest.approx(expected, rel=1e-5)
    assert any(abs(r["loss"] - expected) > 1e-2 for r in rows)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_equal_trl_s_where_trl_can_say_it(policy, tokenizer, tmp_path, seed):
    """All winners, per token, and weights that merge the two DPO means into the one over all pairs.

    TRL's side is its unmodified `_compute_loss`, with the attention mask and with the reference's
    log-probabilities from its adapter "ref" on the spot.
    """
    outcome, step = 3, 6
    shake(policy, "default", seed + 10)
    settings = PreferenceSettings(sft_on="all_winners", w_outcome=outcome / 9, w_step=step / 9)
    with train._lent_to_trl(policy):
        trainer = PreferenceTrainer(policy, tokenizer, preference_pairs(outcome, step, seed), settings, tmp_path)
        batch = whole_batch(trainer)
        results = []
        trainer.loss_types, trainer.loss_weights, trainer.precompute_ref_logps = ["sigmoid", "sft"], [1.0, 1.0], False
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


def test_parts_of_a_batch_train_like_the_batch(base_folder, tokenizer, tmp_path):
    results = []
    for micro in (8, 2):
        policy = make_policy(base_folder, "full")
        rows = train_preferences(
            policy,
            tokenizer,
            preference_pairs(),
            PreferenceSettings(updates=4, batch_size=8, micro_batch_size=micro),
            tmp_path,
        )
        results.append((rows, {n: w.detach().clone() for n, w in policy.named_parameters() if ".default." in n}))
    (whole, weights), (parts, weights_of_parts) = results
    for a, b in zip(whole, parts):
        del a["accuracy"], b["accuracy"]  # of margins that are 0 up to rounding in the first row
        assert a == pytest.approx(b, abs=1e-4)
    for name in weights:
        assert torch.allclose(weights[name], weights_of_parts[name], atol=1e-5)


# --- the reference ---------------------------------------------------------------------------------------------------


def test_reference_is_the_sft_policy_in_every_round(base_folder, tokenizer, tmp_path, precision):
    policy = make_policy(base_folder, precision)
    pairs = preference_pairs()
    expected = plain_logps(policy, "sft", pairs)
    settings = PreferenceSettings(updates=6, learning_rate=1e-2, warmup=0.0)

    first = train_preferences(policy, tokenizer, pairs, settings, tmp_path)[0]
    assert (first["loss_outcome"], first["loss_step"]) == pytest.approx((LN2, LN2), abs=1e-5)

    with train._lent_to_trl(policy):
        trainer = PreferenceTrainer(policy, tokenizer, pairs, settings, tmp_path)
        found = {
            tuple(row["prompt_ids"]): (row["ref_chosen_logps"], row["ref_rejected_logps"])
            for row in trainer.train_dataset
        }
    for p, chosen, rejected in zip(pairs, *expected):
        assert found[tuple(p.prompt_ids)] == pytest.approx((chosen, rejected), abs=1e-4)

    again = train_preferences(policy, tokenizer, pairs, settings, tmp_path)[0]
    assert abs(again["loss_outcome"] - LN2) > 1e-3 and abs(again["loss_step"] - LN2) > 1e-3

    # ETO's rule, and what IPR's round 2 would be if "sft" were not copied: ln 2 again.
    eto = train_preferences(policy, tokenizer, pairs, settings, tmp_path, reference="current")[0]
    assert (eto["loss_outcome"], eto["loss_step"]) == pytest.approx((LN2, LN2), abs=1e-5)


# --- what training may touch -----------------------------------------------------------------------------------------


def test_only_the_adapter_default_changes(base_folder, tokenizer, tmp_path, precision, capsys):
    policy = make_policy(base_folder, precision)
    before = {part: snapshot(policy, part) for part in ("default", "sft", None)}
    ids = torch.tensor([[5, 6, 7, 8]])
    calls = []
    for run in ("sft", "preferences"):
        if run == "sft":
            train_sft(
                policy,
                tokenizer,
                demonstrations(),
                TrainSettings(max_steps=3, batch_size=4),
                tmp_path,
                lambda done, total: calls.append((done, total)),
            )
        else:
            train_preferences(
                policy,
                tokenizer,
                preference_pairs(),
                PreferenceSettings(updates=3, batch_size=4),
                tmp_path,
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
def test_same_seed_same_bytes(base_folder, tokenizer, tmp_path, run):
    def trained(seed):
        policy = make_policy(base_folder, "full")
        if run == "sft":
            rows = train_sft(
                policy, tokenizer, demonstrations(), TrainSettings(epochs=2, batch_size=4, seed=seed), tmp_path
            )
        else:
            rows = train_preferences(
                policy, tokenizer, preference_pairs(), PreferenceSettings(updates=4, batch_size=4, seed=seed), tmp_path
            )
        return rows, snapshot(policy, "default")

    assert trained(1) == trained(1)
    assert trained(1)[1] != trained(2)[1]


def test_an_interrupted_run_changes_nothing(base_folder, tokenizer, tmp_path, precision):
    policy = make_policy(base_folder, precision)
    before = {part: snapshot(policy, part) for part in ("default", "sft", None)}

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_preferences(policy, tokenizer, preference_pairs(), PreferenceSettings(updates=4), tmp_path, interrupt)
    assert {part: snapshot(policy, part) for part in before} == before
    assert set(policy.peft_config) == {"default", "sft"}
    train_preferences(policy, tokenizer, preference_pairs(), PreferenceSettings(updates=1), tmp_path)


def test_no_telemetry(policy, tokenizer, tmp_path, monkeypatch):
    from trl.trainer import base_trainer

    def refuse(**unused):
        raise AssertionError("a connection was about to be opened")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *a, **k: refuse())
    train_sft(policy, tokenizer, demonstrations(4), TrainSettings(max_steps=1), tmp_path)
    train_preferences(policy, tokenizer, preference_pairs(), PreferenceSettings(updates=1), tmp_path)


def test_the_head_reads_agent_tokens_only(policy, tokenizer, tmp_path, monkeypatch):
    read, head = [], trl_head._ChunkedLogProbFunction

    def spy(hidden, *others):
        read.append(len(hidden))
        return head.apply(hidden, *others)

    monkeypatch.setattr(trl_head, "_ChunkedLogProbFunction", SimpleNamespace(apply=spy))
    examples = demonstrations(4)
    train_sft(policy, tokenizer, examples, TrainSettings(max_steps=1, batch_size=4), tmp_path)
    assert sum(read) == sum(sum(e.agent_mask) for e in examples) < sum(len(e.input_ids) for e in examples)
    assert not trl_head._use_triton(torch.device("cpu")), "TRL is given back as it was"


def test_gradient_checkpointing_changes_memory_only(base_folder, tokenizer, tmp_path):
    results = []
    for on in (False, True):
        policy = make_policy(base_folder, "full")
        rows = train_preferences(
            policy, tokenizer, preference_pairs(), PreferenceSettings(updates=2, gradient_checkpointing=on), tmp_path
        )
        assert not policy.get_base_model().is_activation_checkpointing
        results.append(rows)
    for a, b in zip(*results):
        assert a == pytest.approx(b, abs=1e-5)


# --- what is refused, dropped, planned, warned about -----------------------------------------------------------------


def test_too_long_is_an_error_or_a_counted_drop(policy, tokenizer, tmp_path):
    examples = demonstrations()
    limit = sorted(len(e.input_ids) for e in examples)[-3]
    kept = [e for e in examples if len(e.input_ids) <= limit]
    with pytest.raises(ValueError, match=f"are longer than max_length={limit} tokens"):
        train_sft(policy, tokenizer, examples, TrainSettings(max_length=limit), tmp_path)
    rows = train_sft(
        policy, tokenizer, examples, TrainSettings(max_length=limit, too_long="drop", max_steps=1), tmp_path
    )
    assert rows[0]["dropped"] == len(examples) - len(kept) > 0
    assert rows[0]["tokens"] == sum(len(e.input_ids) for e in kept)
    pairs = preference_pairs()
    longest = max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in pairs)
    with pytest.raises(ValueError, match="raise max_length"):
        train_preferences(policy, tokenizer, pairs, PreferenceSettings(max_length=longest - 1), tmp_path)
    rows = train_preferences(
        policy, tokenizer, pairs, PreferenceSettings(max_length=longest - 1, too_long="drop", updates=1), tmp_path
    )
    assert rows[0]["dropped"] >= 1


def test_unusable_input_is_refused_by_name(policy, tokenizer, tmp_path):
    def refused(match, pair=None, **options):
        with pytest.raises(ValueError, match=match):
            train_preferences(
                policy, tokenizer, [pair] if pair else preference_pairs(), PreferenceSettings(**options), tmp_path
            )

    refused("kind of pair 0 must be one of outcome, step", EncodedPair([1], [2], [3], [1], [1], "other"))
    refused("rejected side of pair 0 has no agent token", EncodedPair([1], [2], [3], [1], [0], "step"))
    refused("chosen side of pair 0 has 2 tokens but a mask of 1", EncodedPair([1], [2, 3], [3], [1], [1], "step"))
    refused("empty prompt", EncodedPair([], [2], [3], [1], [1], "step"))
    refused("batch_size must be at least 2", batch_size=1)
    refused("must divide", batch_size=4, micro_batch_size=3)
    refused("sft_on must be one of", sft_on="everything")
    with pytest.raises(ValueError, match="the list is empty"):
        train_sft(policy, tokenizer, [], TrainSettings(), tmp_path)
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
