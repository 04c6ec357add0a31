"""Training one LoRA adapter with TRL: SFT on demonstrations, then IPR's preference loss on pairs.

Both functions take a `peft.PeftModel` over a frozen base (4-bit or full precision), train its adapter
"default" in place, and give the model back as it was otherwise: other adapters and the base untouched,
no "ref" adapter left, evaluation mode. A failed or interrupted run changes nothing. Only agent tokens
carry loss; observations are read, never imitated. TRL does the work; what it cannot express is the one
override `PreferenceTrainer._compute_loss`. Same seed, data and threads on a CPU give the same bytes.
"""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer import utils as trl_head
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import pad

from ipr_lite.batches import parts_of, plan_batches
from ipr_lite.chat import Encoded, EncodedPair
from ipr_lite.losses import check_choice, ipr_loss, set_sizes

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Settings:
    """What both trainings share. `warmup` is a share of the updates, whose first has rate 0.

    Longer than `max_length` tokens is an error, or with `too_long="drop"` a counted, logged drop.
    A batch, sorted by length, is worked off in parts of `micro_batch_size` (None: the largest divisor up
    to 4), whose gradients add up: the same result with less padding and memory.
    """

    batch_size: int = 16
    weight_decay: float = 0.0
    max_length: int | None = None
    too_long: str = "error"
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TrainSettings(_Settings):
    """SFT. Rates suit LoRA at tiny scale; the released code took 2e-5 for all of Llama-2-7B.

    `max_steps` (updates) overrides `epochs`.
    """

    learning_rate: float = 2e-3
    epochs: float = 3.0
    max_steps: int | None = None
    warmup: float = 0.03
    schedule: str = "cosine"


@dataclass(frozen=True)
class PreferenceSettings(_Settings):
    """Preference training: `updates` batches of `batch_size` pairs; for the loss see `ipr_loss`."""

    learning_rate: float = 5e-4
    beta: float = 0.1
    updates: int = 20
    w_outcome: float = 1.0
    w_step: float = 1.0
    w_sft: float = 1.0
    sft_on: str = "outcome_winners"
    sft_per: str = "token"
    warmup: float = 0.1
    schedule: str = "constant_with_warmup"


def train_sft(
    policy: PeftModel,
    tokenizer,
    examples: list[Encoded],
    settings: TrainSettings,
    out_dir: str | Path,
    progress: Progress | None = None,
) -> list[dict]:
    """Clone the demonstrations: negative log-likelihood of agent tokens, a mean over the batch's tokens.

    Returns a row per update: step, loss (nats per agent token), learning_rate, grad_norm, tokens
    (read so far, padding excluded), dropped. Raises ValueError for examples that cannot be used.
    """
    for n, example in enumerate(examples):
        _check(f"example {n}", example.input_ids[:1], example.input_ids, example.agent_mask)
    examples, dropped = _fitting(examples, lambda e: len(e.input_ids), settings)
    lengths = [len(e.input_ids) for e in examples]
    updates = settings.max_steps or math.ceil(settings.epochs * len(examples) / min(settings.batch_size, len(examples)))
    batches, _ = plan_batches(lengths, [False] * len(examples), settings.batch_size, updates, settings.seed)
    dataset = Dataset.from_list(
        [
            {"input_ids": e.input_ids, "labels": [t if m else -100 for t, m in zip(e.input_ids, e.agent_mask)]}
            for e in examples
        ]
    ).select(itertools.chain(*batches))
    with _lent_to_trl(policy):
        trainer = CloningTrainer(
            model=policy,
            args=_arguments(SFTConfig, policy, settings, out_dir, len(batches[0]), updates),
            processing_class=tokenizer,
            train_dataset=dataset,
            data_collator=RightPaddedCollator(pad_token_id=_pad_id(tokenizer)),
        )
        rows = _train(trainer, progress)
    tokens = itertools.accumulate(sum(lengths[i] for i in batch) for batch in batches)
    return [
        {
            "step": row["step"],
            "loss": row["loss"],
            "learning_rate": row["learning_rate"],
            "grad_norm": row["grad_norm"],
            "tokens": seen,
            "dropped": dropped,
        }
        for row, seen in zip(rows, tokens)
    ]


