"""The exercises' checks, called from the notebooks; a module for every chapter that has exercises.

A check calls what the learner wrote. A stub that still raises NotImplementedError is "not attempted
yet" and passes, so that a notebook runs from top to bottom; a wrong answer raises `WrongAnswer`,
whose message says on what it failed and where to look, not what to write.
"""

from ipr_lite.checks.answers import WrongAnswer, guess
from ipr_lite.checks.chapter_00 import replay
from ipr_lite.checks.chapter_01 import negative, wins
from ipr_lite.checks.chapter_02 import END, agent_mask, observation_share, skipped
from ipr_lite.checks.chapter_03 import episodes_needed, pushed_wrong, unrankable
from ipr_lite.checks.chapter_04 import samples_needed, wrong_rate
from ipr_lite.checks.chapter_05 import action_only, best_setting, one_sided
from ipr_lite.checks.chapter_06 import break_even, push, smoothed
from ipr_lite.checks.chapter_07 import balanced
from ipr_lite.checks.chapter_08 import budget, expected_best, stop_round
from ipr_lite.checks.chapter_09 import FAULTS, broken_trainer, catch_faults, five_trainers, name_faults, revealed
from ipr_lite.checks.chapter_10 import seeds_needed, two_labs, wilson
from ipr_lite.checks.chapter_11 import bits_per_weight, episodes_that_fit
from ipr_lite.checks.chapter_12 import tasks_needed, training_flops
from ipr_lite.checks.chapter_13 import chosen_of_n, ranking_loss
from ipr_lite.checks.chapter_14 import branch_values, critical_steps
from ipr_lite.checks.chapter_15 import guided_comment, plan_pair
from ipr_lite.checks.chapter_16 import group_advantages, same_page_other_state

__all__ = [
    "END", "FAULTS", "WrongAnswer", "action_only", "agent_mask", "balanced", "best_setting", "bits_per_weight", "branch_values",
    "break_even", "broken_trainer", "budget", "catch_faults", "chosen_of_n", "critical_steps", "episodes_needed", "episodes_that_fit",
    "expected_best", "five_trainers", "group_advantages", "guess", "guided_comment", "name_faults", "negative", "observation_share",
    "one_sided", "plan_pair", "push", "pushed_wrong", "ranking_loss", "replay", "revealed", "same_page_other_state", "samples_needed",
    "seeds_needed", "skipped", "smoothed", "stop_round", "tasks_needed", "training_flops", "two_labs", "unrankable",
    "wilson", "wins", "wrong_rate",
]  # fmt: skip
