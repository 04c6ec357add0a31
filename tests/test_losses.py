"""The three losses against numbers worked out by hand."""

import math

import pytest
import torch

from ipr_lite.losses import agent_logps, dpo_loss, ipr_loss, set_sizes, sft_loss

# A two-turn conversation over a vocabulary of 3: instruction, two agent tokens, an observation, two
# agent tokens, padding. Row i of PROBABILITIES is what the model predicts after reading token i.
TOKENS = [0, 1, 2, 0, 2, 1, 0]
MASK = [0, 1, 1, 0, 1, 1, 0]
PROBABILITIES = [
    [0.2, 0.5, 0.3],  # agent writes 1: 0.5
    [0.1, 0.1, 0.8],  # agent writes 2: 0.8
    [0.9, 0.05, 0.05],  # the observation 0: not the agent's
    [0.3, 0.3, 0.4],  # agent writes 2: 0.4
    [0.5, 0.25, 0.25],  # agent writes 1: 0.25
    [0.6, 0.2, 0.2],  # padding
    [0.1, 0.1, 0.8],  # predicts nothing
]


def logits() -> torch.Tensor:
    # Adding a constant per row changes no probability.
    return torch.tensor([PROBABILITIES]).log() + torch.arange(7.0).view(1, 7, 1)


def check_two_turns(mask: list[int]) -> None:
    found = agent_logps(logits(), torch.tensor([TOKENS]), torch.tensor([mask])).item()
    assert found == pytest.approx(math.log(0.5 * 0.8 * 0.4 * 0.25), abs=1e-6)


def test_agent_logps_two_turns_by_hand():
    check_two_turns(MASK)


def test_agent_logps_check_sees_a_wrong_mask():
    for wrong in ([1] * 7, [0] + MASK[:-1], MASK[1:] + [0]):
        with pytest.raises(AssertionError):
            check_two_turns(wrong)


def test_agent_logps_gradient_only_where_the_agent_is_predicted():
    x = logits().requires_grad_()
    agent_logps(x, torch.tensor([TOKENS]), torch.tensor([MASK])).sum().backward()
    predicts_agent = MASK[1:] + [0]
    assert [bool(row.abs().max() > 0) for row in x.grad[0]] == [bool(m) for m in predicts_agent]


def test_dpo_loss_is_ln2_without_difference_and_by_hand():
    a, b = torch.tensor([-3.0, -8.0]), torch.tensor([-5.0, -2.0])
    assert dpo_loss(a, b, a, b).tolist() == pytest.approx([math.log(2)] * 2)
    # margin = 0.5 * ((-3 + 4) - (-5 + 4)) = 1
    loss = dpo_loss(torch.tensor([-3.0]), torch.tensor([-5.0]), torch.tensor([-4.0]), torch.tensor([-4.0]), beta=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.0)))


def test_sft_loss_per_token_and_per_sequence():
    logps, tokens = torch.tensor([-6.0, -2.0]), torch.tensor([3, 1])
    assert sft_loss(logps, tokens, "token").item() == 2.0
    assert sft_loss(logps, tokens, "sequence").item() == 4.0