def train_preferences(
    policy: PeftModel,
    tokenizer,
    pairs: list[EncodedPair],
    settings: PreferenceSettings,
    out_dir: str | Path,
    progress: Progress | None = None,
    reference: str = "sft",
) -> list[dict]:
    """One round of IPR's preference training (equation 10), from the policy's present weights.

    `reference` is "sft" (IPR: the frozen adapter "sft", in every round) or "current" (ETO: the policy as
    this round finds it). Returns a row per update, measured before it: step, loss, loss_outcome, loss_step,
    loss_sft (before weighting), accuracy (share of pairs with a positive margin), margin (beta times the
    difference of log-ratios), chosen_logp and rejected_logp (mean over pairs of the summed agent tokens,
    nats, under the policy), the same per token, chosen_gain and rejected_gain (policy minus reference, nats),
    learning_rate, grad_norm, dropped. `health` reads them. Raises ValueError for pairs that cannot be used.
    """
    with _lent_to_trl(policy):
        trainer = PreferenceTrainer(policy, tokenizer, pairs, settings, out_dir, reference)
        rows = _train(trainer, progress)
    names = ("step", *trainer.columns, "learning_rate", "grad_norm")
    return [{name: row[name] for name in names} | {"dropped": trainer.dropped} for row in rows]


def health(rows: list[dict]) -> list[str]:
    """Warnings about a run of `train_preferences`, read from its rows; an empty list is good news.

    Batches hold different pairs, so quarters of the run are compared, not rows, and log-probabilities
    relative to the reference, which cancels most of that difference. Runs under 8 updates pass.
    """
    if len(rows) < 8:
        return []
    quarter = len(rows) // 4

    def mean(name: str, start: int, end: int | None = None) -> float:
        return fmean(row[name] for row in rows[start:end])

    margin, before = mean("margin", -quarter), mean("margin", -2 * quarter, -quarter)
    fall = mean("chosen_gain", 0, quarter) - mean("chosen_gain", -quarter)
    found = []
    if fall > 1.0:
        found.append(
            f"the log-probability of the chosen side fell by {fall:.1f} nats during the round: "
            "lower the learning rate or give the SFT term more weight"
        )
    if margin > 5.0:
        found.append(
            f"the margin ran away to {margin:.1f} (healthy rounds end below 1): "
            "lower the learning rate or take fewer updates"
        )
    if mean("accuracy", -quarter) == 1.0 and margin > 1.0 and margin > 1.1 * before:
        found.append(
            f"every pair is ranked right and the margin still grows ({margin:.1f}): "
            "further updates only memorise the pairs, take fewer"
        )
    return found


class _AgentTrainer:
    """What both trainers change in TRL's."""

    def __init__(self, model: PeftModel, **others):
        weights = _adapter_weights(model)
        super().__init__(model=model, **others)
        # On a 4-bit base TRL casts the adapter to bfloat16, which would swallow small updates.
        _restore(model, weights)

    def _send_telemetry(self) -> None:
        """TRL reports each run to its makers; a run on a learner's machine opens no connection."""


class CloningTrainer(_AgentTrainer, SFTTrainer):
    """TRL's SFTTrainer: tokenized data with labels pass through it as they are."""


class RightPaddedCollator(DataCollatorForLanguageModeling):
    """TRL's collator without an attention mask, which costs half the speed on a CPU.

    Padding is on the right and attention looks left, so no token that counts ever sees padding.
    """

    def torch_call(self, examples: list[dict]) -> dict:
        batch = super().torch_call(examples)
        mask = batch.pop("attention_mask")
        batch["position_ids"] = torch.arange(mask.size(1)).expand_as(mask)  # TRL wants one of the two
        return batch


class AgentTokenCollator(DataCollatorForPreference):
    """TRL's collator, with `completion_mask` 1 on agent tokens only (not on observations).

    TRL reads log-probabilities, the policy's and the reference's, through this one mask.
    """

    def torch_call(self, examples: list[dict]) -> dict:
        batch = super().torch_call(examples)
        masks = [
            torch.tensor([0] * len(e["prompt_ids"]) + e[mask])
            for mask in ("chosen_mask", "rejected_mask")
            for e in examples
        ]
        batch["completion_mask"] = pad(masks, padding_value=0, padding_side="right")
        batch["is_outcome"] = torch.tensor([e["is_outcome"] for e in examples])
        return batch


