"""Hunt the silent bug: five trainers, four of them with one line changed, and the tests that tell them apart.

Who is still guessing should not read on: this file knows the answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import NamedTuple

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, say_right

Test = Callable[[SimpleNamespace], None]
SOUND = "sound"
ENOUGH = 2
"""So many faults the learner's tests must catch."""


class Fault(NamedTuple):
    """One changed line: what is wrong, in which function, the right words and the wrong ones; where it shows."""

    what: str
    function: str
    right: str
    wrong: str
    clue: str


FAULTS = {
    "mask": Fault(
        "observations are not masked", "batch_of",
        "[0] * len(pair.prompt_ids) + mask", "[0] * len(pair.prompt_ids) + [1] * len(ids)",
        "the others' log-probabilities start elsewhere. Over how many tokens does it sum?",
    ),
    "reference": Fault(
        "the reference is not frozen", "reference_logps", '"sft"', '"default"',
        "follow its margin from the first update to the last. What would have to happen for it to look like that?",
    ),
    "ties": Fault(
        "a tie goes to the agent", "build_pairs", "ours > theirs", "ours >= theirs",
        "it hardly learns to rank. What does it learn from: how many pairs are there, and what are their two sides worth?",
    ),
    "seed": Fault(
        "all rollouts of a step have one seed", "score", "step.action, sample)", "step.action, n)",
        "no curve shows it. Compare the five outcomes of one action, action by action, with another trainer's.",
    ),
}  # fmt: skip
"""By the word that the exercises use for it; those that curves can show come first."""

_ORDER = {"A": "seed", "B": "reference", "C": SOUND, "D": "ties", "E": "mask"}


def five_trainers(functions: Sequence[Callable]) -> dict[str, SimpleNamespace]:
    """Notebook 09: the trainers A to E, each with these functions; one is sound, four have one line changed.

    Raises ValueError where the functions are not the chapter's.
    """
    return {letter: _trainer(functions, FAULTS.get(word)) for letter, word in _ORDER.items()}


def broken_trainer(functions: Sequence[Callable], function: str, right: str, wrong: str) -> SimpleNamespace:
    """A trainer with a fault of your own: in `function` the text `right`, which stands there once, is `wrong`.

    Raises ValueError where it does not stand there once.
    """
    return _trainer(functions, Fault("your own", function, right, wrong, ""))


def revealed() -> dict[str, str]:
    """Which trainer has which fault: letter to word, `sound` for the one that has none."""
    return dict(_ORDER)


def name_faults(answer: Callable[[], dict[str, str]]) -> None:
    """Notebook 09: `answer()` names the trainers: {"A": word, ...}."""
    words = [SOUND, *FAULTS]
    found = attempt(answer)
    if found is NOTHING:
        return
    if not isinstance(found, dict) or sorted(map(str, found)) != sorted(_ORDER):
        raise WrongAnswer('give a dict with the keys "A", "B", "C", "D" and "E"')
    for letter, word in found.items():
        if word not in words:
            raise WrongAnswer(f"{letter}: {word!r} is none of the words {', '.join(words)}")
    twice = [word for word in words if list(found.values()).count(word) > 1]
    if twice:
        raise WrongAnswer(f"{twice[0]!r} stands twice: every word belongs to one trainer")
    letter_of = {word: letter for letter, word in _ORDER.items()}
    # Two at least are wrong where any is, so one of them has a fault, and a clue.
    wrong = [word for word in (*FAULTS, SOUND) if found[letter_of[word]] != word]
    if wrong:
        right = len(words) - len(wrong)
        raise WrongAnswer(
            f"{right} of {len(words)} are right. Look at {letter_of[wrong[0]]} again: {FAULTS[wrong[0]].clue}"
        )
    say_right("all five. Now write down how you would have noticed without four others beside it")


def catch_faults(write: Callable[[], Sequence[Test]], trainers: Mapping[str, SimpleNamespace]) -> None:
    """Notebook 09: `write()` gives tests; each takes a trainer and raises AssertionError where it is broken."""
    tests = attempt(write)
    if tests is NOTHING:
        return
    tests = [tests] if callable(tests) else tests
    if isinstance(tests, (list, tuple)) and not tests:
        raise WrongAnswer("the list is empty: give your test functions")
    if not isinstance(tests, (list, tuple)) or not all(map(callable, tests)):
        raise WrongAnswer("give a list of your test functions, not what they return")
    # Copies: a test shall judge a trainer by what it does, not by who it is.
    of_word = {word: SimpleNamespace(**vars(trainers[letter])) for letter, word in _ORDER.items()}
    for test in tests:
        accusation = _accuses(test, of_word[SOUND])
        if accusation is not None:
            raise WrongAnswer(f"{_name(test)} accuses the sound trainer falsely{accusation}")
    caught = {word: [test for test in tests if _accuses(test, of_word[word]) is not None] for word in FAULTS}
    for test in tests:
        accusation = _accuses(test, of_word[SOUND])
        if accusation is not None:
            raise WrongAnswer(
                f"{_name(test)} accuses the sound trainer after it has run on the others{accusation}. "
                "Does it leave something changed, such as the policy's weights? Set what it needs at its beginning"
            )
    for test in tests:
        if not any(test in found for found in caught.values()):
            raise WrongAnswer(f"{_name(test)} passes on all five trainers: it would not have caught anything here")
    seen, missed = ([word for word in FAULTS if bool(caught[word]) is hit] for hit in (True, False))
    if len(seen) < ENOUGH:
        raise WrongAnswer(f"caught: {', '.join(seen)}; one fault is not enough, {', '.join(missed)} go on unnoticed")
    rest = f"; {' and '.join(missed)} would go on unnoticed" if missed else ", and the sound trainer is left in peace"
    say_right(f"caught {', '.join(seen)}{rest}")


def _accuses(test: Test, trainer: SimpleNamespace) -> str | None:
    """What an AssertionError of the test says (": ..." or nothing), None where it passes.

    Any other error is the test's own. Raises WrongAnswer for it.
    """
    try:
        test(trainer)
    except AssertionError as error:
        return f": {error}" if str(error) else ""
    except Exception as error:
        raise WrongAnswer(
            f"{_name(test)} stops with {type(error).__name__}: {error}. That is an error of the test itself; "
            "only a failed `assert` says that the trainer is broken"
        ) from None
    return None


def _name(test: Test) -> str:
    return getattr(test, "__name__", "a test")


def _trainer(functions: Sequence[Callable], fault: Fault | None) -> SimpleNamespace:
    """The functions, compiled anew so that they call each other, with the fault in them."""
    sources = {function.__name__: inspect.getsource(function) for function in functions}
    if fault:
        found = sources.get(fault.function, "").count(fault.right)
        if found != 1:
            raise ValueError(
                f"the line to change stands {found} times in {fault.function}(), not once; "
                "run the chapter's cells as they are"
            )
        sources[fault.function] = sources[fault.function].replace(fault.right, fault.wrong)
    space = dict(functions[0].__globals__)
    exec("\n\n".join(sources.values()), space)
    return SimpleNamespace(**{name: space[name] for name in sources})
