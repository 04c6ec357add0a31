"""How an episode is told in a line, without what only its own world could tell: what plans and comments are made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ipr_lite.envs.base import TextEnv
from ipr_lite.records import Trajectory

COMMON = 0.5
"""A word belongs to the world, and may stand in an outline, if so large a share of the demonstrations says it."""
_WORD = re.compile(r"[^\W_]+(?:[-'.][^\W_]+)*")


def words_of(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


class Outlines:
    """What episodes of a run did, without what only their own world could tell.

    A word that neither the instruction says nor many demonstrations is "it": click[B0714] is click[it].
    """

    def __init__(self, env: TextEnv, demonstrations: Sequence[Trajectory]):
        self.env = env
        said = Counter(word for t in demonstrations for word in words_of(" ".join(map(self._parsed, t.actions))))
        self.common = {word for word, number in said.items() if number >= COMMON * len(demonstrations)}

    def of(self, trajectory: Trajectory) -> list[str]:
        """Each different action of an episode, once, in order."""
        known = self.common | words_of(trajectory.task.instruction)

        def told(action: str) -> str:
            text = _WORD.sub(lambda word: word[0] if word[0].lower() in known else "it", action)
            return " ".join(re.sub(r"\bit( it\b)+", "it", text).split())

        return list(dict.fromkeys(told(action) for action in map(self._parsed, trajectory.actions) if action))

    def lacking(self, attempt: Trajectory, better: Trajectory) -> list[str]:
        """What another episode did and an attempt did not."""
        done = self.of(attempt)
        return [action for action in self.of(better) if action not in done]

    def usual(self, demonstrations: Sequence[Trajectory]) -> list[str]:
        """What half of the demonstrations do, or more, without the words of their own instructions."""
        untold = [replace(t, task=replace(t.task, instruction="")) for t in demonstrations]
        taken = Counter(action for t in untold for action in self.of(t))
        return [action for action, times in taken.items() if times >= COMMON * len(demonstrations)]

    def _parsed(self, message: str) -> str:
        return self.env.parse(message) or ""
