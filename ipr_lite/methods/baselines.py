"""What IPR is compared with, on the same run: its data, its scorer, its budget.

    sft-long        SFT on the same demonstrations, for as many updates as SFT and IPR together
    sft-careful     SFT on as many demonstrations of careful people: is it the habit that costs?
    rft             SFT on the demonstrations and on what the SFT policy did better (rejection sampling)
    eto             DPO on whole trajectories, judged by their outcome (Song et al., ACL 2024)
    naive-step-dpo  DPO on single actions, judged by the final outcome: the failure that ETO reports
    random-pairs    IPR's own pairs with the preference drawn at random: is it the preference that
                    helps, or only more training on the same texts?

PPO and Step-PPO are in `ppo.py`, Best-of-N in `best_of_n.py`. Each gets the actions in the world that IPR takes
on the same run (naive-step-dpo fewer: it scores nothing) and its updates. A baseline gives its policy after every
round it trains; of several, dev chooses one, as it does for IPR.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ipr_lite.ipr import NoPairs, Run, draw_demonstrations
from ipr_lite.lab import Weights
from ipr_lite.pairs import Exploration, contrasts, empty_counts, explore, outcome_pairs, step_pairs, steps_to_score
from ipr_lite.records import Pair
from ipr_lite.rollout import stable_seed
from ipr_lite.trajectory import Trajectory


def sft_long(run: Run) -> list[Weights]:
    """SFT for the number of updates that SFT and all iterations of IPR take together."""
    updates = all_updates(run)
    run.spend("sft-long/1", updates=updates)
    return [run.clone(run.demonstrations(), updates)[0]]


def sft_careful(run: Run) -> list[Weights]:
    """SFT on as many demonstrations as the run has, by people without habits, of the same tasks."""
    careful = draw_demonstrations(run.config, run.env, "careful")
    weights, log = run.clone(careful[: len(run.demonstrations())])
    run.spend("sft-careful/1", updates=len(log))
    return [weights]


def rft(run: Run) -> list[Weights]:
    """Rejection sampling: the SFT policy samples episodes; what succeeds, or does better than the
    demonstration of its task, joins the demonstrations; SFT anew, for as long as `sft_long`.

    Raises nothing where no episode is kept: then it is `sft_long`.
    """
    experts = run.demonstrations()
    budget = sum(round_budget(run, i)["env_steps"] for i in range(1, run.config.iterations + 1))
    outcome = {expert.id: expert.reward for expert in experts}
    kept: dict[tuple, Trajectory] = {}
    played, spent = explored(run, run.sft(), "rft", budget)
    for t in played:
        if (t.success or t.reward > outcome[t.id] + run.config.tau_outcome) and not t.extra.get("overflow"):
            kept[t.id, *t.actions] = t
    updates = all_updates(run)
    run.spend("rft/1", updates=updates, **spent)
    return [run.clone([*experts, *kept.values()], updates)[0]]


def eto(run: Run) -> list[Weights]:
    """Trajectory DPO: each round explores the training tasks, and the higher outcome, expert's or agent's, wins.

    No step pairs, no SFT term; the reference is the current iterate, as in its code (`eto_reference="sft"`:
    the SFT policy). Greedy at first, then sampled until IPR's actions of the round are taken; with
    `eto_once` greedy alone, as in its paper.
    """
    c, rounds = run.config, [run.sft()]
    for iteration in range(1, c.iterations + 1):
        budget = 0 if c.eto_once else round_budget(run, iteration)["env_steps"]
        played, spent = explored(run, rounds[-1], f"eto-{iteration}", budget, greedy_first=True)
        distinct = {(t.id, *t.actions): Exploration(1, t) for t in played}
        pairs = outcome_pairs(run.demonstrations(), list(distinct.values()), run.rule, empty_counts())
        rounds.append(_contrasted(run, "eto", iteration, pairs, rounds[-1], spent, c.eto_reference))
    return rounds[1:]


def naive_step_dpo(run: Run) -> list[Weights]:
    """DPO on single actions from every step on, the final outcome standing in for the step reward.

    It explores as IPR does; no Monte Carlo, no outcome pairs, no SFT term, the current iterate as reference.
    """
    rounds = [run.sft()]
    experts = run.demonstrations()
    states = run.states(experts)
    rule = replace(run.rule, action_only=True, tau_step=run.rule.tau_outcome, step_pairs_from=1)
    for iteration in range(1, run.config.iterations + 1):
        player = run.player(rounds[-1], run.config.explore_temperature, f"naive-{iteration}")
        seed = stable_seed(run.config.seed, iteration, "naive-step-dpo")
        found = explore(experts, states, player, seed, run.bar("explore"))
        left = contrasts(experts, found, run.env, rule, empty_counts())
        outcomes = [step.rewarded(step.outcome) for step in steps_to_score(left, states)]
        pairs = step_pairs(left, outcomes, rule, empty_counts())
        spent = {"env_steps": player.actions_taken, "tokens": player.tokens_written}
        rounds.append(_contrasted(run, "naive-step-dpo", iteration, pairs, rounds[-1], spent, "current"))
    return rounds[1:]


def random_pairs(run: Run) -> list[Weights]:
    """IPR's training on IPR's pairs of each iteration, every preference decided by a coin."""
    rounds = [run.sft()]
    for iteration in range(1, run.config.iterations + 1):
        rng = random.Random(stable_seed(run.config.seed, iteration, "random-pairs"))
        pairs = [flipped(p) if rng.random() < 0.5 else p for p in run.pairs(iteration)]
        weights, log = run.learn(pairs, rounds[-1], iteration, what="random pairs")
        run.spend(f"random-pairs/{iteration}", updates=len(log), **round_budget(run, iteration))
        rounds.append(weights)
    return rounds[1:]


METHODS = {
    "sft-long": sft_long, "sft-careful": sft_careful, "rft": rft, "eto": eto, "naive-step-dpo": naive_step_dpo,
    "random-pairs": random_pairs,
}  # fmt: skip

RATE = {"naive-step-dpo": 0.4}
"""Learning rates, in parts of IPR's, where the search on dev found another one (`data/results/shop_search.csv`)."""


