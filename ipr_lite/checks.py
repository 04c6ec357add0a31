"""The exercises' checks, called from the notebooks.

A check calls what the learner wrote. A stub that still raises NotImplementedError is "not attempted
yet" and passes, so that a notebook runs from top to bottom; a wrong answer raises `WrongAnswer`,
whose message says on what it failed and where to look, not what to write.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

_NOTHING = object()


class WrongAnswer(AssertionError):
    """What is wrong with an answer, and where to look."""


def guess(number: float | None, truth: float, unit: str = "") -> None:
    """Puts a prediction beside the answer. No prediction is fine, a wrong one too."""
    answer = f"the answer is {truth:.3g} {unit}".strip()
    print(f"no guess; {answer}" if number is None else f"your guess {number:.3g}, {answer}")


def replay(play: Callable[[int], list[str]]) -> None:
    """Notebook 00: `play(seed)` gives the actions of one sampled rollout, the same for the same seed."""
    first = _attempt(play, 0)
    if first is _NOTHING:
        return
    if not isinstance(first, list) or not all(isinstance(action, str) for action in first):
        raise WrongAnswer(
            f"replay(0) gave a {type(first).__name__}; it must give `trajectory.actions`, a list of texts"
        )
    if play(0) != first:
        raise WrongAnswer(
            "replay(0) gave two different rollouts: every call needs a fresh world (clone and reset) "
            "and an Episode that begins with exactly this seed"
        )
    if all(play(seed) == first for seed in range(1, 6)):
        raise WrongAnswer(
            "the seeds 0 to 5 all gave the same rollout: is the temperature 1, and does the seed reach the Episode?"
        )
    _right("same seed, same rollout; another seed, another one")


def wins(write: Callable[[], list[str]], env: Any, task: Any) -> None:
    """Notebook 01: `write()` gives the commands that win a household task."""
    commands = _attempt(write)
    if commands is _NOTHING:
        return
    if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
        raise WrongAnswer('commands() must return a list of texts such as "go to countertop 1"')
    env.reset(options={"task": task})
    for number, command in enumerate(commands, start=1):
        observation, reward, terminated, truncated, info = env.step(env.message(command))
        if info["invalid"]:
            raise WrongAnswer(
                f"command {number}, {command!r}, was answered: {observation!r}. Look at what came before: {commands[: number - 1]}"
            )
        if terminated:
            return _right(f"won with {number} commands")
        if truncated:
            raise WrongAnswer(f"the {number} steps are used up; the task was: {task.instruction}")
    last = f"the last answer was {observation!r}" if commands else "there was none"
    raise WrongAnswer(f"after {len(commands)} commands the goal does not hold yet ({last}): {task.instruction}")


def negative(write: Callable[[], str], env: Any, task: Any) -> None:
    """Notebook 01: `write()` gives a query that earns less than nothing."""
    query = _attempt(write)
    if query is _NOTHING:
        return
    env.reset(options={"task": task})
    observation, *_, info = env.step(env.message(str(query)))
    if info["invalid"]:
        raise WrongAnswer(f"the database answered: {observation.strip()!r}")
    _, reward, *_ = env.step(env.message("submit"))
    if reward >= 0:
        raise WrongAnswer(
            f"this earns {reward}: {'these are not the right rows' if reward == 0 else 'turn the order around'}"
        )
    _right(f"a reward of {reward}, for the right rows")


# A conversation for the mask: (role, header, content). An agent's turn ends with END; the second
# observation quotes the agent's header, which a search for headers would fall for.
END = "<|end|>"
_TURNS = [
    ("system", "<|system|>", ["You", "shop", "."]),
    ("user", "<|user|>", ["WebShop", "[SEP]", "buy", "tea"]),
    ("assistant", "<|assistant|>", ["Action:", "search[tea]"]),
    ("user", "<|user|>", ["1", "result", "<|assistant|>", "ad"]),
    ("assistant", "<|assistant|>", ["Action:", "click[Buy Now]"]),
]
_MASK = [0, 0, 0, 0] + [0, 0, 0, 0, 0] + [0, 1, 1, 1] + [0, 0, 0, 0, 0] + [0, 1, 1, 1]
_WHY = {
    "system": "the instruction is given, the agent does not write it",
    "user": "the world writes observations, the agent only reads them",
    "header": "the chat template writes the header, the agent begins after it",
    "content": "this is the agent's own message",
    "end": "the agent writes the end token itself: it has to learn to stop",
}


def agent_mask(build: Callable[[list[tuple[str, str, list[str]]]], list[int]]) -> None:
    """Notebook 02: the mask of a conversation of turns (role, header, content)."""
    cases = [_TURNS[:3], _TURNS, [*_TURNS[:2], ("assistant", "<|assistant|>", [])]]
    for turns in cases:
        found = _attempt(build, turns)
        if found is _NOTHING:
            return
        tokens = [
            (token, kind)
            for role, header, content in turns
            for token, kind in [
                (header, "header" if role == "assistant" else role),
                *((token, "content" if role == "assistant" else role) for token in content),
                *([(END, "end")] if role == "assistant" else []),
            ]
        ]
        expected = [int(kind in ("content", "end")) for _, kind in tokens]
        try:
            values = [int(value) for value in found]
        except TypeError:
            raise WrongAnswer(f"the mask is a {type(found).__name__}; it must be a list of 0 and 1") from None
        if len(values) != len(expected):
            raise WrongAnswer(
                f"a conversation of {len(expected)} tokens got a mask of {len(values)}: every turn is its "
                "header, its content and, for the agent, the end token"
            )
        for place, (value, right) in enumerate(zip(values, expected)):
            if value != right:
                token, kind = tokens[place]
                raise WrongAnswer(f"token {place}, {token!r}, got {value}, not {right}: {_WHY[kind]}")
    _right("only what the agent writes, end tokens included")


def skipped(find: Callable) -> None:
    """Notebook 02: `find(trajectory)` gives the options that the task asks for and nobody clicked."""
    searched = "Action: search[red tea 3 pack]"
    cases = [
        (["red"], [searched, "Thought: red.\nAction: click[red]", "Action: click[Buy Now]"], []),
        (["red", "3 pack"], [searched, "Action: click[red]", "Action: click[Buy Now]"], ["3 pack"]),
        ([], [searched, "Action: click[Buy Now]"], []),
        (["red"], [searched, "Thought: I want it in red.\nAction: click[Buy Now]"], ["red"]),
        (["red"], [searched, "Thought: it is red.\nAction: click[infrared]", "Action: click[Buy Now]"], ["red"]),
        (["3 pack", "red"], [searched, "Action: click[Buy Now]"], ["3 pack", "red"]),
    ]
    for asked, actions, expected in cases:
        found = _attempt(find, _trajectory(asked, actions))
        if found is _NOTHING:
            return
        shown = f"asked for {asked}, actions {[a.split('Action: ')[1] for a in actions]}"
        try:
            values = sorted(found)
        except TypeError:
            raise WrongAnswer(f"{shown}: you gave a {type(found).__name__}; give a list of options") from None
        for option in values:
            if option not in expected:
                raise WrongAnswer(f"{shown}: {option!r} is not skipped: it was clicked or never asked for")
        for option in expected:
            if option not in values:
                raise WrongAnswer(
                    f"{shown}: {option!r} was skipped: only a click on exactly this text chooses it, not a search "
                    "and not a thought"
                )
    _right("an option counts as chosen when exactly it was clicked")


def observation_share(share: Callable) -> None:
    """Notebook 02: `share(token_losses, mask)`, the part of the summed loss that is not the agent's."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for length in (5, 12, 40):
        losses = torch.rand(length, generator=generator) * 3
        mask = (torch.rand(length, generator=generator) < 0.4).long()
        mask[0], mask[1] = 1, 0
        found = _attempt(share, losses, mask)
        if found is _NOTHING:
            return
        found = float(found)
        right = float(losses[mask == 0].sum() / losses.sum())
        if math.isclose(found, right, rel_tol=1e-4):
            continue
        shown = f"{length} tokens, summed loss {losses.sum():.3f}: you gave {found:.4f}"
        if math.isclose(found, 1 - right, rel_tol=1e-4):
            raise WrongAnswer(f"{shown}: that is the agent's share; the mask is 1 on the agent's tokens")
        if math.isclose(found, float((mask == 0).float().mean()), rel_tol=1e-4):
            raise WrongAnswer(f"{shown}: that is the share of the tokens; weigh every token by its loss")
        if math.isclose(found, float(losses[mask == 0].sum()), rel_tol=1e-4):
            raise WrongAnswer(f"{shown}: that is the sum over observations; divide it by the whole sum")
        raise WrongAnswer(f"{shown}: sum the losses where the mask is 0 and divide by the sum of all")
    _right("the loss where the mask is 0, over the whole loss")


