"""TRL's trainers, with the signatures and the results of `train.py`: SFT, then IPR's preference loss.

For models whose vocabulary makes full logits too large, and the oracle of the tests. TRL does the work; what it
cannot express is the one override `PreferenceTrainer._compute_loss`.
"""

from __future__ import annotations

import itertools
import math
import warnings
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from peft import PeftModel
from torch.optim.swa_utils import AveragedModel
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer import utils as trl_head
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import pad

from ipr_lite.chat import Encoded, EncodedPair
from ipr_lite.losses import ipr_loss
from ipr_lite.train import (
    COLUMNS,
    PreferenceSettings,
    Progress,
    TrainSettings,
    check_finite,
    in_training,
    longer_side,
    margin_of,
    parts_of,
    plan_pairs,
    plan_sft,
)


def train_sft(
    policy: PeftModel, tokenizer, examples: list[Encoded], settings: TrainSettings, progress: Progress | None = None
) -> list[dict]:
    """As `train.train_sft`."""
    examples, dropped, batches = plan_sft(examples, settings)
    labels = [[t if m else -100 for t, m in zip(e.input_ids, e.agent_mask, strict=True)] for e in examples]
    dataset = Dataset.from_dict({"input_ids": [e.input_ids for e in examples], "labels": labels})
    dataset = dataset.select(itertools.chain(*batches))
    with _lent_to_trl(policy, settings), TemporaryDirectory() as folder:
        trainer = CloningTrainer(
            model=policy,
            args=_arguments(SFTConfig, policy, settings, folder, len(batches[0]), len(batches)),
            processing_class=tokenizer,
            train_dataset=dataset,
            data_collator=RightPaddedCollator(pad_token_id=_pad_id(tokenizer)),
        )
        rows = _train(trainer, progress)
    read = itertools.accumulate(sum(len(examples[i].input_ids) for i in batch) for batch in batches)
    rows = [{name: row[name] for name in ("step", "loss", "learning_rate", "grad_norm")} for row in rows]
    return [row | {"tokens": n, "dropped": dropped} for row, n in zip(rows, read, strict=True)]


def train_preferences(
    policy: PeftModel,
    tokenizer,
    pairs: list[EncodedPair],
    settings: PreferenceSettings,
    progress: Progress | None = None,
    reference: str = "sft",
) -> list[dict]:
    """As `train.train_preferences`."""
    with _lent_to_trl(policy, settings), TemporaryDirectory() as folder:
        trainer = PreferenceTrainer(policy, tokenizer, pairs, settings, folder, reference)
        rows = _train(trainer, progress, settings.average)
    names = ("step", *COLUMNS, "learning_rate", "grad_norm")
    return [{name: row[name] for name in names} | {"dropped": trainer.dropped} for row in rows]


class AgentTrainer:
    """What every trainer here changes in TRL's: adapters stay in float32, and nothing is reported to anybody."""

    def __init__(self, model: PeftModel, **others):
        weights = _adapter_weights(model)
        super().__init__(model=model, **others)
        # On a 4-bit base TRL casts the adapter to bfloat16, which would swallow small updates.
        for name, weight in weights.items():
            model.get_parameter(name).data = weight

    def _send_telemetry(self) -> None:
        """TRL reports each run to its makers; a run on a learner's machine opens no connection."""


class CloningTrainer(AgentTrainer, SFTTrainer):
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


