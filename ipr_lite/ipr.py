"""The loop: demonstrations -> SFT -> (explore -> score -> pair -> train) x iterations -> evaluate.

Each stage writes one file or folder of the run directory, aside first and renamed when it is whole.
A stage whose file is there is not run again: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import random
import traceback
from dataclasses import replace
from pathlib import Path

from ipr_lite import envs
from ipr_lite.config import Config
from ipr_lite.engine.folder import whole, write_log, write_manifest
from ipr_lite.engine.out_of_memory import with_advice
from ipr_lite.engine.trl import PreferenceSettings, TrainSettings, health, train_preferences, train_sft
from ipr_lite.envs.authors import authors
from ipr_lite.evaluation import by_part, summarize, write_metrics
from ipr_lite.jsonl import write_whole
from ipr_lite.lab import Lab, Weights
from ipr_lite.methods.reward_model import predicted_step_rewards
from ipr_lite.model import adapter_weights, save_merged, set_adapter_weights
from ipr_lite.pairs import Exploration, contrasts, empty_counts, explore, outcome_pairs, step_pairs, steps_to_score
from ipr_lite.records import Pair, StepReward, read_pairs, read_step_rewards, write_pairs, write_step_rewards
from ipr_lite.rollout import stable_seed
from ipr_lite.step_reward import ScoredStep, monte_carlo, step_of
from ipr_lite.study.plan import pairs_line, plan
from ipr_lite.study.report import report
from ipr_lite.study.results import results_table
from ipr_lite.trajectory import Task, Trajectory, read_trajectories, write_trajectories

FEW_PAIRS = 20


class NoPairs(RuntimeError):
    """No step or outcome differed: there is nothing to learn from."""


class Run(Lab):
    """One run in its directory. The methods are its stages, in order."""

    def demonstrations(self) -> list[Trajectory]:
        """Expert trajectories of train tasks drawn by the seed, those kept by the threshold."""
        path = self.folder / "demonstrations.jsonl"
        if not path.exists():
            write_trajectories(path, draw_demonstrations(self.config, self.env, self.config.habits))
        return read_trajectories(path)

    def sft(self) -> Weights:
        """The SFT policy: scorer and reference of the whole run."""
        folder = self.folder / "sft"
        if not folder.exists():
            weights, log = self.clone(self.demonstrations())
            self.spend("sft", updates=len(log))
            write_log(self.folder / "sft_log.csv", log)
            self.save(weights, folder)
        return self.load(folder)

    @with_advice("rollouts")
    def explorations(self, iteration: int) -> list[Exploration]:
        """What the current policy does from every step of every expert trajectory."""
        path = self.file(iteration, "explorations.jsonl")
        if not path.exists():
            experts = self.demonstrations()
            temperature = self.config.explore_temperature
            player = self.player(self.iterate(iteration - 1), temperature, f"ipr-{iteration - 1}", path)
            seed = stable_seed(self.config.seed, iteration)
            whole = not self.config.saves("stop")
            found = explore(experts, self.states(experts), player, seed, self.bar("explore"), whole)
            for exploration in found:
                exploration.trajectory.extra["start_step"] = exploration.start
            self._count(f"iteration-{iteration}/explore", player)
            write_trajectories(path, [e.trajectory for e in found])
            self._journal(path).unlink(missing_ok=True)
        return [Exploration(t.extra["start_step"], t) for t in read_trajectories(path)]

    def step_rewards(self, iteration: int) -> list[StepReward]:
        """Step rewards of the contrasts: the expert's action and the agent's, in turn.

        The scorer is frozen, so what was scored in an earlier iteration is taken from there.
        """
        path = self.file(iteration, "step_rewards.jsonl")
        if not path.exists():
            experts = self.demonstrations()
            explorations = self.explorations(iteration)
            left = contrasts(experts, explorations, self.env, self.rule, empty_counts())
            states = self.states(experts)
            wanted = steps_to_score(left, states)
            in_vain = []
            if not self.config.saves("skip"):
                expert_of = {expert.id: expert for expert in experts}
                every = [(expert_of[e.trajectory.id], e) for e in explorations if e.start > 1]
                in_vain = steps_to_score(every, states)
            showcase = [
                step_of(states[expert.id][t - 1], expert, t, "expert")
                for expert in experts[: self.config.showcase]
                for t in range(1, expert.steps + 1)
            ]
            known = (
                {_key(r): r for r in self._scored()}
                if self.config.saves("reuse") and self.config.scorer == "sft"
                else {}
            )
            new = {_key(s): s for s in showcase + wanted + in_vain if _key(s) not in known}
            if new:
                known |= dict(zip(new, self._judge(list(new.values()), iteration)))
            # An action may belong to episodes of different outcome; the step reward is the same.
            rewards = [replace(known[_key(s)], outcome=s.outcome, who=s.who) for s in wanted]
            shown = [known[_key(s)] for s in showcase]
            write_step_rewards(self.folder / "expert_step_rewards.jsonl", shown)
            write_step_rewards(path, rewards)
            self._journal(path).unlink(missing_ok=True)
        return read_step_rewards(path)

    @with_advice("rollouts")
    def _judge(self, steps: list[ScoredStep], iteration: int) -> list[StepReward]:
        """Step rewards by Monte Carlo, or by the learned model."""
        if self.config.step_reward != "mc":
            return predicted_step_rewards(self._reward_model_run(), steps)
        weights = self.sft() if self.config.scorer == "sft" else self.iterate(iteration - 1)
        scorer = self.player(weights, 1.0, "scorer", self.file(iteration, "step_rewards.jsonl"))
        found = monte_carlo(steps, scorer, self.config.samples, self.config.seed, self.bar("score"))
        self._count(f"iteration-{iteration}/score", scorer)
        return found

    def _reward_model_run(self) -> Run:
        """The run whose step reward model judges. Raises FileNotFoundError where it has none."""
        if self.config.step_reward == "model":
            return self
        folder = Path(self.config.step_reward.format(seed=self.config.seed))
        if not (folder / "reward-model").exists():
            raise FileNotFoundError(
                f"{folder / 'reward-model'}: no step reward model there; run `compare --methods best-of-n` in that run first"
            )
        return Run.opened(folder, quiet=True)

    def _scored(self) -> list[StepReward]:
        """All step rewards that the files of this run hold."""
        paths = [*sorted(self.folder.glob("iteration-*/step_rewards.jsonl"))]
        paths.append(self.folder / "expert_step_rewards.jsonl")
        return [reward for path in paths if path.exists() for reward in read_step_rewards(path)]

    def pairs(self, iteration: int) -> list[Pair]:
        """Outcome and step pairs. Raises NoPairs where nothing differs; few pairs are a warning."""
        path = self.file(iteration, "pairs.jsonl")
        if not path.exists():
            experts, explorations, counts = self.demonstrations(), self.explorations(iteration), empty_counts()
            left = contrasts(experts, explorations, self.env, self.rule, counts)
            pairs = outcome_pairs(experts, explorations, self.rule, counts)
            pairs += step_pairs(left, self.step_rewards(iteration), self.rule, counts)
            write_whole(self.file(iteration, "pair_counts.json"), json.dumps(counts) + "\n")
            write_pairs(path, pairs)
        pairs = read_pairs(path)
        if not pairs:
            raise NoPairs(
                f"iteration {iteration} built no pair: the policy's outcomes equal the expert's "
                f"within tau_outcome = {self.rule.tau_outcome}; lower it, or raise "
                "explore_temperature, or take more demonstrations"
            )
        if len(pairs) < FEW_PAIRS:
            self.warn(iteration, f"only {len(pairs)} pairs: expect noise; take more demonstrations")
        return pairs

    def train(self, iteration: int) -> Weights:
        """The iterate: trained on this iteration's pairs from the previous iterate."""
        folder = self.file(iteration, "adapter")
        if not folder.exists():
            pairs = self.pairs(iteration)
            weights, log = self.learn(pairs, self.iterate(iteration - 1), iteration)
            self.spend(f"iteration-{iteration}/train", updates=len(log))
            for warning in health(log):
                self.warn(iteration, warning)
            write_log(folder.parent / "train_log.csv", log)
            self.save(weights, folder)
        return self.load(folder)

    def evaluate(self, agent: str, split: str, weights: Weights | None = None) -> list[Trajectory]:
        """Greedy episodes of an agent (`base`, `sft`, `ipr-K`, `expert`, or one with these weights) on a split's tasks."""
        path = self.folder / "evaluations" / f"{agent}-{split}.jsonl"
        if not path.exists():
            tasks = envs.tasks(self.config.env, split, self.config.data)
            tasks = tasks[: getattr(self.config, split)]
            played = self.play(tasks, weights, agent, path) if weights else self.perform(agent, tasks, path)
            write_trajectories(path, played)
            self._journal(path).unlink(missing_ok=True)
        return read_trajectories(path)

    def perform(self, agent: str, tasks: list[Task], stage: Path | None = None) -> list[Trajectory]:
        """Greedy episodes of an agent on these tasks of `self.env`; `expert` is the careful person."""
        if agent != "expert":
            return self.play(tasks, None if agent == "base" else self.iterate(_number(agent)), agent, stage)
        experts = envs.experts(self.env.name)
        played = experts.demonstrations(tasks, self.env, experts.CAREFUL, 0, keep=-math.inf)
        for trajectory in played:
            trajectory.extra["invalid"] = 0
        return played

    def select(self) -> str:
        """Choose the iterate on dev and write selected.json; test has not been looked at yet."""
        path = self.folder / "selected.json"
        if not path.exists():
            dev = {
                f"ipr-{i}": summarize(self.evaluate(f"ipr-{i}", "dev"), f"ipr-{i}", "dev")["reward"]
                for i in range(1, self.config.iterations + 1)
            }
            best = max(dev, key=dev.get)
            write_whole(path, json.dumps({"agent": best, "dev": dev}, indent=1) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))["agent"]

    def metrics(self) -> list[dict]:
        """metrics.csv: every agent on dev and test; `ipr` is the iterate chosen on dev."""
        iterates = [f"ipr-{i}" for i in range(1, self.config.iterations + 1)]
        rows = []
        for split in ("dev", "test"):
            for agent in ("base", "sft", *iterates, "expert"):
                parts = by_part(self.evaluate(agent, split), split)
                rows += [summarize(played, agent, part) for part, played in parts.items()]
            chosen = self.select()  # on dev, before test is played
        best = [{**row, "agent": "ipr"} for row in rows if row["agent"] == chosen]
        careful = [row for row in rows if row["agent"] == "expert"]
        rows = [row for row in rows if row["agent"] != "expert"] + best + careful
        write_metrics(self.folder / "metrics.csv", rows)
        return rows

    # --- what stages and baselines share --------------------------------------------------------

    def iterate(self, number: int) -> Weights:
        """The adapter of an iterate; number 0 is the SFT policy."""
        return self.train(number) if number else self.sft()

    @with_advice("sft")
    def clone(self, experts: list[Trajectory], updates: int | None = None) -> tuple[Weights, list[dict]]:
        """SFT from the fresh adapter; `updates` overrides the epochs. Weights and log."""
        examples = [self.chat.encode(t.messages) for t in experts]
        settings = TrainSettings(
            learning_rate=self.config.sft_learning_rate or self.scale.sft_learning_rate,
            epochs=self.config.sft_epochs,
            batch_size=self.config.batch_size,
            max_steps=updates,
            max_length=self.scale.max_length,
            too_long="drop",
            micro_batch_size=self.scale.micro_batch,
            gradient_checkpointing=self.scale.gradient_checkpointing,
            seed=self.config.seed,
        )
        set_adapter_weights(self.policy, self.fresh, "default")
        log = train_sft(self.policy, self.tokenizer, examples, settings, self.folder / ".trl", self.bar("SFT"))
        return adapter_weights(self.policy), log

    @with_advice("train")
    def learn(
        self, pairs: list[Pair], start: Weights, iteration: int, what: str = "train", **changed
    ) -> tuple[Weights, list[dict]]:
        """Preference training from the weights `start`. Weights and log.

        `changed`: settings that a baseline has otherwise than IPR, `reference` among them.
        """
        set_adapter_weights(self.policy, self.sft(), "sft")
        set_adapter_weights(self.policy, start, "default")
        c = self.config
        settings = PreferenceSettings(
            learning_rate=c.learning_rate or self.scale.learning_rate,
            beta=c.beta,
            updates=c.updates,
            batch_size=c.batch_size,
            w_outcome=c.w_outcome,
            w_step=c.w_step,
            w_sft=c.w_sft,
            sft_on=c.sft_on,
            sft_per=c.sft_per,
            max_length=self.scale.max_length,
            too_long="drop",
            micro_batch_size=self.scale.micro_batch,
            gradient_checkpointing=self.scale.gradient_checkpointing,
            seed=stable_seed(c.seed, iteration) % 2**31,
        )
        reference = changed.pop("reference", c.reference)
        settings = replace(settings, **changed)
        encoded = [self.chat.encode_pair(pair) for pair in pairs]
        log = train_preferences(
            self.policy, self.tokenizer, encoded, settings, self.folder / ".trl", self.bar(what), reference
        )
        return adapter_weights(self.policy), log

    def merge(self, agent: str, out: Path) -> Path:
        """Write an agent (`base`, `sft`, `ipr-K`, or `ipr`, the one chosen on dev) as a checkpoint of its own.

        Raises FileNotFoundError where the run has no such agent, FileExistsError where `out` is there.
        """
        agent = self.select() if agent == "ipr" and (self.folder / "selected.json").exists() else agent
        folder = self.folder / "sft" if agent == "sft" else self.file(agent.removeprefix("ipr-"), "adapter")
        if agent != "base" and not folder.exists():
            raise FileNotFoundError(f"{folder}: the run has no agent {agent!r} there; choose base, sft, ipr-1, ...")
        if out.exists():
            raise FileExistsError(f"{out} is there already; give another --out, or remove it")
        weights = None if agent == "base" else self.load(folder)
        return whole(out, lambda aside: save_merged(self.policy, weights, self.tokenizer, aside))


