"""One number per episode: how many episodes, which of them it cannot rank, and what it pushes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, conversation, say_right
from ipr_lite.records import Task, Trajectory

_EASILY_MISSED = (
    "is a `return` missing? Any two may be the two, not neighbours alone",
    "outcomes that differ by at most 0.01 count as equal",
    "one episode may be the longer one",
    "the same actions in another order are other actions",
)
TIE = 0.01
"""Outcomes that differ by no more make no outcome pair (`PairRule.tau_outcome`)."""


def episodes_needed(needed: Callable[[int, float, float], int]) -> None:
    """Notebook 03: the smallest number of episodes after which every step has seen both actions, with probability `sure`."""
    for steps, usual, sure in ((1, 0.5, 0.75), (3, 0.9, 0.9), (12, 0.95, 0.9), (3, 0.5, 0.9), (6, 0.9, 0.5)):
        found = attempt(needed, steps, usual, sure)
        if found is NOTHING:
            return
        shown = f"{steps} steps, the usual action with {usual}, {sure:.0%} sure"
        if isinstance(found, bool) or found != int(found) or found < 1:
            raise WrongAnswer(f"{shown}: you gave {found!r}; give a whole number of episodes, 1 or more")
        found, right = int(found), _first(lambda n: _complete(steps, usual, n) >= sure)
        if found == right:
            continue
        shown += f": you gave {found}"
        if found == _first(lambda n: _complete(1, usual, n) >= sure):
            raise WrongAnswer(f"{shown}; that is enough for one step: the others must have seen both actions, too")
        if found == _first(lambda n: (1 - usual**n) ** steps >= sure):
            raise WrongAnswer(f"{shown}; that counts the other action alone: the usual one must have been taken, too")
        if found in (int(1 / (1 - usual)), round(1 / (1 - usual))):
            raise WrongAnswer(
                f"{shown}; that is how long one waits for the other action on average, not with {sure:.0%}"
            )
        if found < right:
            chance = _complete(steps, usual, found)
            raise WrongAnswer(f"{shown}; the table is then complete with a probability of only {chance:.3f}")
        chance = _complete(steps, usual, found - 1)
        raise WrongAnswer(f"{shown}; that is more than needed: one fewer is enough, with a probability of {chance:.3f}")
    say_right("every step must have seen both actions, and all steps at once")


def unrankable(find: Callable[[list[Trajectory], Callable[[str], str]], tuple[Trajectory, Trajectory]]) -> None:
    """Notebook 03: `find(trajectories, parse)` gives two trajectories of one task with equal outcome and different actions."""
    search, buy = "Thought: I look.\nAction: search[tea]", "Thought: it fits.\nAction: click[Buy Now]"
    again = "Thought: it is cheap.\nAction: click[buy now]"
    red, blue = "Thought: red.\nAction: click[red]", "Thought: blue.\nAction: click[blue]"
    cases = [
        [  # another task, other thoughts, another outcome; the last can be paired with the first or the third
            _episode("a", 0.5, search, buy), _episode("b", 0.5, search, red, buy), _episode("a", 0.5, search, again),
            _episode("a", 0.8, search, blue, buy), _episode("a", 0.5, search, red, buy),
        ],
        [_episode("a", 0.9, search, buy), _episode("a", 0.6667, search, red, buy), _episode("a", 2 / 3, search, blue, buy)],
        [_episode("c", 1.0, search, red), _episode("c", 0.0, search, blue), _episode("c", 1.0, search, red, buy)],
        [_episode("d", 0.5, red, blue), _episode("d", 0.53, red, buy), _episode("d", 0.5, blue, red)],
    ]  # fmt: skip
    for number, trajectories in enumerate(cases, start=1):
        try:
            found = attempt(find, trajectories, _parse)
        except WrongAnswer:
            why = _EASILY_MISSED[number - 1]
            raise WrongAnswer(f"list {number}: nothing came back, but there are two such trajectories: {why}") from None
        if found is NOTHING:
            return
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise WrongAnswer(f"list {number}: you gave {type(found).__name__}; give the two trajectories as a tuple")
        if not all(any(trajectory is given for given in trajectories) for trajectory in found):
            raise WrongAnswer(f"list {number}: give two of the trajectories themselves, not copies or places")
        one, other = found
        if one.id != other.id:
            raise WrongAnswer(f"list {number}: these are trajectories of different tasks ({one.id} and {other.id})")
        if abs(one.reward - other.reward) > TIE:
            raise WrongAnswer(f"list {number}: their outcomes {one.reward} and {other.reward} can be ranked")
        if [_parse(a) for a in one.actions] == [_parse(a) for a in other.actions]:
            raise WrongAnswer(f"list {number}: these two act alike; only their words differ: compare parsed actions")
    say_right("one task, equal outcomes, different actions: no preference can be made of them")


def pushed_wrong(number: Callable[[list[bool], list[bool], int], int]) -> None:
    """Notebook 03: how many steps an outcome pair pushes the wrong way."""
    cases = [
        ([True, True, True], [True, False, True], 0),
        ([True, False, True], [True, False, True, True], 1),
        ([True, True, False], [True, True, True, False, True], 2),
        ([True, True], [False, False, False], 0),
        ([False, True], [False, False], 1),
    ]
    for winner, loser, shared in cases:
        found = attempt(number, list(winner), list(loser), shared)
        if found is NOTHING:
            return
        shown = f"winner {winner}, loser {loser}, shared {shared}"
        if isinstance(found, (list, tuple, bool)):
            raise WrongAnswer(f"{shown}: you gave {found!r}; give how many steps, a whole number")
        up, down = winner[shared:], loser[shared:]
        right = up.count(False) + down.count(True)
        if found == right:
            continue
        if found == winner.count(False) + loser.count(True):
            why = "the steps at the beginning that both say word for word are not pushed at all"
        elif found == down.count(True):
            why = "that counts the loser alone; the winner's wrong steps are pushed up"
        elif found == up.count(True) + down.count(False):
            why = "those are pushed the right way: up where right in the winner, down where wrong in the loser"
        elif found == up.count(False):
            why = "that counts the winner alone; the loser's right steps are pushed down"
        else:
            why = "count the winner's wrong steps and the loser's right ones, after the shared beginning"
        raise WrongAnswer(f"{shown}: you gave {found}; {why}")
    say_right("the winner's wrong steps and the loser's right ones, from where the two part")


def _complete(steps: int, usual: float, episodes: int) -> float:
    """The chance that both actions were taken at every step."""
    return (1 - usual**episodes - (1 - usual) ** episodes) ** steps


def _first(enough: Callable[[int], bool]) -> int:
    return next(n for n in count(1) if enough(n))


def _parse(message: str) -> str:
    return message.rpartition("Action: ")[2].strip().lower()


def _episode(task: str, reward: float, *actions: str) -> Trajectory:
    return Trajectory(Task(task, "shop", "train", "buy tea"), conversation(actions), reward, reward == 1, "agent")
