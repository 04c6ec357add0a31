"""Group-relative advantages, against numbers worked out by hand; their loss, against TRL's own trainer."""

import math

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from ipr_lite.config import Config
from ipr_lite.losses import ppo_loss
from ipr_lite.methods import grpo, policy_gradient
from ipr_lite.records import Task, Trajectory
from ipr_lite.run import Run

ROOT_HALF = math.sqrt(0.5)


def episode(task: str, reward: float, *observations: str) -> Trajectory:
    """An episode whose decisions were made after these observations."""
    messages = [{"role": "system", "content": "s"}]
    for number, text in enumerate(observations):
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": f"Action: {number}"}]
    return Trajectory(Task(task, "toy", "train", "do"), messages, reward, reward == 1.0, "agent")


def close(found, wanted):
    assert len(found) == len(wanted)
    for mine, yours in zip(found, wanted, strict=True):
        assert mine == pytest.approx(yours, abs=1e-6)


def test_grpo_by_hand():
    """Two tasks: outcomes 1 and 0 of the first lie half a unit, .707 standard deviations, from their mean; those of the
    second are equal, so that nobody did better than another."""
    played = [episode("a", 1.0, "p", "q"), episode("b", 0.4, "p"), episode("a", 0.0, "p"), episode("b", 0.4, "p")]
    close(grpo.grpo(played), [[ROOT_HALF, ROOT_HALF], [0.0], [-ROOT_HALF], [0.0]])


def test_gigpo_by_hand():
    """The first decisions of both episodes follow "p", and return .95 (one action before the outcome 1) and 0; "q" and "r"
    were met once. Another task's "p" is another group."""
    played = [episode("a", 1.0, "p", "q"), episode("a", 0.0, "p", "r"), episode("b", 0.5, "p")]
    close(grpo.among(played, 1), [[ROOT_HALF, 0.0], [-ROOT_HALF, 0.0], [0.0]])
    close(grpo.gigpo(played), [[2 * ROOT_HALF, ROOT_HALF], [-2 * ROOT_HALF, -ROOT_HALF], [0.0]])


def test_a_return_is_discounted_by_the_actions_to_come():
    """Three visits of "p" before the outcome 1, two, one and no action ahead of it: .9025, .95, 1; and one that fails."""
    played = [episode("a", 1.0, "p", "p", "p"), episode("a", 0.0, "p")]
    returns = torch.tensor([0.95**2, 0.95, 1.0, 0.0])
    wanted = ((returns - returns.mean()) / returns.std()).tolist()
    close(grpo.among(played, 1), [wanted[:3], wanted[3:]])


def test_hgpo_by_hand():
    """Before the last decision all saw "q", but only two of the four came from the same page. By the last observation the
    group is all four, returns 1, 0, 1, 1; by the last two it is two pairs, returns 1, 0 and 1, 1; by the last three the
    same, since no episode is longer."""
    played = [episode("a", r, first, "q") for r, first in ((1.0, "p"), (0.0, "p"), (1.0, "o"), (1.0, "o"))]
    coarse = (torch.tensor([1.0, 0.0, 1.0, 1.0]) - 0.75) / torch.tensor([1.0, 0.0, 1.0, 1.0]).std()
    fine = torch.tensor([ROOT_HALF, -ROOT_HALF, 0.0, 0.0])
    last = [advantages[-1] for advantages in grpo.hgpo(played)]
    assert last == pytest.approx(((coarse + 2 * fine + 3 * fine) / 6).tolist(), abs=1e-6)
    # The failure's own page is to blame for half of it; GiGPO blames the page that all share.
    assert last[1] < 0 and abs(last[2]) < abs(coarse[2])


def test_the_first_decisions_have_a_history_of_their_own():
    assert grpo.anchors(episode("a", 1.0, "p", "q", "r"), 2) == [("a", "p"), ("a", "p", "q"), ("a", "q", "r")]


# --- the loss, once more by TRL ---------------------------------------------------------------------


class StepwiseTrainer(GRPOTrainer):
    """TRL's trainer on episodes that were played elsewhere, an advantage for each token: chapter 16 prints this class."""

    def __init__(self, policy, tokenizer, folder):
        settings = GRPOConfig(
            output_dir=str(folder), beta=0.0, loss_type="bnpo", temperature=1.0, report_to="none", use_cpu=True, bf16=False,
            num_generations=2, per_device_train_batch_size=2,
        )  # fmt: skip
        rows = Dataset.from_dict({"prompt": ["a", "b"]})
        super().__init__(
            policy, lambda completions, **_: [0.0] * len(completions), settings, rows, processing_class=tokenizer
        )
        self.current_gradient_accumulation_steps = 1  # which the Trainer's loop would set
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()  # TRL rounds the adapters of a 4-bit base to bfloat16

    def loss(self, episodes, advantages):
        """The loss of a batch: whole conversations as completions, `tool_mask` on what the agent did not write."""
        longest = max(len(one.input_ids) for one in episodes) - 1

        def padded(values):
            return torch.tensor([row + [0] * (longest - len(row)) for row in values])

        by_token = [
            [advantage[d].item() if d >= 0 else 0.0 for d in one.decision[1:]]
            for one, advantage in zip(episodes, advantages, strict=True)
        ]
        return self.compute_loss(
            self.model,
            {
                "prompt_ids": torch.tensor([one.input_ids[:1] for one in episodes]),
                "prompt_mask": torch.ones(len(episodes), 1, dtype=torch.long),
                "completion_ids": padded([one.input_ids[1:] for one in episodes]),
                "completion_mask": padded([[1] * (len(one.input_ids) - 1) for one in episodes]),
                "tool_mask": padded([[int(d >= 0) for d in one.decision[1:]] for one in episodes]),
                "advantages": padded(by_token),
            },
        )


@pytest.fixture
def lab(tmp_path):
    return Run(Config(demonstrations=8), tmp_path / "run", quiet=True)


def gradients(policy):
    found = {name: w.grad.clone() for name, w in policy.named_parameters() if w.grad is not None}
    policy.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("method", [grpo.grpo, grpo.gigpo])
def test_gradients_equal_those_of_trls_trainer(method, lab, tmp_path):
    """The same task twice, with different outcomes, read by our loop and by TRL's loss."""
    good, policy = lab.demonstrations()[0], lab.policy
    bad = Trajectory(good.task, good.messages[:-2], 0.0, False, "agent")
    played = [good, bad]
    episodes = [policy_gradient.experience(lab.chat, t, found) for t, found in zip(played, method(played), strict=True)]
    advantages = [torch.tensor(one.returns) for one in episodes]
    policy.set_adapter("default")
    ours, tokens = 0.0, sum(d >= 0 for one in episodes for d in one.decision)
    for one, advantage in zip(episodes, advantages, strict=True):
        logps, _ = policy_gradient.read(policy, one)
        written = torch.tensor([d for d in one.decision if d >= 0])
        loss = ppo_loss(logps, logps.detach(), advantage[written]).sum() / tokens
        loss.backward()
        ours += loss.item()
    mine = gradients(policy)
    before = {name: w.detach().clone() for name, w in policy.named_parameters() if w.requires_grad}
    theirs = StepwiseTrainer(policy, lab.tokenizer, tmp_path / "trl")
    policy.load_state_dict(before, strict=False)
    theirs = theirs.loss(episodes, advantages)
    theirs.backward()
    yours = gradients(policy)
    assert theirs.item() == pytest.approx(ours, abs=1e-5) and mine.keys() == yours.keys()
    assert max(g.abs().max() for g in mine.values()) > 1e-4
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, yours[name], atol=1e-5, rtol=1e-3)
