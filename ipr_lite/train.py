"""Training one LoRA adapter, plainly: SFT on demonstrations, then IPR's preference loss on pairs.

Both functions take a `peft.PeftModel` over a frozen base (4-bit or full precision), train its adapter
"default" in place, and leave everything else as it was: other adapters, the base, evaluation mode. A failed
or interrupted run changes nothing. Only agent tokens carry loss; observations are read, never imitated.
Same seed, data and threads on a CPU give the same bytes. `engine/trl.py` does the same with TRL.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import get_scheduler

from ipr_lite.batches import parts_of, plan_batches
from ipr_lite.chat import Encoded, EncodedPair
from ipr_lite.losses import SetSizes, check_choice, ipr_loss, set_sizes

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
Read = Callable[[PeftModel, list[Encoded]], Tensor]
Reading = Callable[[PeftModel, int], AbstractContextManager[Read]]
"""`Reading(policy, longest)`: a context manager giving the function that computes log-probabilities, such as `plainly`."""


@dataclass(frozen=True)
class _Settings:
    """What both trainings share. `warmup` is a share of the updates, whose first has rate 0.

    Longer than `max_length` tokens is an error, or with `too_long="drop"` a counted, logged drop.
    A batch, sorted by length, is worked off in parts of `micro_batch_size` (None: the largest divisor up
    to 4), whose gradients add up: the same result with less memory.
    """

    batch_size: int = 16
    weight_decay: float = 0.0
    max_length: int | None = None
    too_long: str = "error"
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    average: bool = False
    """Training ends with the mean of the weights after each update, in place of the last."""
    seed: int = 0


@dataclass(frozen=True)
class TrainSettings(_Settings):
    """SFT. Rates suit LoRA at tiny scale; the released code took 2e-5 for full fine-tuning of Llama-2-7B.

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
    sft_per: str = "sequence"
    ratio_per: str = "sequence"
    warmup: float = 0.1
    schedule: str = "constant_with_warmup"


def train_sft(
    policy: PeftModel,
    tokenizer,
    examples: list[Encoded],
    settings: TrainSettings,
    progress: Progress | None = None,
    *,
    reading: Reading | None = None,
) -> list[dict]:
    """Clone the demonstrations (equations 1, 2): negative log-likelihood of agent tokens, a mean over the batch's
    tokens (the paper sums). `tokenizer` is unused here; it is there for TRL's signature.

    Returns a row per update: step, loss (nats per agent token), learning_rate, grad_norm, tokens
    (read so far), dropped. Raises ValueError for examples that cannot be used, FloatingPointError as `optimise`.
    """
    examples, dropped, batches = plan_sft(examples, settings)

    def loss_of(part: list[int], batch: list[int]) -> tuple[Tensor, dict]:
        tokens = sum(sum(examples[i].agent_mask) for i in batch)
        loss = -read(policy, [examples[i] for i in part]).sum() / tokens
        return loss, {"loss": loss.item()}

    longest = max(len(e.input_ids) for e in examples)
    with in_training(policy, settings), (reading or plainly)(policy, longest) as read:
        rows = optimise(policy, batches, loss_of, settings, progress)
    seen = itertools.accumulate(sum(len(examples[i].input_ids) for i in batch) for batch in batches)
    return [row | {"tokens": tokens, "dropped": dropped} for row, tokens in zip(rows, seen, strict=True)]


