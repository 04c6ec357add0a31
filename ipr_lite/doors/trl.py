"""TRL's `GRPOTrainer(rollout_func=...)`: whole episodes, played by this package's own batched rollouts.

TRL generates a turn for each prompt and stops; here the policy plays on to the episode's end, with one key-value cache,
and TRL gets the conversation in tokens with a mask on what the world said. Tested with TRL 1.16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from trl import GRPOTrainer

from ipr_lite.chat import Encoded
from ipr_lite.engine.trl import AgentTrainer
from ipr_lite.model import adapter_weights
from ipr_lite.records import Task, Trajectory
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run


class EpisodeTrainer(AgentTrainer, GRPOTrainer):
    """TRL's GRPOTrainer, which on a 4-bit base would train the adapter in bfloat16: here it stays in float32."""


def rows(run: Run, tasks: Iterable[Task]) -> list[dict]:
    """Rows of a `train_dataset`: the chat that an agent sees first. Its last message names the task: chats may be equal."""
    found = []
    for task in tasks:
        *before, observation = run.start(task, 0).messages
        found.append({"prompt": [*before, observation | {"task": task.id}]})
    return found


def rollout_func(run: Run, tasks: Iterable[Task]) -> Callable[[list, object], dict]:
    """What `EpisodeTrainer(model=run.policy, rollout_func=...)` plays with, at the trainer's temperature.

    The function takes prompts of `rows` and the trainer, and gives for each prompt an episode: `prompt_ids`; of all that
    follows `completion_ids`, `logprobs` (nats, at that temperature; 0 on what the world said) and `env_mask` (1 on what the
    agent wrote); `outcome`, the outcome reward. Tokens are those of the episode's texts, encoded anew, as all training
    here reads them: a sampled text that the tokenizer would split otherwise is split as the tokenizer does, and a turn that was
    cut off gets its end. An episode of no room for an action is refused, since TRL cannot learn from nothing.

    Raises ValueError for a task that is not among `tasks`, a model that is not `run.policy`, and such an episode.
    """
    known = {task.id: task for task in tasks}

    def play(prompts: list, trainer) -> dict:
        if trainer.accelerator.unwrap_model(trainer.model) is not run.policy:
            raise ValueError("the trainer's model is not the run's: give it model=run.policy")
        ids = [prompt[-1].get("task") if isinstance(prompt, list) else None for prompt in prompts]
        if strangers := set(ids) - known.keys():
            raise ValueError(
                f"prompts of unknown tasks, {sorted(map(str, strangers))}; make the dataset with rows(run, tasks)"
            )
        training, temperature = run.policy.training, trainer.temperature
        where = run.config.seed, trainer.state.global_step, trainer.accelerator.process_index
        episodes = [run.start(known[name], stable_seed(*where, number, name)) for number, name in enumerate(ids)]
        try:
            played = run.player(adapter_weights(run.policy), temperature, "grpo").play(episodes)
            # A large model plays itself, with another adapter active: it goes back to TRL as it came.
            run.policy.set_adapter("default")
            return _fields(run, played, temperature)
        finally:
            run.policy.set_adapter("default")
            run.policy.train(training)

    return play


def outcome(outcome: list[float], **columns: object) -> list[float]:
    """The reward function: the outcome rewards that `rollout_func` gave."""
    return outcome


def _fields(run: Run, played: list[Trajectory], temperature: float) -> dict[str, list]:
    names = "prompt_ids", "completion_ids", "logprobs", "env_mask", "outcome"
    found: dict[str, list] = {name: [] for name in names}
    for episode in played:
        whole, start = run.chat.encode(episode.messages), len(run.chat.prompt(episode.messages[:2]))
        if not any(whole.agent_mask):
            raise ValueError(
                f"task {episode.id}: its prompt of {start} tokens leaves no room for an action in max_length "
                f"{run.scale.max_length}; take the task out, or a larger scale"
            )
        parts = whole.input_ids[:start], whole.input_ids[start:], log_probabilities(run, whole, temperature)[start:]
        for name, value in zip(names, (*parts, whole.agent_mask[start:], episode.reward), strict=True):
            found[name].append(value)
    return found


@torch.no_grad()
def log_probabilities(run: Run, episode: Encoded, temperature: float) -> list[float]:
    """Of each token, (length,), in nats: what the policy, at this temperature, gave to what it wrote; 0 on all else."""
    run.policy.eval()
    ids = torch.tensor(episode.input_ids, device=run.policy.device)
    wrote = torch.tensor(episode.agent_mask, device=ids.device).nonzero()[:, 0]
    logits = run.policy(input_ids=ids[None], use_cache=False, logits_to_keep=wrote - 1).logits[0].float()
    found = torch.zeros(len(ids), device=ids.device)
    found[wrote] = (logits / temperature).log_softmax(-1).gather(-1, ids[wrote, None])[:, 0]
    return found.tolist()