# --- what they share ------------------------------------------------------------------------------


def all_updates(run: Run) -> int:
    """The updates of SFT and of all iterations of IPR."""
    run.sft()
    return run.spent(["sft"])["updates"] + run.config.iterations * run.config.updates


def round_budget(run: Run, iteration: int) -> dict[str, int]:
    """The actions (and tokens) that IPR takes to explore and score in an iteration."""
    run.step_rewards(iteration)
    spent = run.spent([f"iteration-{iteration}/explore", f"iteration-{iteration}/score"])
    return {name: spent[name] for name in ("env_steps", "tokens")}


def explored(
    run: Run, weights: Weights, agent: str, env_steps: int, greedy_first: bool = False
) -> tuple[list[Trajectory], dict[str, int]]:
    """Episodes on the tasks of the demonstrations, one pass after another, and what they spent.

    A pass plays every task once, the last one as many as fit `env_steps` actions; one pass at least.
    Sampled at temperature 1; with `greedy_first` the first pass is greedy.
    """
    tasks = [expert.task for expert in run.demonstrations()]
    played: list[Trajectory] = []
    spent = {"env_steps": 0, "tokens": 0}
    rest = len(tasks)
    for number in range(10_000):
        if number:
            rest = min(len(tasks), int((env_steps - spent["env_steps"]) * len(played) / spent["env_steps"]))
            if rest < 1:
                break
        temperature = 0.0 if greedy_first and number == 0 else 1.0
        player = run.player(weights, temperature, agent)
        episodes = [run.start(task, stable_seed(run.config.seed, agent, number, task.id)) for task in tasks[:rest]]
        played += player.play(episodes, run.bar(f"explore {agent}"))
        spent["env_steps"] += player.actions_taken
        spent["tokens"] += player.tokens_written
    return played, spent


def flipped(pair: Pair) -> Pair:
    """The same pair with the preference the other way round."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_reward=pair.rejected_reward,
        rejected_reward=pair.chosen_reward,
        chosen_outcome=pair.rejected_outcome,
        rejected_outcome=pair.chosen_outcome,
    )


def _contrasted(
    run: Run, method: str, iteration: int, pairs: list[Pair], start: Weights, spent: dict[str, int], reference: str
) -> Weights:
    """A round of plain DPO on these pairs: no SFT term."""
    if not pairs:
        raise NoPairs(f"{method} built no pair in iteration {iteration}: expert and agent always end alike")
    rate = run.config.learning_rate or RATE.get(method, 1.0) * run.scale.learning_rate
    weights, log = run.learn(pairs, start, iteration, what=method, w_sft=0.0, reference=reference, learning_rate=rate)
    run.spend(f"{method}/{iteration}", updates=len(log), **spent)
    return weights