def random_set(outcome: int, step: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = outcome + step
    logps = {
        name: -20 * torch.rand(n, generator=generator)
        for name in ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    }
    is_outcome = (torch.arange(n) < outcome)[torch.randperm(n, generator=generator)]
    return logps | {"is_outcome": is_outcome, "chosen_tokens": torch.randint(1, 9, (n,), generator=generator)}


@pytest.mark.parametrize("sft_on", ["outcome_winners", "all_winners"])
@pytest.mark.parametrize("sft_per", ["token", "sequence"])
def test_ipr_loss_equals_the_plain_formula(sft_on, sft_per):
    s = random_set(3, 7)
    outcome_terms, step_terms, nll, tokens = [], [], [], []
    for pc, pr, rc, rr, is_outcome, n in zip(*(s[k].tolist() for k in s)):
        term = math.log(1 + math.exp(-0.3 * ((pc - rc) - (pr - rr))))
        (outcome_terms if is_outcome else step_terms).append(term)
        if is_outcome or sft_on == "all_winners":
            nll.append(-pc)
            tokens.append(n)
    sft = sum(nll) / (sum(tokens) if sft_per == "token" else len(nll))
    mean_outcome, mean_step = sum(outcome_terms) / 3, sum(step_terms) / 7

    found = ipr_loss(**s, beta=0.3, w_outcome=2.0, w_step=0.5, w_sft=0.25, sft_on=sft_on, sft_per=sft_per)
    assert [x.item() for x in found] == pytest.approx(
        [2 * mean_outcome + 0.5 * mean_step + 0.25 * sft, mean_outcome, mean_step, sft], rel=1e-5
    )


@pytest.mark.parametrize("outcome, step", [(0, 4), (4, 0)])
def test_an_empty_set_contributes_nothing(outcome, step):
    s = random_set(outcome, step)
    s["policy_chosen"].requires_grad_()
    found = ipr_loss(**s)
    found.total.backward()
    assert (found.outcome.item() == 0, found.step.item() == 0) == (outcome == 0, step == 0)
    assert (found.sft.item() == 0) == (outcome == 0)  # the paper imitates outcome winners only
    assert torch.isfinite(s["policy_chosen"].grad).all()


def batch_losses(s, batches, stands_for, whole, **options):
    rows = []
    for batch in batches:
        part = {name: values[batch] for name, values in s.items()}
        weight = torch.where(part["is_outcome"], *[torch.tensor(stands_for[k]) for k in (True, False)])
        rows.append(torch.stack(ipr_loss(**part, sizes=whole, stands_for=weight, **options)))
    return torch.stack(rows)


@pytest.mark.parametrize("sft_on", ["outcome_winners", "all_winners"])
@pytest.mark.parametrize("sft_per", ["token", "sequence"])
def test_batches_average_to_the_whole_set(sft_on, sft_per):
    """4 outcome and 20 step pairs in 4 batches of 1 + 5: the mean of the estimates is the formula."""
    s, options = random_set(4, 20), {"sft_on": sft_on, "sft_per": sft_per}
    outcome, step = s["is_outcome"].nonzero().flatten().tolist(), (~s["is_outcome"]).nonzero().flatten().tolist()
    batches = [outcome[i : i + 1] + step[5 * i : 5 * i + 5] for i in range(4)]
    whole = set_sizes(s["is_outcome"], s["chosen_tokens"], sft_on, sft_per)
    rows = batch_losses(s, batches, {True: 4.0, False: 4.0}, whole, **options)
    assert torch.allclose(rows.mean(0), torch.stack(ipr_loss(**s, **options)), rtol=1e-5)

    # The same pairs in batches of unequal composition: the mean of the batches' own means is biased.
    uneven = [outcome[:3] + step[:3], outcome[3:] + step[3:8], step[8:14], step[14:]]
    naive = torch.stack([torch.stack(ipr_loss(**{k: v[b] for k, v in s.items()}, **options)) for b in uneven]).mean(0)
    assert not torch.allclose(naive, torch.stack(ipr_loss(**s, **options)), rtol=1e-2)


def test_parts_of_a_batch_add_up_to_the_batch():
    s = random_set(4, 20)
    whole, stands_for = set_sizes(s["is_outcome"], s["chosen_tokens"]), {True: 2.0, False: 2.5}
    batch = list(range(12))
    parts = batch_losses(s, [batch[:4], batch[4:8], batch[8:]], stands_for, whole)
    assert torch.allclose(parts.sum(0), batch_losses(s, [batch], stands_for, whole)[0], rtol=1e-5)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="sft_on must be one of outcome_winners, all_winners, not 'winners'"):
        ipr_loss(**random_set(1, 1), sft_on="winners")
    with pytest.raises(ValueError, match="sft_per"):
        sft_loss(torch.zeros(1), torch.ones(1), "word")
