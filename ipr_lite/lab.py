"""What a run's stages stand on: its folder, its world, its one model with adapters, who plays, what was spent."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Self

import torch
from tqdm.auto import tqdm

from ipr_lite import envs
from ipr_lite.chat import Chat
from ipr_lite.config import MEMORY, WHERE, Config
from ipr_lite.engine.cache import check_attention
from ipr_lite.engine.folder import whole
from ipr_lite.engine.out_of_memory import with_advice
from ipr_lite.engine.rollouts import Rollouts
from ipr_lite.jsonl import write_whole
from ipr_lite.model import (
    Scale,
    adapter_weights,
    add_adapters,
    decoder,
    load_adapter_weights,
    load_base,
    load_tokenizer,
    save_adapter,
    scale,
    set_adapter_weights,
)
from ipr_lite.pairs import PairRule, expert_states
from ipr_lite.rollout import Episode
from ipr_lite.trajectory import Task, Trajectory

Weights = dict[str, torch.Tensor]


class Lab:
    """The workplace of one run, in the run's folder; `ipr.Run` adds the stages."""

    def __init__(self, config: Config, folder: Path, quiet: bool = False):
        """Loads nothing yet. Raises ValueError where `folder` holds a run with another config."""
        self.config, self.folder, self.quiet = config, Path(folder), quiet
        self.scale = scale_of(config)
        self.env = envs.make(config.env, config.data)
        config.check()
        self.rule = PairRule(
            config.tau_step, config.tau_outcome, config.both_directions, config.action_only,
            config.shorter_wins, config.step_pairs_from,
        )  # fmt: skip
        self._policy = None
        self._weights: dict[Path, Weights] = {}
        self._states: dict[str, list] = {}
        path = self.folder / "config.json"
        mine = json.dumps(asdict(config), indent=1) + "\n"
        if path.exists():
            self.resumed = True
            theirs = json.loads(path.read_text(encoding="utf-8"))
            # A run of an earlier version lacks newer options: they stood at their defaults.
            changed = {k for k, v in asdict(config).items() if theirs.get(k, getattr(Config(), k)) != v}
            if changed and changed <= {*MEMORY, *WHERE}:
                write_whole(path, mine)
            elif changed:
                raise ValueError(
                    f"{self.folder} holds a run with other settings ({', '.join(sorted(changed))}); "
                    "give the settings it was started with, or another --out"
                )
        else:
            self.resumed = False
            write_whole(path, mine)

    @classmethod
    def opened(cls, folder: Path, quiet: bool = False) -> Self:
        """The run that a folder holds, with the config it was started with. Raises FileNotFoundError where it holds none."""
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no run there; `python -m ipr_lite run --out {folder}`")
        return cls(Config(**json.loads(path.read_text(encoding="utf-8"))), folder, quiet)

    # --- the model, and who plays with it -----------------------------------------------------

    @property
    def policy(self):
        """The base with its adapters, loaded when first needed."""
        if self._policy is None:
            self.chat  # a template that is refused is refused before the model is loaded
            base = load_base(self.scale.model, self.config.precision, self.scale.attention)
            check_attention(base, self.scale.max_length)  # now, not after hours of cloning
            self._policy = add_adapters(base, self.scale, self.config.seed)
            self.fresh = adapter_weights(self._policy)
        return self._policy

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.scale.model)

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.tokenizer)

    def player(self, weights, temperature: float, agent: str, stage: Path | None = None):
        """Rollouts of the base with these adapter weights (None: the base alone), here or on the server.

        stage: the file that they are for; on a server, finished episodes are kept beside it until it stands.
        """
        settings = {
            "temperature": temperature,
            "max_new_tokens": self.scale.max_new_tokens,
            "max_length": self.scale.max_length,
            "batch_size": self.scale.rollout_batch,
            "agent": agent,
        }
        if self.config.backend == "openai":
            return self._served(weights, stage, settings)
        shortcuts = {"share": self.config.saves("share"), "guess": self.config.saves("guess")}
        return Rollouts(decoder(self.policy, weights), self.chat, **settings, **shortcuts)

    def _served(self, weights: Weights | None, stage: Path | None, settings: dict):
        """Rollouts on the server; which policy these weights are, the folder tells that they were loaded from."""
        from ipr_lite.engine.served import ServedRollouts

        c = self.config
        folder = next((folder for folder, loaded in self._weights.items() if loaded is weights), None)
        if weights is not None and folder is None:
            raise ValueError(
                "these weights lie in no folder of the run, so that no server has them: "
                "what a baseline trains needs --backend local"
            )
        policy = "base" if folder is None else folder.name if folder.name == "sft" else folder.parent.name
        policy = policy.replace("iteration", "ipr")
        adapter = None if c.served else folder
        if c.served:
            name = c.served.replace("{policy}", policy)
        elif folder:
            # The name tells these weights from others that a server may still hold under the same agent.
            digest = sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:8]
            name = f"{policy}-{digest}"
        else:
            name = self.scale.model
        journal = self._journal(stage) if stage else None
        settings["batch_size"] = c.requests or settings["batch_size"]
        return ServedRollouts(c.url, name, self.chat, adapter=adapter, journal=journal, **settings)

    def _journal(self, stage: Path) -> Path:
        """Where a server's finished episodes stand until the stage's file is whole."""
        return stage.with_suffix(".journal")

    def states(self, experts: list[Trajectory]) -> dict[str, list]:
        """The world before every step of every expert trajectory, by its id."""
        for expert in experts:
            if expert.id not in self._states:
                self._states[expert.id] = expert_states(self.env, expert)
        return self._states

    @with_advice("rollouts")
    def play(
        self, tasks: list[Task], weights: Weights | None, agent: str, stage: Path | None = None
    ) -> list[Trajectory]:
        """Greedy episodes from the start of each task."""
        player = self.player(weights, 0.0, agent, stage)
        return player.play([self.start(task, 0) for task in tasks], self.bar(f"evaluate {agent}"))

    def start(self, task: Task, seed: int) -> Episode:
        """An episode at the start of a task."""
        env = self.env.clone()
        observation, _ = env.reset(options={"task": task})
        return Episode(env, task, env.messages(observation, task), seed)

    # --- the folder ---------------------------------------------------------------------------

    def save(self, weights: Weights, folder: Path):
        """Write an adapter's folder, whole or not at all."""
        set_adapter_weights(self.policy, weights, "default")
        whole(folder, lambda aside: save_adapter(self.policy, aside))

    def load(self, folder: Path) -> Weights:
        if folder not in self._weights:
            self._weights[folder] = load_adapter_weights(folder)
        return self._weights[folder]

    def file(self, iteration: int, name: str) -> Path:
        """A file or folder of one iteration."""
        return self.folder / f"iteration-{iteration}" / name

    def spend(self, stage: str, **amounts: int):
        """Write what a stage has spent (env_steps, tokens written, updates) to budget.json.

        A stage that is run again, because it was killed before its file was whole, counts once.
        """
        spent = self._budget()
        spent[stage] = amounts
        write_whole(self.folder / "budget.json", json.dumps(spent, indent=1) + "\n")

    def spent(self, stages: list[str]) -> dict[str, int]:
        """The sum over stages of what they have spent; `iteration-1` holds `iteration-1/score` and so on."""
        mine = [
            amounts
            for stage, amounts in self._budget().items()
            if any(stage == name or stage.startswith(name + "/") for name in stages)
        ]
        return {name: sum(amounts.get(name, 0) for amounts in mine) for name in ("env_steps", "tokens", "updates")}

    def _budget(self) -> dict[str, dict[str, int]]:
        path = self.folder / "budget.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _count(self, stage: str, player: Rollouts):
        self.spend(stage, env_steps=player.actions_taken, tokens=player.tokens_written)

    def bar(self, what: str):
        """A progress callback (done, total) that draws a bar with the time left."""
        # `disable` is left out where bars are wanted, so that TQDM_DISABLE still silences them.
        off = {"disable": True} if self.quiet else {}
        bar = tqdm(desc=what, leave=False, total=1, **off)

        def show(done: int, total: int):
            bar.total = total
            bar.update(done - bar.n)
            if done >= total:
                bar.close()

        return show

    def say(self, text: str):
        if not self.quiet:
            tqdm.write(text)

    def warn(self, iteration: int, text: str):
        """Say it, and keep it for the report."""
        path = self.file(iteration, "warnings.txt")
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if text not in old:
            self.say(f"warning: {text}")
            write_whole(path, old + text + "\n")


def scale_of(config: Config) -> Scale:
    """The scale of a config, with the model and the memory settings that the config gives in place of its own."""
    return scale(config.scale, model=config.model, **{name: getattr(config, name) for name in MEMORY})