class PreferenceTrainer(_AgentTrainer, DPOTrainer):
    """TRL's DPOTrainer with the multi-turn mask, IPR's three terms, and the SFT policy as reference."""

    # The weights of `ipr_loss` make the parts of a batch add up, so TRL must not average them again.
    loss_is_scaled_for_ga = True
    columns = (
        "loss",
        "loss_outcome",
        "loss_step",
        "loss_sft",
        "accuracy",
        "margin",
        "chosen_logp",
        "rejected_logp",
        "chosen_logp_per_token",
        "rejected_logp_per_token",
        "chosen_gain",
        "rejected_gain",
    )

    def __init__(
        self,
        policy: PeftModel,
        tokenizer,
        pairs: list[EncodedPair],
        settings: PreferenceSettings,
        out_dir: str | Path,
        reference: str = "sft",
    ):
        check_choice("reference", reference, ("sft", "current"))
        if reference == "sft" and "sft" not in policy.peft_config:
            raise ValueError('the policy has no adapter "sft", which is the reference')
        for n, p in enumerate(pairs):
            check_choice(f"kind of pair {n}", p.kind, ("outcome", "step"))
            _check(f"chosen side of pair {n}", p.prompt_ids, p.chosen_ids, p.chosen_mask)
            _check(f"rejected side of pair {n}", p.prompt_ids, p.rejected_ids, p.rejected_mask)
        pairs, self.dropped = _fitting(pairs, _longer_side, settings)
        self.settings = settings
        is_outcome, lengths = [p.kind == "outcome" for p in pairs], [_longer_side(p) for p in pairs]
        tokens = torch.tensor([sum(p.chosen_mask) for p in pairs])
        self.sizes = set_sizes(torch.tensor(is_outcome), tokens, settings.sft_on, settings.sft_per)
        batches, self.stands_for = plan_batches(
            lengths, is_outcome, settings.batch_size, settings.updates, settings.seed
        )
        dataset = Dataset.from_list([vars(p) | {"is_outcome": p.kind == "outcome"} for p in pairs])
        super().__init__(
            model=policy,
            processing_class=tokenizer,
            train_dataset=dataset,
            data_collator=AgentTokenCollator(pad_token_id=_pad_id(tokenizer)),
            args=_arguments(
                DPOConfig,
                policy,
                settings,
                out_dir,
                len(batches[0]),
                settings.updates,
                beta=settings.beta,
                remove_unused_columns=False,
            ),
        )
        if reference == "sft":
            # TRL filled "ref" with the present policy, which after the first round is no longer the SFT policy.
            for name, weight in policy.named_parameters():
                if ".sft." in name:
                    policy.get_parameter(name.replace(".sft.", ".ref.")).data.copy_(weight.data)
        self.train_dataset = self._with_reference(dataset, lengths, batches)

    def _prepare_dataset(self, dataset: Dataset, *unused) -> Dataset:
        """The pairs are already tokenized, with the agent's turns known: nothing to prepare."""
        return dataset

    def _with_reference(self, dataset: Dataset, lengths: list[int], batches: list[list[int]]) -> Dataset:
        """Add the reference's log-probabilities, once per pair in use, and lay the rows out as batches."""
        used = sorted(set(itertools.chain(*batches)), key=lengths.__getitem__)
        columns = {name: [math.nan] * len(dataset) for name in ("ref_chosen_logps", "ref_rejected_logps")}
        self.model.eval()
        size = self.args.per_device_train_batch_size
        for part in (used[start : start + size] for start in range(0, len(used), size)):
            batch = self._prepare_inputs(self.data_collator([dataset[i] for i in part]))
            inputs = {name: batch[name] for name in ("input_ids", "completion_mask")}
            with warnings.catch_warnings():
                # TRL 1.16 still asks transformers by this name; nothing here depends on it.
                warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
                sides = self.compute_ref_log_probs(self.model, inputs)
            for name, values in zip(columns, sides):
                for i, value in zip(part, values.tolist()):
                    columns[name][i] = value
        for name, values in columns.items():
            dataset = dataset.add_column(name, values)
        return dataset.select(itertools.chain(*batches))

    def _compute_loss(self, model, inputs, return_outputs):
        """IPR's loss in place of TRL's. TRL's fused head never builds (batch, length, vocabulary) logits."""
        mask, is_outcome = inputs["completion_mask"], inputs["is_outcome"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        # No attention mask: see `RightPaddedCollator`.
        outputs = model(input_ids=inputs["input_ids"], labels=labels, fused_lm_head=True, use_cache=False)
        chosen, rejected = outputs.log_probs.sum(dim=1).chunk(2)  # the batch is [chosen, rejected]
        ref_chosen, ref_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        chosen_tokens, rejected_tokens = mask[:, 1:].sum(dim=1).chunk(2)
        stands_for = torch.where(is_outcome, self.stands_for.get(True, 0.0), self.stands_for.get(False, 0.0))
        s = self.settings
        losses = ipr_loss(
            chosen,
            rejected,
            ref_chosen,
            ref_rejected,
            is_outcome,
            chosen_tokens,
            s.beta,
            s.w_outcome,
            s.w_step,
            s.w_sft,
            s.sft_on,
            s.sft_per,
            self.sizes,
            stands_for,
        )

        chosen_gain, rejected_gain = chosen - ref_chosen, rejected - ref_rejected
        margin = s.beta * (chosen_gain - rejected_gain)
        # TRL's `log` averages over the parts of a batch (gradient accumulation), but losses add up.
        values = (
            *(term * self.args.gradient_accumulation_steps for term in losses),
            (margin > 0).float().mean(),
            margin.mean(),
            chosen.mean(),
            rejected.mean(),
            (chosen / chosen_tokens).mean(),
            (rejected / rejected_tokens).mean(),
            chosen_gain.mean(),
            rejected_gain.mean(),
        )
        for name, value in zip(self.columns, torch.stack(values).tolist()):
            self._metrics["train"][name].append(value)
        return (losses.total, outputs) if return_outputs else losses.total


def _arguments(config, policy: PeftModel, settings, out_dir: str | Path, batch_size: int, updates: int, **more):
    """TRL's settings. Its defaults (bfloat16, gradient checkpointing, a cut at 1,024 tokens) are wrong here."""
    micro = parts_of(batch_size, settings.micro_batch_size)
    on_cpu = policy.device.type == "cpu"
    return config(
        output_dir=str(out_dir),
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        bf16=False,
        fp16=False,
        activation_checkpointing=settings.gradient_checkpointing,
        max_length=None,
        max_steps=updates,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch_size // micro,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def _train(trainer, progress: Progress | None) -> list[dict]:
    # Without a progress bar the Trainer prints every row of its log; ours are returned.
    trainer.remove_callback(PrinterCallback)
    if progress is not None:
        trainer.add_callback(_ProgressCallback(progress))
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress):
        self.progress = progress

    def on_step_end(self, args, state, control, **unused):
        self.progress(state.global_step, state.max_steps)


@contextmanager
def _lent_to_trl(policy: PeftModel):
    """Lend the policy to a TRL trainer and take it back clean; after an error also with its old weights.

    TRL adds the adapter "ref", puts its fused head in front of `forward`, and leaves both behind. On a GPU
    that head reads only the tokens with a label, elsewhere all of them, which doubles the time of an update
    here: while lent, it reads those with a label everywhere.
    """
    if "default" not in policy.peft_config:
        raise ValueError('the policy has no adapter "default" to train')
    if "ref" in policy.peft_config:
        raise ValueError('the adapter name "ref" is TRL\'s: delete or rename that adapter first')
    policy.set_adapter("default")
    weights = _adapter_weights(policy)
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise ValueError(f"{name} is {weight.dtype}, which swallows small updates: keep adapters in float32")
    base = policy.get_base_model()
    forwards = [(module, module.__dict__.get("forward")) for module in (policy, base)]
    checkpointing = base.is_activation_checkpointing
    reads_labels_only = trl_head._use_triton
    trl_head._use_triton = lambda device: True
    try:
        yield
    except BaseException:
        _restore(policy, weights)
        raise
    finally:
        trl_head._use_triton = reads_labels_only
        for module, forward in forwards:
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.forward = forward
        if base.is_activation_checkpointing and not checkpointing:
            base.activation_checkpointing_disable()
            base.disable_input_require_grads()
        if "ref" in policy.peft_config:
            policy.delete_adapter("ref")
        policy.set_adapter("default")
        policy.zero_grad(set_to_none=True)
        policy.eval()


def _adapter_weights(policy: PeftModel) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in policy.named_parameters() if ".default." in name}