def train_preferences(
    policy: PeftModel,
    tokenizer,
    pairs: list[EncodedPair],
    settings: PreferenceSettings,
    progress: Progress | None = None,
    reference: str = "sft",
    *,
    reading: Reading | None = None,
) -> list[dict]:
    """One round of IPR's preference training (equation 10), from the policy's present weights.

    `tokenizer` is unused here; it is there for TRL's signature. `reference` is "sft" (IPR: the frozen adapter "sft", in every round) or "current" (ETO: the policy as
    this round finds it). Returns a row per update, measured before it: step, loss, loss_outcome, loss_step,
    loss_sft (before weighting), accuracy (share of pairs with a positive margin), margin (beta times the
    difference of log-ratios), chosen_logp and rejected_logp (mean over pairs of the summed agent tokens,
    nats, under the policy), the same per token, chosen_gain and rejected_gain (policy minus reference, nats),
    learning_rate, grad_norm, dropped. `health` reads them. Raises ValueError for pairs that cannot be used,
    FloatingPointError as `optimise`.
    """
    pairs, dropped, batches, stands_for, sizes = plan_pairs(policy, pairs, settings, reference)
    s, device = settings, policy.device
    rows_of = [sides(pair) for pair in pairs]
    tokens = torch.tensor([[sum(row.agent_mask) for row in rows] for rows in rows_of], device=device)
    is_outcome = torch.tensor([p.kind == "outcome" for p in pairs], device=device)
    stands_for = torch.tensor([stands_for[p.kind == "outcome"] for p in pairs], device=device)

    def read_pairs(part: list[int]) -> Tensor:
        """(pairs, 2) log-probabilities of the chosen and the rejected sides."""
        return read(policy, [row for i in part for row in rows_of[i]]).view(-1, 2)

    def loss_of(part: list[int], batch: list[int]) -> tuple[Tensor, dict]:
        policy_logps, ref = read_pairs(part), ref_logps[part]
        losses = ipr_loss(
            *policy_logps.T, *ref.T, is_outcome[part], tokens[part, 0], s.beta, s.w_outcome, s.w_step, s.w_sft,
            s.sft_on, s.sft_per, sizes, stands_for[part], tokens[part, 1], s.ratio_per,
        )  # fmt: skip
        gain = policy_logps - ref
        margin = margin_of(gain, tokens[part], s)
        means = torch.stack([(margin > 0).float(), margin, *policy_logps.T, *(policy_logps / tokens[part]).T, *gain.T])
        values = [*losses, *means.sum(1) / len(batch)]
        return losses.total, dict(zip(COLUMNS, torch.stack(values).tolist(), strict=True))

    longest = max(map(longer_side, pairs))
    with in_training(policy, settings), (reading or plainly)(policy, longest) as read:
        # The reference's log-probabilities, once per round; sorted so that shared beginnings meet in one batch.
        used = sorted({i for batch in batches for i in batch}, key=lambda i: rows_of[i][0].input_ids)
        ref_logps = torch.full((len(pairs), 2), math.nan, device=device)
        policy.set_adapter("sft" if reference == "sft" else "default")
        size = parts_of(len(batches[0]), settings.micro_batch_size)
        with torch.no_grad():
            for part in (used[start : start + size] for start in range(0, len(used), size)):
                ref_logps[part] = read_pairs(part)
        policy.set_adapter("default")
        rows = optimise(policy, batches, loss_of, settings, progress)
    return [row | {"dropped": dropped} for row in rows]


def margin_of(gain: Tensor, tokens: Tensor, settings: PreferenceSettings) -> Tensor:
    """(pairs,) beta times how much more the chosen side has gained than the rejected; `gain`, `tokens` (pairs, 2)."""
    ratio = gain / tokens if settings.ratio_per == "token" else gain
    return settings.beta * (ratio[:, 0] - ratio[:, 1])


@contextmanager
def plainly(policy: PeftModel, longest: int) -> Iterator[Read]:
    """A `Reading` of each row alone. `engine/shared_prompt.py` has a faster one."""
    yield log_probabilities


def log_probabilities(policy: PeftModel, rows: list[Encoded]) -> Tensor:
    """log pi(what the agent wrote), summed for each row, (rows,); a row at a time, with logits only where a label is."""
    found = []
    for row in rows:
        ids = torch.tensor(row.input_ids, device=policy.device)
        labels = torch.tensor([i for i, mine in enumerate(row.agent_mask) if mine], device=policy.device)
        # Logits at i - 1 predict token i; the model's own forward knows what they go through (Gemma 2 caps them).
        logits = policy(input_ids=ids[None], use_cache=False, logits_to_keep=labels - 1).logits[0]
        found.append(-F.cross_entropy(logits.float(), ids[labels], reduction="sum"))
    return torch.stack(found)


