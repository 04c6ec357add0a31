"""Pages that show what an agent did: a trajectory with its step rewards, a pair side by side.

Everything that a model or an environment wrote is escaped, pages hold no script, and their content
policy forbids loading anything. A fragment carries its style, so that
`IPython.display.HTML(trajectory_html(t))` shows it in a notebook and `page` makes it a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from ipr_lite.jsonl import Message
from ipr_lite.records import Pair, StepReward
from ipr_lite.study.results import show
from ipr_lite.trajectory import Trajectory

STYLE = """
.ipr{--ink:#1b1f24;--soft:#5c6670;--line:#d5dae0;--card:#f6f7f9;--paper:#fff;--link:#0b4f9e;--bad:#a63603;--badpaper:#fdf0e8;
 color-scheme:light dark;color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){.ipr{--ink:#e6e9ed;--soft:#a2adb8;--line:#3a424b;--card:#1d2329;--paper:#14181c;--link:#8fbcf5;--bad:#ffb48a;--badpaper:#35211a}}
body.ipr{margin:0;background:var(--paper)}
.ipr main{max-width:60rem;margin:0 auto;padding:1rem}
.ipr h1{font-size:1.6rem;line-height:1.2;margin:.6rem 0}.ipr h2{font-size:1.2rem;margin:2rem 0 .5rem}.ipr h3{font-size:1rem;margin:.6rem 0}
.ipr .soft{color:var(--soft);font-size:.875rem}
.ipr pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0;font:.875rem/1.45 ui-monospace,Consolas,Menlo,monospace}
.ipr details{border:1px solid var(--line);border-radius:.4rem;margin:.4rem 0;background:var(--card)}
.ipr summary{cursor:pointer;padding:.4rem .6rem}.ipr details>div{padding:0 .7rem .5rem}
.ipr .step{border-left:.45rem solid var(--line)}
.ipr summary code{font:.875rem/1.45 ui-monospace,Consolas,Menlo,monospace;white-space:pre-wrap}
.ipr .badge{float:right;font-variant-numeric:tabular-nums;font-size:.875rem;padding-left:.6rem}
.ipr .wide{overflow-x:auto}.ipr table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
.ipr th,.ipr td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.ipr th:first-child,.ipr td:first-child{text-align:left}
.ipr .sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:.8rem}
.ipr .sides>div{border:1px solid var(--line);border-top:.3rem solid var(--line);border-radius:.4rem;padding:.3rem .6rem;min-width:0}
.ipr .sides>.chosen{border-top-color:#0072b2}.ipr .sides>.rejected{border-top:.3rem dashed #d55e00}
.ipr .note{border:1px solid var(--bad);border-left-width:.45rem;background:var(--badpaper);border-radius:.4rem;padding:.4rem .8rem;margin:.6rem 0}
.ipr figure{margin:.8rem 0}.ipr img{max-width:100%;height:auto;background:#fff;border-radius:.4rem}.ipr figure.wide img{max-width:max(100%,40rem)}
.ipr figcaption{color:var(--soft);font-size:.875rem}
"""

_REACT = re.compile(r"\s*(?:Thought:\s*(?P<thought>.*?)\s*)?Action:\s*(?P<action>.*)", re.S)
_LOW, _MIDDLE, _HIGH = (213, 94, 0), (200, 200, 200), (0, 114, 178)


def page(title: str, body: str) -> str:
    """One self-contained HTML file. `body` is HTML already; `title` is escaped here."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f'<body class="ipr"><main>\n<h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n'
    )


def trajectory_html(
    trajectory: Trajectory, step_rewards: Sequence[StepReward] | None = None, title: str | None = None
) -> str:
    """A trajectory as an HTML fragment: its steps one below the other, thought and observation folded.

    Steps are coloured by the step reward of whoever acted, from orange (low) to blue (high), and
    carry the number; where the other side's action at the same step was scored too, it stands in
    the fold. `step_rewards` of other tasks are passed over.
    """
    own = [item for item in step_rewards or () if item.id == trajectory.id]
    acting = "expert" if trajectory.agent.startswith("expert") else "agent"  # also "expert-habitual"
    scored: dict[tuple[str, int], StepReward] = {}
    for item in own:
        scored.setdefault((item.who, item.step), item)
    worst = min([0.0, trajectory.reward, *(item.reward_mc for item in own)])
    lead = [m for m in trajectory.messages if m["role"] != "assistant"][: 2 if _has_system(trajectory.messages) else 1]
    parts = [
        f"<h3>{escape(title or f'Task {trajectory.id}')}</h3>",
        f'<p>{escape(trajectory.task.instruction)}</p><p class="soft">by {escape(trajectory.agent)}, '
        f"{trajectory.steps} steps, outcome reward {show(trajectory.reward)}, "
        f"{'solved' if trajectory.success else 'not solved'}"
        + ("; the number at a step is its step reward</p>" if own else "</p>"),
        *(_fold({"system": "instruction"}.get(m["role"], "first observation"), m["content"]) for m in lead),
    ]
    for number, step in enumerate(trajectory.as_steps(), start=1):
        rival = scored.get(("agent" if acting == "expert" else "expert", number))
        inside = _answer(step.observation)
        if rival is not None:
            inside += f"<p>The {rival.who} would have done this, step reward {_reward_text(rival)}:</p>{_message(rival.action)}"
        parts.append(_step(number, step.action, scored.get((acting, number)), worst, inside))
    return _fragment("".join(parts))


def pair_html(pair: Pair) -> str:
    """A preference as an HTML fragment: the prompt folded, chosen and rejected side by side."""
    sides = []
    for side, messages, reward, outcome in (
        ("chosen", pair.chosen, pair.chosen_reward, pair.chosen_outcome),
        ("rejected", pair.rejected, pair.rejected_reward, pair.rejected_outcome),
    ):
        steps, number = [], pair.step - 1
        for message, answer in zip(messages, [*messages[1:], {"role": "user", "content": ""}]):
            if message["role"] == "assistant":
                number += 1
                steps.append(_step(number, message["content"], None, 0.0, _answer(answer["content"])))
        sides.append(
            f'<div class="{side}"><h3>{side.capitalize()}</h3><p class="soft">step reward {_known(reward)}, '
            f"outcome {_known(outcome)}</p>{''.join(steps)}</div>"
        )
    prompt = "".join(f'<p class="soft">{escape(m["role"])}</p><pre>{escape(m["content"])}</pre>' for m in pair.prompt)
    return _fragment(
        f"<h3>{escape(pair.kind.capitalize())} pair of task {escape(pair.id)}, from step {pair.step}</h3>"
        f"<details><summary>what both had seen ({len(pair.prompt)} messages)</summary><div>{prompt}</div></details>"
        f'<div class="sides">{"".join(sides)}</div>'
    )


def table_html(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that scrolls sideways on a phone; every cell is escaped."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _fragment(inside: str) -> str:
    return f'<article class="ipr"><style>{STYLE}</style>{inside}</article>'


def _has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0]["role"] == "system"


def _step(number: int, message: str, reward: StepReward | None, worst: float, inside: str) -> str:
    found = _REACT.fullmatch(message)
    action = found["action"] if found else message
    thought = f'<p class="soft">thought</p><pre>{escape(found["thought"])}</pre>' if found and found["thought"] else ""
    colour = f' style="border-left-color:{_colour(reward.reward_mc, worst)}"' if reward else ""
    badge = f'<span class="badge">{_reward_text(reward)}</span>' if reward else ""
    return (
        f'<details class="step"{colour}><summary>{badge}{number}. <code>{escape(action.strip())}</code></summary>'
        f"<div>{thought}{inside}</div></details>"
    )


def _message(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _answer(observation: str) -> str:
    return (
        f'<p class="soft">observation</p>{_message(observation)}'
        if observation
        else '<p class="soft">the episode ends</p>'
    )


def _fold(label: str, text: str) -> str:
    return f"<details><summary>{label}</summary><div>{_message(text)}</div></details>"


def _reward_text(item: StepReward) -> str:
    source = "outcome" if item.terminal else f"of {item.n}"
    return f"{show(item.reward_mc, 2)} ({source})"


def _known(value: float | None) -> str:
    return "not known" if value is None else show(value)


def _colour(reward: float, worst: float) -> str:
    share = min(max((reward - worst) / (1.0 - worst), 0.0), 1.0)
    start, end, part = (_LOW, _MIDDLE, 2 * share) if share < 0.5 else (_MIDDLE, _HIGH, 2 * share - 1)
    mixed = [round(low + part * (high - low)) for low, high in zip(start, end)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