def draw_demonstrations(config: Config, env, habits: str) -> list[Trajectory]:
    """Demonstrations of train tasks drawn by the seed.

    `habits` names people of the world's experts: "habitual", "careful", in the shop also "skips-size" and
    "takes-first". Raises ValueError for others, and where the world has no
    task or no demonstration passes `keep`.
    """
    experts = envs.experts(config.env)
    people = experts.SORTS
    if habits not in people:
        raise ValueError(f"unknown habits {habits!r}; choose one of {', '.join(people)}")
    tasks = list(envs.tasks(config.env, "train", config.data))
    random.Random(stable_seed(config.seed, "demonstrations")).shuffle(tasks)
    keep = experts.KEEP if config.keep is None else config.keep
    drawn = tasks[: config.demonstrations]
    if config.experts:
        recorded, left = authors(config.experts, env, tasks)
        random.Random(stable_seed(config.seed, "demonstrations")).shuffle(recorded)
        drawn = recorded[: config.demonstrations]
        if not drawn:
            raise ValueError(f"{config.experts}: no trajectory can be played again in this world: {dict(left)}")
        kept = [one for one in drawn if one.reward >= keep]
    else:
        kept = experts.demonstrations(drawn, env, people[habits], config.seed, keep=keep)
    if not kept:
        raise ValueError(f"none of {len(drawn)} demonstrations has an outcome of {keep} or more; lower keep")
    return kept


def _key(step: StepReward | ScoredStep) -> tuple:
    """What a step reward depends on besides the scorer: the history, which the expert's steps
    before `step` fix, and the action."""
    task = step.task.id if isinstance(step, ScoredStep) else step.id
    return task, step.step, step.action


def _number(agent: str) -> int:
    return 0 if agent == "sft" else int(agent.removeprefix("ipr-"))


def run(config: Config, folder: Path, quiet: bool = False) -> Path:
    """The main job: all stages in order, then the report. Returns the report's path.

    A run that fails leaves error.txt and a report that says why, and the error goes on.
    """
    run = Run(config, folder, quiet)
    (run.folder / "error.txt").unlink(missing_ok=True)
    try:
        run.say("resuming: finished stages are kept" if run.resumed else plan(run))
        run.demonstrations()
        run.sft()
        for iteration in range(1, config.iterations + 1):
            run.train(iteration)
            run.say(pairs_line(run, iteration))
        rows = run.metrics()
        write_manifest(run.folder, config.seed)
        run.say(results_table([row for row in rows if row["split"].startswith("test")]))
    except Exception as error:
        write_whole(run.folder / "error.txt", f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
        report(run.folder)
        raise
    return report(run.folder)
