"""One run: its folder, its world, its one model with adapters, who plays, who trains, who is evaluated."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import torch

from ipr_lite import envs, rollout, train
from ipr_lite.chat import Chat, without_thoughts
from ipr_lite.config import MEMORY, WHERE, Config, Scale, scale
from ipr_lite.engine import admissible, rollouts, trl
from ipr_lite.engine.cache import check_attention
from ipr_lite.engine.folder import Folder, fill_atomically, journal, sha256_of, write_log
from ipr_lite.engine.gguf import local
from ipr_lite.engine.merge import decoder, save_merged
from ipr_lite.engine.out_of_memory import with_advice
from ipr_lite.engine.shared_prompt import reading
from ipr_lite.envs.authors import authors
from ipr_lite.evaluation import by_part, summarize, write_metrics
from ipr_lite.model import (
    adapter_weights,
    add_adapters,
    load_adapter_weights,
    load_base,
    load_tokenizer,
    save_adapter,
    set_adapter_weights,
)
from ipr_lite.records import Pair, Task, Trajectory, read_json, read_trajectories, write_atomically, write_trajectories
from ipr_lite.rollout import Episode, Player, stable_seed, states_along
from ipr_lite.train import PreferenceSettings, TrainSettings

Weights = dict[str, torch.Tensor]
Log = list[dict]


class Run(Folder):
    """A run in its folder; `ipr.ipr` and the methods take it through their stages."""

    def __init__(self, config: Config, folder: Path, quiet: bool = False):
        """Loads nothing yet. Raises ValueError where `folder` holds a run with another config."""
        super().__init__(folder, quiet)
        self.config, self.scale = config, scale_of(config)
        self.env = envs.make(config.env, config.data)
        self._policy = None
        self._weights: dict[Path, Weights] = {}
        self._states: dict[str, list] = {}
        path = self.folder / "config.json"
        mine = json.dumps(asdict(config), indent=1) + "\n"
        self.resumed = path.exists()
        if self.resumed:
            theirs = asdict(Config.read(path))
            changed = {name for name, value in asdict(config).items() if theirs[name] != value}
            if changed - {*MEMORY, *WHERE}:
                raise ValueError(
                    f"{self.folder} holds a run with other settings ({', '.join(sorted(changed))}); "
                    "give the settings it was started with, or another --out"
                )
        if not self.resumed or changed:
            write_atomically(path, mine)

    @classmethod
    def opened(cls, folder: Path, quiet: bool = False) -> Self:
        """The run that a folder holds, with the config it was started with. Raises FileNotFoundError where it holds none."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no run there; `python -m ipr_lite run --out {folder}`")
        return cls(Config.read(path), folder, quiet)

    # --- demonstrations ---------------------------------------------------------------------------

    def demonstrations(self) -> list[Trajectory]:
        """Demonstrations of train tasks drawn by the seed, those kept by the threshold."""
        return self.keep(
            self.folder / "demonstrations.jsonl",
            lambda: draw_demonstrations(self.config, self.env, self.config.habits),
            read_trajectories,
            write_trajectories,
        )

    def states(self, demonstrations: list[Trajectory]) -> dict[str, list]:
        """The world before every step of every demonstration, by its key."""
        for demonstration in demonstrations:
            if demonstration.key not in self._states:
                self._states[demonstration.key] = states_along(self.env, demonstration)
        return self._states

    # --- the model, and who plays with it -----------------------------------------------------------

    @property
    def policy(self):
        """The base with its adapters, loaded when first needed."""
        if self._policy is None:
            _ = self.chat  # a template that is refused is refused before the model is loaded
            base = load_base(self.scale.model, self.config.precision, self.scale.attention)
            if self.config.engine == "fast":
                check_attention(base, self.scale.max_length)  # now, not after hours of cloning
            self._policy = add_adapters(base, self.scale, self.config.seed)
            self._fresh = adapter_weights(self._policy)
        return self._policy

    @property
    def fresh(self) -> Weights:
        """The untrained adapter that cloning begins with."""
        _ = self.policy
        return self._fresh

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.scale.model)

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.tokenizer)

    def player(self, weights: Weights | None, temperature: float, agent: str, stage: Path | None = None) -> Player:
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
        engine = rollouts if self.config.engine == "fast" else rollout
        engine = admissible if self.config.decode == "admissible" else engine
        player = engine.Rollouts(decoder(self.policy, weights), self.chat, **settings)
        rollouts_play = player.play

        def play(episodes: list[Episode], progress: Callable[[int, int], None] | None = None) -> list[Trajectory]:
            if player.model is self.policy:
                decoder(self.policy, weights)  # the one model may have been lent to other weights since
            return rollouts_play(episodes, progress)

        player.play = with_advice("rollouts", self)(play)
        return player

    def _served(self, weights: Weights | None, stage: Path | None, settings: dict) -> Player:
        """Rollouts on the server. Its name for these weights is found from the folder they were loaded from."""
        from ipr_lite.engine.served import ServedRollouts

        c = self.config
        folder = next((folder for folder, loaded in self._weights.items() if loaded is weights), None)
        if weights is not None and folder is None:
            raise ValueError(
                "these weights lie in no folder of the run, so that no server has them: "
                "weights within a round of training need --backend local"
            )
        policy = "base" if folder is None else folder.parent.name if folder.name == "adapter" else folder.name
        policy = policy.replace("iteration", "ipr")
        adapter = None if c.served else folder
        if c.served:
            name = c.served.replace("{policy}", policy)
        elif folder:
            # The name tells these weights from others that a server may still hold under the same agent.
            digest = sha256_of(folder / "adapter_model.safetensors")[:8]
            name = f"{policy}-{digest}"
        else:
            name = self.scale.model
        settings["batch_size"] = c.requests or settings["batch_size"]
        kept = journal(stage) if stage else None
        return ServedRollouts(c.url, name, self.chat, adapter=adapter, journal=kept, **settings)

    def start(self, task: Task, seed: int) -> Episode:
        """An episode at the start of a task."""
        env = self.env.clone()
        observation, _ = env.reset(options={"task": task})
        messages = env.messages(observation, task)
        return Episode(env, task, messages if self.config.thoughts else without_thoughts(messages), seed)

    def play(
        self, tasks: list[Task], weights: Weights | None, agent: str, stage: Path | None = None
    ) -> list[Trajectory]:
        """Greedy episodes from the start of each task."""
        player = self.player(weights, 0.0, agent, stage)
        return player.play([self.start(task, 0) for task in tasks], self.bar(f"evaluate {agent}"))

    # --- adapters, and how they are trained ---------------------------------------------------------

    def adapter(self, folder: Path, log_path: Path, make: Callable[[], tuple[Weights, Log]]) -> Weights:
        """An adapter of the run: loaded from its folder where that is there, and so complete; else trained and saved."""
        if not folder.exists():
            weights, log = make()
            write_log(log_path, log)
            set_adapter_weights(self.policy, weights, "default")
            fill_atomically(folder, lambda aside: save_adapter(self.policy, aside, dtype=self.scale.stored))
        return self.load(folder)

    def load(self, folder: Path) -> Weights:
        if folder not in self._weights:
            self._weights[folder] = load_adapter_weights(folder)
        return self._weights[folder]

    def folder_of(self, agent: str) -> Path:
        """Where an agent's adapter lies: `sft`, `ipr-K` (after round K), `eto-K`, ...; `ipr` is the one chosen on dev."""
        if agent == "ipr" and (self.folder / "selected.json").exists():
            agent = self.select()
        number = agent.removeprefix("ipr-")
        return self.file(int(number), "adapter") if agent != number and number.isdigit() else self.folder / agent

    def agent(self, name: str) -> Weights | None:
        """The weights of an agent by name; None for `base`. Raises FileNotFoundError where the run has none such."""
        folder = self.folder_of(name)
        if name != "base" and not (folder / "adapter_model.safetensors").exists():
            raise FileNotFoundError(f"{folder}: the run has no agent {name!r} there; choose base, sft, ipr-1, ...")
        return None if name == "base" else self.load(folder)

    def sft(self) -> Weights:
        """The SFT policy: scorer and reference of the whole run."""

        def cloned():
            weights, log = self.clone(self.demonstrations())
            self.spend("sft", updates=len(log))
            return weights, log

        return self.adapter(self.folder / "sft", self.folder / "sft_log.csv", cloned)

    @property
    def _trainer(self) -> tuple[Callable, Callable]:
        """`train_sft` and `train_preferences`: the plain trainer's, with its fast reading, or TRL's."""
        plain = self.config.trainer == "plain" or (
            self.config.trainer is None and self.config.scale in ("tiny", "smol")
        )
        if not plain:
            return trl.train_sft, trl.train_preferences
        return partial(train.train_sft, reading=reading), partial(train.train_preferences, reading=reading)

    def clone(self, demonstrations: list[Trajectory], updates: int | None = None) -> tuple[Weights, Log]:
        """SFT from the fresh adapter; `updates` overrides the epochs. Weights and log."""
        settings = TrainSettings(
            learning_rate=self.config.sft_learning_rate or self.scale.sft_learning_rate,
            epochs=self.config.sft_epochs,
            max_steps=updates,
            seed=self.config.seed,
            **self._settings,
        )
        examples = [self.chat.encode(t.messages) for t in demonstrations]
        set_adapter_weights(self.policy, self.fresh, "default")
        train_sft = with_advice("sft", self)(self._trainer[0])
        log = train_sft(self.policy, self.tokenizer, examples, settings, self.bar("SFT"))
        return adapter_weights(self.policy), log

    def learn(
        self, pairs: list[Pair], start: Weights, iteration: int, what: str = "train", **changed
    ) -> tuple[Weights, Log]:
        """Preference training from the weights `start`. Weights and log.

        `changed`: settings that a method has otherwise than IPR, `reference` among them.
        """
        c = self.config
        settings = PreferenceSettings(
            learning_rate=c.learning_rate or self.scale.learning_rate,
            beta=c.beta,
            updates=c.updates,
            w_outcome=c.w_outcome,
            w_step=c.w_step,
            w_sft=c.w_sft,
            sft_on=c.sft_on,
            sft_per=c.sft_per,
            ratio_per=c.ratio_per,
            average=c.average,
            seed=stable_seed(c.seed, iteration) % 2**31,
            **self._settings,
        )
        reference = changed.pop("reference", c.reference)
        settings = replace(settings, **changed)
        encoded = [self.chat.encode_pair(pair) for pair in pairs]
        set_adapter_weights(self.policy, self.sft(), "sft")
        set_adapter_weights(self.policy, start, "default")
        train_preferences = with_advice("train", self)(self._trainer[1])
        log = train_preferences(self.policy, self.tokenizer, encoded, settings, self.bar(what), reference)
        return adapter_weights(self.policy), log

    @property
    def _settings(self) -> dict:
        """What both trainings take from the config."""
        return {
            "batch_size": self.config.batch_size,
            "max_length": self.scale.max_length,
            "too_long": "drop",
            "micro_batch_size": self.scale.micro_batch,
            "gradient_checkpointing": self.scale.gradient_checkpointing,
        }

    # --- evaluation ---------------------------------------------------------------------------------

    def evaluate(self, agent: str, split: str) -> list[Trajectory]:
        """Greedy episodes of an agent (`base`, `sft`, `ipr-K`, `careful`, ...) on a split's tasks."""
        path = self.folder / "evaluations" / f"{agent}-{split}.jsonl"
        return self.keep(
            path, lambda: self.play_agent(agent, self.tasks(split), path), read_trajectories, write_trajectories
        )

    def tasks(self, split: str) -> list[Task]:
        """The tasks that agents are evaluated on."""
        limit = self.config.dev if split == "dev" else self.config.test
        return envs.tasks(self.config.env, split, self.config.data)[:limit]

    def play_agent(self, agent: str, tasks: list[Task], stage: Path | None = None) -> list[Trajectory]:
        """Greedy episodes of an agent on these tasks of `self.env`; `careful` is a person without habits."""
        if agent != "careful":
            return self.play(tasks, self.agent(agent), agent, stage)
        people = envs.people_of(self.env.name)
        played = people.demonstrations(tasks, self.env, people.careful, 0, keep=-math.inf)
        for trajectory in played:
            trajectory.extra["invalid"] = 0
        return played

    def select(self, agents: list[str] | None = None, name: str = "selected.json", play: Callable = evaluate) -> str:
        """Choose among agents on dev (default: IPR's rounds), as `play` plays them, and write it down, before any look at test."""
        path = self.folder / name
        if not path.exists():
            agents = agents or [f"ipr-{i}" for i in range(1, self.config.iterations + 1)]
            dev = {agent: summarize(play(self, agent, "dev"), agent, "dev")["reward"] for agent in agents}
            best = max(dev, key=dev.get)
            write_atomically(path, json.dumps({"agent": best, "dev": dev}, indent=1) + "\n")
        return read_json(path, dict, "remove the file")["agent"]

    def metrics(self) -> list[dict]:
        """metrics.csv: every agent on dev and test; `ipr` is the iterate chosen on dev."""
        iterates = [f"ipr-{i}" for i in range(1, self.config.iterations + 1)]
        rows = []
        for split in ("dev", "test"):
            for agent in ("base", "sft", *iterates, "ipr", "careful"):
                # `ipr` is chosen on dev, before test is played.
                played = self.evaluate(self.select() if agent == "ipr" else agent, split)
                rows += [summarize(part, agent, name) for name, part in by_part(played, split).items()]
        write_metrics(self.folder / "metrics.csv", rows)
        return rows

    def merge(self, agent: str, out: Path) -> Path:
        """Write an agent (`base`, `sft`, `ipr-K`, `ipr`, ...) as a checkpoint of its own.

        Raises FileNotFoundError where the run has no such agent, FileExistsError where `out` is there.
        """
        weights = self.agent(agent)
        if out.exists():
            raise FileExistsError(f"{out} is there already; give another --out, or remove it")
        return fill_atomically(out, lambda aside: save_merged(self.policy, weights, self.tokenizer, aside))