class PreferenceTrainer(AgentTrainer, DPOTrainer):
    """TRL's DPOTrainer with the multi-turn mask, IPR's three terms, and the SFT policy as reference."""

    # The weights of `ipr_loss` make the parts of a batch add up, so TRL must not average them again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        policy: PeftModel,
        tokenizer,
        pairs: list[EncodedPair],
        settings: PreferenceSettings,
        folder: str,
        reference: str = "sft",
    ):
        pairs, self.dropped, batches, self.stands_for, self.sizes = plan_pairs(policy, pairs, settings, reference)
        self.settings = settings
        dataset = Dataset.from_list([vars(p) | {"is_outcome": p.kind == "outcome"} for p in pairs])
        super().__init__(
            model=policy,
            processing_class=tokenizer,
            train_dataset=dataset,
            data_collator=AgentTokenCollator(pad_token_id=_pad_id(tokenizer)),
            args=_arguments(
                DPOConfig, policy, settings, folder, len(batches[0]), settings.updates,
                beta=settings.beta, remove_unused_columns=False,
            ),
        )  # fmt: skip
        if reference == "sft":
            # TRL filled "ref" with the present policy, which after the first round is no longer the SFT policy.
            for name, weight in policy.named_parameters():
                if ".sft." in name:
                    policy.get_parameter(name.replace(".sft.", ".ref.")).data.copy_(weight.data)
        self.train_dataset = self._with_reference(dataset, list(map(longer_side, pairs)), batches)

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
            for name, values in zip(columns, sides, strict=True):
                for i, value in zip(part, values.tolist(), strict=True):
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
            rejected_tokens,
            s.ratio_per,
        )

        chosen_gain, rejected_gain = chosen - ref_chosen, rejected - ref_rejected
        tokens = torch.stack([chosen_tokens, rejected_tokens], dim=1)
        margin = margin_of(torch.stack([chosen_gain, rejected_gain], dim=1), tokens, s)
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
        for name, value in zip(COLUMNS, torch.stack(values).tolist(), strict=True):
            self._metrics["train"][name].append(value)
        return (losses.total, outputs) if return_outputs else losses.total


def _arguments(config, policy: PeftModel, settings, folder: str, batch_size: int, updates: int, **more):
    """TRL's settings. Its defaults (bfloat16, gradient checkpointing, a cut at 1,024 tokens) are wrong here."""
    micro = parts_of(batch_size, settings.micro_batch_size)
    on_cpu = policy.device.type == "cpu"
    return config(
        output_dir=folder,
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
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def _train(trainer, progress: Progress | None, average: bool = False) -> list[dict]:
    # Without a progress bar the Trainer prints every row of its log; ours are returned.
    trainer.remove_callback(PrinterCallback)
    trained = torch.nn.ParameterList(weight for weight in trainer.model.parameters() if weight.requires_grad)
    mean = AveragedModel(trained) if average else None
    trainer.add_callback(_AfterUpdate(progress, trained, mean))
    trainer.train()
    if mean:
        trained.load_state_dict(mean.module.state_dict())
    return [row for row in trainer.state.log_history if "loss" in row]


class _AfterUpdate(TrainerCallback):
    def __init__(self, progress: Progress | None, trained: torch.nn.ParameterList, mean: AveragedModel | None):
        self.progress, self.trained, self.mean = progress, trained, mean

    def on_log(self, args, state, control, model=None, logs=None, **unused):
        if "loss" not in logs:
            return
        check_finite(logs | {"step": state.global_step}, self.trained)
        if self.mean:
            self.mean.update_parameters(self.trained)
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps)


@contextmanager
def _lent_to_trl(policy: PeftModel, settings):
    """Lend the policy to a TRL trainer and take it back clean.

    TRL adds the adapter "ref", puts its fused head in front of `forward`, and leaves both behind. On a GPU
    that head reads only the tokens with a label, elsewhere all of them, which doubles the time of an update
    here: while lent, it reads those with a label everywhere.
    """
    if "ref" in policy.peft_config:
        raise ValueError('the adapter name "ref" is TRL\'s: delete or rename that adapter first')
    base = policy.get_base_model()
    forwards = [(module, module.__dict__.get("forward")) for module in (policy, base)]
    reads_labels_only = trl_head._use_triton
    with in_training(policy, settings):
        trl_head._use_triton = lambda device: True
        try:
            yield
        finally:
            trl_head._use_triton = reads_labels_only
            for module, forward in forwards:
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.forward = forward
            if settings.gradient_checkpointing:
                base.disable_input_require_grads()
            if "ref" in policy.peft_config:
                policy.delete_adapter("ref")


def _adapter_weights(policy: PeftModel) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in policy.named_parameters() if ".default." in name}


def _pad_id(tokenizer) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