def wrong_rate(expert: Sequence[float], agent: Sequence[float], n: int) -> float:
    """The chance that n rollouts each rank the agent's action above the expert's, exactly.

    `expert` and `agent` are the outcomes that a rollout after each action may have, all equally
    likely. Equal means make no pair: the chance is among the pairs that are made.
    """
    higher = lower = 0.0
    for a, chance_a in _sums(agent, n).items():
        for e, chance_e in _sums(expert, n).items():
            if abs(a - e) > 1e-9:
                higher += chance_a * chance_e * (a > e)
                lower += chance_a * chance_e * (a < e)
    return higher / (higher + lower)


def samples_needed(needed: Callable[[list[float], list[float], float], int]) -> None:
    """Notebook 04: the smallest N for which fewer than `limit` of the pairs are wrong."""
    cases = [
        ([1.0, 1.0, 1.0, 0.5], [1.0, 0.5, 0.5, 0.0], 0.07),
        ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], 0.14),
        ([1.0, 0.75, 0.75, 0.5], [0.75, 0.75, 0.5, 0.5], 0.095),
        ([1.0], [0.5, 0.75], 0.10),
    ]
    for expert, agent, limit in cases:
        found = _attempt(needed, expert, agent, limit)
        if found is _NOTHING:
            return
        shown = f"expert {expert}, agent {agent}, under {limit:.0%}"
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise WrongAnswer(f"{shown}: you gave {found!r}; give a whole number of rollouts, 1 or more")
        # A simulation may be off by a little: half a percentage point is let pass.
        rate = wrong_rate(expert, agent, found)
        if rate >= limit + 0.005:
            raise WrongAnswer(f"{shown}: with N = {found} still {rate:.1%} of the pairs are wrong; more are needed")
        fewer = wrong_rate(expert, agent, found - 1) if found > 1 else 1.0
        if fewer < limit - 0.005:
            raise WrongAnswer(f"{shown}: N = {found} is more than needed; with {found - 1} only {fewer:.1%} are wrong")
    _right("enough rollouts, and not one too many")


