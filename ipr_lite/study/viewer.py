"""Pages that show what an agent did: a trajectory with its step rewards, a pair side by side.

Everything that a model or an environment wrote is made visible and escaped by the templates, pages hold no script, and
their content policy forbids loading anything. A fragment carries its style, so that
`IPython.display.HTML(trajectory_html(t))` shows it in a notebook and `page` makes it a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ipr_lite.engine.safe_text import visible
from ipr_lite.records import Pair, StepReward, Trajectory
from ipr_lite.study.results import show, show_interval, show_signed

DEMONSTRATORS = ("demonstrator", "habitual", "careful", "expert", "expert-habitual", "expert-careful")
"""Whose trajectories are demonstrations, by today's names and those of older files."""
_LOW, _MIDDLE, _HIGH = (213, 94, 0), (200, 200, 200), (0, 114, 178)


def react(message: str) -> tuple[str, str]:
    """Thought and action of a ReAct message; a message of another form is all action."""
    thought, found, action = message.partition("Action:")
    thought = thought.strip()
    if not found or (thought and not thought.startswith("Thought:")):
        return "", message.strip()
    return thought.removeprefix("Thought:").strip(), action.strip()


def _known(value: float | None) -> str:
    return "not known" if value is None else show(value)


def _colour(reward: float, worst: float) -> str:
    share = min(max((reward - worst) / (1.0 - worst), 0.0), 1.0)
    start, end, part = (_LOW, _MIDDLE, 2 * share) if share < 0.5 else (_MIDDLE, _HIGH, 2 * share - 1)
    mixed = [round(low + part * (high - low)) for low, high in zip(start, end, strict=True)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


TEMPLATES = Environment(
    loader=PackageLoader("ipr_lite.study"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    finalize=lambda value: value if isinstance(value, Markup) else visible(value),
)  # fmt: skip
TEMPLATES.filters.update(
    show=show, show_signed=show_signed, show_interval=show_interval, known=_known, colour=_colour, react=react,
    tidy=lambda values: json.dumps(values, indent=2, ensure_ascii=False),
)  # fmt: skip
PARTS = TEMPLATES.get_template("parts.html").module


def page(title: str, body: str) -> str:
    """One self-contained HTML file. `body` is HTML already; `title` is escaped here."""
    return TEMPLATES.get_template("page.html").render(title=title, body=Markup(body))


def trajectory_html(
    trajectory: Trajectory, step_rewards: Sequence[StepReward] | None = None, title: str | None = None
) -> Markup:
    """A trajectory as an HTML fragment: its steps one below the other, thought and observation folded.

    Steps are coloured by the step reward of whoever acted, from orange (low) to blue (high), and
    carry the number; where the other side's action at the same step was scored too, it stands in
    the fold. `step_rewards` of other tasks are passed over.
    """
    own = [item for item in step_rewards or () if item.id == trajectory.id]
    sides = ("demonstrator", "agent") if trajectory.agent in DEMONSTRATORS else ("agent", "demonstrator")
    scored: dict[tuple[str, int], StepReward] = {}
    for item in own:
        scored.setdefault((item.who, item.step), item)
    worst = min([0.0, trajectory.reward, *(item.reward_mc for item in own)])
    lead = [
        ("instruction" if message["role"] == "system" else "first observation", message["content"])
        for message in takewhile(lambda message: message["role"] != "assistant", trajectory.messages)
    ]
    steps = [
        (step.action, step.observation, *(scored.get((side, number)) for side in sides))
        for number, step in enumerate(trajectory.as_steps(), start=1)
    ]
    title = title or f"Task {trajectory.id}"
    return PARTS.fragment(PARTS.trajectory(trajectory, title, lead, steps, worst, bool(own)))


def pair_html(pair: Pair) -> Markup:
    """A preference as an HTML fragment: the prompt folded, chosen and rejected side by side."""
    sides = []
    for side, messages, reward, outcome in (
        ("chosen", pair.chosen, pair.chosen_reward, pair.chosen_outcome),
        ("rejected", pair.rejected, pair.rejected_reward, pair.rejected_outcome),
    ):
        said = [message["content"] for message in messages] + [""]
        sides.append((side, reward, outcome, list(zip(said[::2], said[1::2], strict=True))))
    return PARTS.fragment(PARTS.pair(pair, sides))


def table_html(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table that scrolls sideways on a phone; every cell is escaped."""
    return PARTS.table(header, rows)