def optimise(
    policy: PeftModel, batches: list[list[int]], loss_of: Callable, settings: _Settings, progress: Progress | None
) -> list[dict]:
    """AdamW on the adapter in training, an update a batch, which is worked off in parts.

    `loss_of(part, batch)`, of the numbers of examples, gives the part's share of the batch's loss, and of the
    numbers to report by name: shares add up. Returns a row per update: step, those numbers, learning_rate, grad_norm (before it is clipped at 1).
    Raises FloatingPointError at the first loss, gradient or weight that is not finite.
    """
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    s, updates, size = settings, len(batches), parts_of(len(batches[0]), settings.micro_batch_size)
    optimizer = torch.optim.AdamW(weights, lr=s.learning_rate, weight_decay=s.weight_decay, fused=True)
    schedule = get_scheduler(s.schedule, optimizer, math.ceil(s.warmup * updates), updates)
    rows, trained = [], torch.nn.ParameterList(weights)
    mean = AveragedModel(trained) if s.average else None
    for step, batch in enumerate(batches, start=1):
        numbers = Counter()
        for start in range(0, len(batch), size):
            loss, shares = loss_of(batch[start : start + size], batch)
            loss.backward()
            numbers.update(shares)
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0).item()
        rows.append({"step": step, **numbers, "learning_rate": schedule.get_last_lr()[0], "grad_norm": norm})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        check_finite(rows[-1], weights)
        if mean:
            mean.update_parameters(trained)
        if progress is not None:
            progress(step, updates)
    if mean:
        trained.load_state_dict(mean.module.state_dict())
    return rows


def check_finite(row: dict, weights: Iterable[Tensor]) -> None:
    """Raise FloatingPointError where an update's loss, gradient, or weights after it, are not finite."""
    largest = torch.stack([weight.detach().abs().max() for weight in weights]).max().item()
    for what, value in (("loss", row["loss"]), ("gradient's norm", row["grad_norm"]), ("largest weight", largest)):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"update {row['step']}: the {what} is {value}; the policy is as before the first update. Lower "
                f"learning_rate (here {row['learning_rate']:g}), or look for an inf or nan in the settings"
            )


@contextmanager
def in_training(policy: PeftModel, settings: _Settings) -> Iterator[None]:
    """The adapter "default" is trained within; whatever else is touched is put back, and after an error its weights, too."""
    if "default" not in policy.peft_config:
        raise ValueError('the policy has no adapter "default" to train')
    policy.set_adapter("default")
    weights = {name: w.detach().clone() for name, w in policy.named_parameters() if w.requires_grad}
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise ValueError(f"{name} is {weight.dtype}, which swallows small updates: keep adapters in float32")
    base = policy.get_base_model()
    checkpointing = settings.gradient_checkpointing and not base.is_activation_checkpointing
    if checkpointing:
        base.activation_checkpointing_enable()
    policy.train(settings.gradient_checkpointing)  # train mode is needed for checkpointing only; there is no dropout
    try:
        yield
    except BaseException:
        for name, weight in weights.items():
            policy.get_parameter(name).data = weight
        raise
    finally:
        if checkpointing:
            base.activation_checkpointing_disable()
        policy.set_adapter("default")
        policy.zero_grad(set_to_none=True)
        policy.eval()


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
    memorises = mean("accuracy", -quarter) == 1.0 and margin > 1.0 and margin > 1.1 * before
    found = {
        f"the log-probability of the chosen side fell by {fall:.1f} nats during the round: lower the learning rate "
        "or give the SFT term more weight": fall > 1.0,
        f"the margin ran away to {margin:.1f} (healthy rounds end below 1): lower the learning rate or take fewer "
        "updates": margin > 5.0,
        f"every pair is ranked right and the margin still grows ({margin:.1f}): further updates only memorise the "
        "pairs, take fewer": memorises,
    }
    return [warning for warning, ill in found.items() if ill]


