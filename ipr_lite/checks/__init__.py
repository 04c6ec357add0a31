"""The exercises' checks, called from the notebooks; a module for every chapter that has exercises.

A check calls what the learner wrote. A stub that still raises NotImplementedError is "not attempted
yet" and passes, so that a notebook runs from top to bottom; a wrong answer raises `WrongAnswer`,
whose message says on what it failed and where to look, not what to write.
"""

from ipr_lite.checks.answers import WrongAnswer, guess
from ipr_lite.checks.chapter_00 import replay
from ipr_lite.checks.chapter_01 import negative, wins
from ipr_lite.checks.chapter_02 import END, agent_mask, observation_share, skipped
from ipr_lite.checks.chapter_04 import samples_needed, wrong_rate
from ipr_lite.checks.chapter_05 import action_only
from ipr_lite.checks.chapter_06 import push

__all__ = [
    "END", "WrongAnswer", "action_only", "agent_mask", "guess", "negative", "observation_share", "push", "replay",
    "samples_needed", "skipped", "wins", "wrong_rate",
]  # fmt: skip
