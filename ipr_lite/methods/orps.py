"""ORPS (Yu et al., ICML 2025): a beam search over programs, whose candidates are run; process and outcome count half each.

    q = 1/2 process + 1/2 outcome

The outcome of a query is what its execution shows without the gold answer: 1 where it found rows, half where it found
none, 0 where the database refused it. The paper also profiles time and runs tests that come with the task; here a test
would be the reward. Its process score is the language model's own critique, from 1 to 5; a tiny model cannot criticise,
so the learned step reward model speaks for it. The search is that of `beam.py`, which is the control: process alone.
"""

from __future__ import annotations

from functools import partial

from ipr_lite.envs.sql.env import NOT_UNDERSTOOD, PREFIX
from ipr_lite.methods.beam import Node, by_the_model, searched
from ipr_lite.methods.method import Method, prepared
from ipr_lite.run import Run

EMPTY = "[]"
"""What a database answers that found no row."""


def half_and_half(run: Run, nodes: list[Node]) -> list[float]:
    """q of every node, in [0, 1]."""
    process = [min(max(value, 0.0), 1.0) for value in by_the_model(run, nodes)]
    return [(judged + executed(node)) / 2 for judged, node in zip(process, nodes, strict=True)]


def executed(node: Node) -> float:
    """The outcome of the last action; of a submission, that of the query before it, whose answer is submitted.

    Raises ValueError in a world without queries, where nothing can be executed before it counts.
    """
    if node.task.env != "sql":
        raise ValueError(f"orps executes queries; the world {node.task.env!r} has none: --env sql")
    answers = [m["content"] for m in node.messages[2:] if m["role"] == "user"]
    last = answers[-1].removeprefix(PREFIX) if answers else EMPTY
    if last.startswith(("Error executing query", NOT_UNDERSTOOD)):
        return 0.0
    return 0.5 if last == EMPTY else 1.0


ORPS = Method(
    "orps", "a beam by process and execution", prepared("orps"), "#6699cc", "$q$", partial(searched, half_and_half)
)