COLUMNS = (
    "loss", "loss_outcome", "loss_step", "loss_sft", "accuracy", "margin", "chosen_logp", "rejected_logp",
    "chosen_logp_per_token", "rejected_logp_per_token", "chosen_gain", "rejected_gain",
)  # fmt: skip
"""What an update of preference training tells."""


def plan_sft(examples: list[Encoded], settings: TrainSettings) -> tuple[list[Encoded], int, list[list[int]]]:
    """The examples that fit `max_length`, how many were dropped, and the batches. Raises ValueError, as `plan_pairs`."""
    for n, example in enumerate(examples):
        _check(f"example {n}", example.input_ids[:1], example.input_ids, example.agent_mask)
    examples, dropped = _fitting(examples, lambda e: len(e.input_ids), settings)
    size = min(settings.batch_size, len(examples))
    updates = settings.max_steps or math.ceil(settings.epochs * len(examples) / size)
    lengths = [len(e.input_ids) for e in examples]
    return examples, dropped, plan_batches(lengths, [False] * len(examples), size, updates, settings.seed)[0]


def plan_pairs(
    policy: PeftModel, pairs: list[EncodedPair], settings: PreferenceSettings, reference: str
) -> tuple[list[EncodedPair], int, list[list[int]], dict[bool, float], SetSizes]:
    """The same for pairs, and how many pairs one of each kind stands for in a batch, and the sizes of the sets."""
    check_choice("reference", reference, ("sft", "current"))
    if reference == "sft" and "sft" not in policy.peft_config:
        raise ValueError('the policy has no adapter "sft", which is the reference')
    for n, p in enumerate(pairs):
        check_choice(f"kind of pair {n}", p.kind, ("outcome", "step"))
        _check(f"chosen side of pair {n}", p.prompt_ids, p.chosen_ids, p.chosen_mask)
        _check(f"rejected side of pair {n}", p.prompt_ids, p.rejected_ids, p.rejected_mask)
    pairs, dropped = _fitting(pairs, longer_side, settings)
    kinds = [p.kind == "outcome" for p in pairs]
    lengths = [longer_side(p) for p in pairs]
    batches, stands_for = plan_batches(lengths, kinds, settings.batch_size, settings.updates, settings.seed)
    tokens = torch.tensor([sum(p.chosen_mask) for p in pairs])
    sizes = set_sizes(torch.tensor(kinds), tokens, settings.sft_on, settings.sft_per)
    return pairs, dropped, batches, stands_for, sizes


def _fitting(items: list, length: Callable, settings) -> tuple[list, int]:
    """The items of at most `max_length` tokens and how many were dropped; nothing is ever cut short."""
    check_choice("too_long", settings.too_long, ("error", "drop"))
    if not items:
        raise ValueError("there is nothing to train on: the list is empty")
    limit = settings.max_length
    kept = [item for item in items if limit is None or length(item) <= limit]
    dropped = len(items) - len(kept)
    if dropped:
        longest = max(map(length, items))
        message = f"{dropped} of {len(items)} are longer than max_length={limit} tokens (the longest has {longest})"
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


def longer_side(pair: EncodedPair) -> int:
    """Tokens of a pair's longer side, with its prompt."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def sides(pair: EncodedPair) -> tuple[Encoded, Encoded]:
    """The chosen and the rejected conversation, from the beginning."""
    both = (pair.chosen_ids, pair.chosen_mask), (pair.rejected_ids, pair.rejected_mask)
    chosen, rejected = (Encoded(pair.prompt_ids + ids, [0] * len(pair.prompt_ids) + mask) for ids, mask in both)
    return chosen, rejected
