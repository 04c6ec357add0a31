"""iStar (Liu et al., 2025): step rewards without rollouts, read off a policy that was trained on whole trajectories.

    r(s_t, a_t) = beta * log [ pi_dpo(a_t | e_{t-1}) / pi_sft(a_t | e_{t-1}) ]

DPO on outcome pairs teaches a policy which trajectories win; how much likelier it has made an action tells how much that
action had to do with it. Here in place of Monte Carlo within IPR's own loop (`--step-reward implicit`). The paper trains
the policy by policy gradient on these rewards, and the judge along with it; ours is trained once, from the SFT policy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ipr_lite.engine.shared_prompt import reading
from ipr_lite.model import set_adapter_weights
from ipr_lite.pairs import PairRule, contrast, pairs_of
from ipr_lite.records import Message, StepReward
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run, Weights
from ipr_lite.step_reward import ScoredStep

PASSES = 4
"""Episodes of each task that the SFT policy samples, to be contrasted with the demonstration."""


def trajectory_policy(run: Run) -> Weights:
    """The SFT policy after a round of DPO on whole trajectories; trained when first asked for."""

    def trained():
        demonstrations, player = run.demonstrations(), run.player(run.sft(), 1.0, "implicit")
        tasks = list({t.id: t.task for t in demonstrations}.values())
        seeds = [(task, stable_seed(run.config.seed, "implicit", task.id, n)) for task in tasks for n in range(PASSES)]
        played = player.play([run.start(*both) for both in seeds], run.bar("explore implicit"))
        for t in played:
            t.extra["start_step"] = 1
        distinct, rule = list({(t.id, *t.actions): t for t in played}.values()), PairRule.of(run.config)
        whole = [c for c in contrast(demonstrations, distinct, run.env, rule) if c.kind == "outcome"]
        weights, log = run.learn(pairs_of(whole, rule), run.sft(), 1, what="implicit", w_sft=0.0)
        spent = {"env_steps": player.actions_taken, "tokens": player.tokens_written, "updates": len(log)}
        run.spend("iteration-1/implicit", **spent)
        return weights, log

    return run.adapter(run.folder / "implicit", run.folder / "implicit_log.csv", trained)


def implicit_step_rewards(run: Run, steps: Sequence[ScoredStep]) -> list[StepReward]:
    """Step rewards in nats times beta, not in [0, 1]: only their order, and `tau_step`, mean anything."""
    rows = [run.chat.encode(only_last(step.messages[:-1])) for step in steps]
    set_adapter_weights(run.policy, trajectory_policy(run), "default")
    set_adapter_weights(run.policy, run.sft(), "sft")
    logps = []
    with reading(run.policy, max(len(row.input_ids) for row in rows)) as read, torch.inference_mode():
        for adapter in ("default", "sft"):
            run.policy.set_adapter(adapter)
            logps.append(torch.cat([read(run.policy, [row]) for row in rows]))
    run.policy.set_adapter("default")
    found = run.config.beta * (logps[0] - logps[1])
    return [step.rewarded(reward) for step, reward in zip(steps, found.tolist(), strict=True)]


def only_last(messages: Sequence[Message]) -> list[Message]:
    """The conversation with weight on its last message alone: what came before is read, and neither learned nor judged."""
    return [m | {"weight": 0} for m in messages[:-1]] + [messages[-1]]