def _restore(policy: PeftModel, weights: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        policy.get_parameter(name).data = weight


def _fitting(items: list, length: Callable, settings) -> tuple[list, int]:
    """The items of at most `max_length` tokens and how many were dropped; nothing is ever cut short."""
    check_choice("too_long", settings.too_long, ("error", "drop"))
    if not items:
        raise ValueError("there is nothing to train on: the list is empty")
    limit = settings.max_length
    kept = [item for item in items if limit is None or length(item) <= limit]
    dropped = len(items) - len(kept)
    if dropped:
        message = (
            f"{dropped} of {len(items)} are longer than max_length={limit} tokens "
            f"(the longest has {max(map(length, items))})"
        )
        if settings.too_long == "error" or not kept:
            raise ValueError(message + '; raise max_length, or set too_long="drop" to train without them')
        logger.warning("%s: dropped", message)
    return kept, dropped


def _check(what: str, prompt: list[int], ids: list[int], mask: list[int]) -> None:
    if len(ids) != len(mask):
        raise ValueError(f"{what} has {len(ids)} tokens but a mask of {len(mask)}")
    if not any(mask):
        raise ValueError(f"{what} has no agent token, so it would carry no loss")
    if not prompt:
        raise ValueError(f"{what} has an empty prompt: nothing would predict its first token")


def _longer_side(pair: EncodedPair) -> int:
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def _pad_id(tokenizer) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
