"""The three losses of IPR, written plainly (Xiong et al., EMNLP 2024, equations 7-10).

    L = w_outcome * L_outcome-DPO  +  w_step * L_step-DPO  +  w_sft * L_SFT

Each term is a mean over its own set: outcome pairs (two whole trajectories), step pairs (two
suffixes after the same history), and the winners to imitate. The paper's weights, and a run's
defaults, are 1, 1, 1. `train.py` computes the log-probabilities and calls `ipr_loss`; `engine/trl.py` does
the same with TRL's trainer, and the tests hold the two equal.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SFT_ON = ("outcome_winners", "all_winners")
SFT_PER = ("token", "sequence")
RATIO_PER = ("sequence", "token")


class SetSizes(NamedTuple):
    """What each mean is divided by: outcome pairs, step pairs, winners' tokens (or sequences)."""

    outcome: float
    step: float
    sft: float


class Losses(NamedTuple):
    """The weighted sum, and the three terms before weighting (scalars; nats)."""

    total: Tensor
    outcome: Tensor
    step: Tensor
    sft: Tensor


def agent_logps(logits: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of what the agent wrote, summed per sequence: log pi(e | prompt). For reading and tests; training
    uses `train.log_probabilities`.

    `logits` (batch, length, vocabulary); `input_ids` and `mask` (batch, length), mask 1 on agent
    tokens and 0 on instruction, observations and padding. The logits at position i predict token
    i + 1, so the last logits and the first token drop out, and the mask moves with the tokens.
    Returns (batch,), in nats.
    """
    predictions = F.log_softmax(logits[:, :-1].float(), dim=-1)
    targets, written_by_agent = input_ids[:, 1:], mask[:, 1:].bool()
    per_token = predictions.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return per_token.masked_fill(~written_by_agent, 0.0).sum(dim=-1)


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    """-log sigmoid(margin) of each pair, from summed log-probabilities of shape (pairs,).

    margin = beta * [(policy - reference) on the chosen - (policy - reference) on the rejected].
    Equal policy and reference give ln 2. Returns (pairs,): equation 7 and 8 are its means.
    """
    margin = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
    return -F.logsigmoid(margin)


def sft_loss(policy_chosen: Tensor, chosen_tokens: Tensor, per: str = "sequence") -> Tensor:
    """Negative log-likelihood of winners: a mean over the sequences, or over all their tokens.

    `policy_chosen` (pairs,) summed log-probabilities, `chosen_tokens` (pairs,) how many agent tokens
    each sum has. Equation 9 is "sequence" (a long winner pulls more, and the pull is large beside DPO's, whose gradient
    on the winner starts at beta / 2 = 0.05); "token" is the usual SFT loss. For reading and tests; training uses `ipr_loss`.
    """
    check_choice("sft_per", per, SFT_PER)
    divisor = chosen_tokens.sum() if per == "token" else len(policy_chosen)
    return -policy_chosen.sum() / divisor


def set_sizes(
    is_outcome: Tensor, chosen_tokens: Tensor, sft_on: str = "outcome_winners", sft_per: str = "sequence"
) -> SetSizes:
    """Count a whole set of pairs; `is_outcome` (pairs,) is true on outcome pairs."""
    check_choice("sft_on", sft_on, SFT_ON)
    check_choice("sft_per", sft_per, SFT_PER)
    is_outcome = is_outcome.bool()
    imitated = is_outcome if sft_on == "outcome_winners" else torch.ones_like(is_outcome)
    sft = chosen_tokens[imitated].sum() if sft_per == "token" else imitated.sum()
    return SetSizes(float(is_outcome.sum()), float((~is_outcome).sum()), float(sft))


def ipr_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    is_outcome: Tensor,
    chosen_tokens: Tensor,
    beta: float = 0.1,
    w_outcome: float = 1.0,
    w_step: float = 1.0,
    w_sft: float = 1.0,
    sft_on: str = "outcome_winners",
    sft_per: str = "sequence",
    sizes: SetSizes | None = None,
    stands_for: Tensor | None = None,
    rejected_tokens: Tensor | None = None,
    ratio_per: str = "sequence",
) -> Losses:
    """Equation 10 over a set of pairs, or its unbiased estimate from a batch of the set.

    All tensors are (pairs,). `sft_on` says which winners are imitated: "outcome_winners" (the paper)
    or "all_winners" (the released code). A set without members contributes 0. `ratio_per` "token" divides each
    log-ratio to the reference by its side's tokens (length-normalised DPO; Tülu 3, with beta 5), which needs `rejected_tokens`.

    Without `sizes` the pairs given are the whole set. With it they are a batch, and pair i stands
    for `stands_for[i]` pairs of the set: the set's pairs of that kind over the batch's. Every pair
    has one fixed weight, `stands_for / size of the set` (the Horvitz-Thompson estimator). Each batch
    holds a fixed number of each kind (`plan_batches`), so for DPO this is the batch's mean. For token
    means it is not: there the fixed weight keeps the estimate unbiased, where a batch's own mean would
    weigh short batches up. With it the parts of a batch (gradient accumulation) add up to the batch.
    """
    is_outcome = is_outcome.bool()
    if sizes is None:
        sizes = set_sizes(is_outcome, chosen_tokens, sft_on, sft_per)
    check_choice("sft_on", sft_on, SFT_ON)
    weight = torch.ones_like(policy_chosen) if stands_for is None else stands_for

    sides = policy_chosen, policy_rejected, ref_chosen, ref_rejected
    check_choice("ratio_per", ratio_per, RATIO_PER)
    if ratio_per == "token":
        sides = (side / n for side, n in zip(sides, (chosen_tokens, rejected_tokens) * 2, strict=True))
    contrast = weight * dpo_loss(*sides, beta)
    imitation = -weight * policy_chosen
    imitated = is_outcome if sft_on == "outcome_winners" else torch.ones_like(is_outcome)

    outcome = contrast[is_outcome].sum() / max(sizes.outcome, 1.0)
    step = contrast[~is_outcome].sum() / max(sizes.step, 1.0)
    sft = imitation[imitated].sum() / max(sizes.sft, 1.0)
    return Losses(w_outcome * outcome + w_step * step + w_sft * sft, outcome, step, sft)


def ppo_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """PPO's clipped loss of each token (Schulman et al., 2017, equation 7; negated, to be minimised).

    -min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A) with ratio = exp(logps - old_logps). All (tokens,): what
    the policy, and the policy that wrote them, give the tokens, and the advantages of the decisions they belong to.
    At ratio 1 the gradient is that of -A * log pi; beyond the clip, where A would push further, it is 0.
    """
    ratio = torch.exp(logps - old_logps)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError naming the option and what it may be."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