def push(derivative: Callable[[float, float], float]) -> None:
    """Notebook 07: d loss / d log-probability of the chosen side, from the margin and beta."""
    for margin in (0.0, 0.7, -1.3, 4.0):
        for beta in (0.1, 0.5):
            found = _attempt(derivative, margin, beta)
            if found is _NOTHING:
                return
            found, right = float(found), -beta / (1 + math.exp(margin))
            if math.isclose(found, right, rel_tol=1e-3):
                continue
            shown = f"margin {margin}, beta {beta}: you gave {found:.4f}"
            if math.isclose(found, -right, rel_tol=1e-3):
                raise WrongAnswer(
                    f"{shown}: the size is right, the sign is not: does a likelier winner raise the loss?"
                )
            if math.isclose(abs(found), -right / beta, rel_tol=1e-3):
                raise WrongAnswer(f"{shown}: the log-probability enters the margin times beta; that factor is missing")
            if math.isclose(abs(found), beta / (1 + math.exp(-margin)), rel_tol=1e-3):
                raise WrongAnswer(f"{shown}: a pair that is ranked right already must push less, not more")
            raise WrongAnswer(f"{shown}: differentiate -log sigmoid(margin), then the margin, and multiply")
    _right("-beta * sigmoid(-margin)")


def action_only(shorten: Callable) -> None:
    """Notebook 07: `shorten(pair)` contrasts the action at t alone, not the suffix from t."""
    from ipr_lite.records import Pair

    def said(*texts: str) -> list[dict[str, str]]:
        roles = ("assistant", "user")
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]

    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "o1"}]
    chosen, rejected = said("a", "o2", "b", "o3", "c"), said("x", "o2", "y")
    step = Pair([*prompt, *said("a1", "o1b")], chosen, rejected, "step", "t", 2, 0.9, 0.4, 1.0, 0.5)
    whole = Pair(prompt, chosen, rejected, "outcome", "t", 1, None, None, 1.0, 0.5)
    before = copy.deepcopy(step)
    short = _attempt(shorten, step)
    if short is _NOTHING:
        return
    if not isinstance(short, Pair):
        raise WrongAnswer(f"you gave a {type(short).__name__}; give a Pair (dataclasses.replace makes a changed copy)")
    for side in ("chosen", "rejected"):
        if getattr(short, side) != getattr(before, side)[:1]:
            kept = [message["content"] for message in getattr(short, side)]
            raise WrongAnswer(
                f"a step pair: {side} holds {kept}; only the first action may stay, without its observation"
            )
    if (short.prompt, short.kind, short.chosen_reward) != (before.prompt, "step", 0.9):
        raise WrongAnswer("a step pair: prompt, kind and rewards must stay as they were")
    if step != before:
        raise WrongAnswer("the pair that you were given has changed; make a changed copy instead")
    if shorten(whole).to_record() != whole.to_record():
        raise WrongAnswer("an outcome pair compares whole trajectories: it must stay as it is")
    _right("step pairs are one action long, outcome pairs are untouched")


def _attempt(function: Callable, *arguments: Any) -> Any:
    """What the learner's function returns; says "not attempted yet" where it does not."""
    try:
        found = function(*arguments)
    except NotImplementedError:
        print("not attempted yet")
        return _NOTHING
    if found is None or found is ...:
        raise WrongAnswer(f"{function.__name__} returned {found}: is a `return` missing?")
    return found


def _right(why: str) -> None:
    print(f"right: {why}")


def _sums(outcomes: Sequence[float], n: int) -> dict[float, float]:
    """Chance of every sum of n draws, with replacement, from equally likely outcomes."""
    sums = {0.0: 1.0}
    for _ in range(n):
        after: dict[float, float] = {}
        for total, chance in sums.items():
            for outcome in outcomes:
                key = round(total + outcome, 9)
                after[key] = after.get(key, 0.0) + chance / len(outcomes)
        sums = after
    return sums


def _trajectory(asked: list[str], actions: list[str]):
    from ipr_lite.trajectory import Task, Trajectory

    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "o"}]
    for action in actions:
        messages += [{"role": "assistant", "content": action}, {"role": "user", "content": "o"}]
    task = Task(
        "t", "shop", "train", "buy red tea", {"goal_options": asked, "option_kinds": ["color", "count"][: len(asked)]}
    )
    return Trajectory(task, messages[:-1], 1.0, True, "expert")