def draw_demonstrations(config: Config, env, habits: str) -> list[Trajectory]:
    """Demonstrations of train tasks drawn by the seed.

    `habits` names people of the world: "habitual", "careful", in the shop also "skips-size" and "takes-first". Raises
    ValueError for others, and where the world has no task or no demonstration passes `keep`.
    """
    people = envs.people_of(config.env)
    if habits not in people.sorts:
        raise ValueError(f"unknown habits {habits!r}; choose one of {', '.join(people.sorts)}")
    tasks = list(envs.tasks(config.env, "train", config.data))
    seed = stable_seed(config.seed, "demonstrations")
    random.Random(seed).shuffle(tasks)
    keep = people.keep if config.keep is None else config.keep
    if config.recorded:
        recorded, left = authors(config.recorded, env, tasks)
        random.Random(seed).shuffle(recorded)
        drawn = recorded[: config.demonstrations]
        if not drawn:
            raise ValueError(f"{config.recorded}: no trajectory can be played again in this world: {dict(left)}")
        kept = [one for one in drawn if keep is None or one.reward >= keep]
    else:
        drawn = tasks[: config.demonstrations]
        kept = people.demonstrations(drawn, env, people.sorts[habits], config.seed, keep=keep)
    if not kept:
        raise ValueError(f"none of {len(drawn)} demonstrations has an outcome of {keep} or more; lower keep")
    return kept if config.thoughts else [replace(one, messages=without_thoughts(one.messages)) for one in kept]


def scale_of(config: Config) -> Scale:
    """The scale of a config, with the model and the memory settings that the config gives in place of its own."""
    given = scale(config.scale, model=config.model, **{name: getattr(config, name) for name in MEMORY})
    return replace(given, model=local(given.model))
