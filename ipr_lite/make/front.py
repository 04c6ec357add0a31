"""The two pictures of the front page: a real episode that paid less than it could, and the method.

`python ipr_lite/make/front.py` writes them to `book/pictures`.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ipr_lite import DATA, envs
from ipr_lite.envs.shop.env import PREFIX, SEP, Shop
from ipr_lite.records import Trajectory, read_trajectories, write_atomically
from ipr_lite.study.plots import PALETTE, PngFigure, png_bytes

PICTURES = DATA.parent / "book" / "pictures"
EPISODES = DATA / "showcase" / "evaluations" / "sft-test.jsonl"
INK, GREY, LINE, MISTAKE = "#222222", "#777777", "#b5b5b5", "#b3261e"
SOFT = "#eef3fa"


def chosen_episode() -> tuple[Trajectory, Shop]:
    """The first episode of four actions that one more click before the purchase would have paid in full, and the world
    as it was before the purchase."""
    env = envs.make("shop")
    for episode in read_trajectories(EPISODES):
        if episode.steps != 4 or episode.reward == 1:
            continue
        env.reset(options={"task": episode.task})
        for action in episode.actions[:-1]:
            env.step(action)
        if env.page_score() == 1:
            return episode, env
    raise ValueError(f"{EPISODES}: no episode of four actions that left out an option; run `python -m ipr_lite` anew")


def front() -> Figure:
    """What the agent saw, what it did, what it was paid, and the question."""
    episode, env = chosen_episode()
    figure, axis = canvas(9.6, 4.7)
    page = episode.messages[-2]["content"].removeprefix(PREFIX).split(SEP)
    product = env._product()
    box(axis, 0.0, 0.0, 5.75, 4.6, "white", LINE)
    box(axis, 0.0, 4.2, 5.75, 0.4, SOFT, LINE)
    say(axis, 0.15, 4.4, "What it sees: a page of the shop (it reads it as text)", weight="bold")
    say(axis, 0.15, 3.8, "\n".join(wrap(f"Instruction: {page[1]}", 66)), va="center")
    chips(axis, 0.15, 3.3, page[2:4])
    say(axis, 0.15, 2.88, product.title, weight="bold", size=11)
    say(axis, 0.15, 2.58, f"Price: {product.price_tag}    Rating: N.A.", colour=GREY)
    for row, (name, values) in enumerate(product.options.items()):
        y = 2.12 - 0.46 * row
        say(axis, 0.15, y, name, colour=GREY)
        chips(axis, 1.0, y, values, chosen=env._chosen.get(name), wanted=episode.task.setup["goal_options"])
    chips(axis, 0.15, 0.95, page[-4:-1])
    chips(axis, 0.15, 0.42, page[-1:])
    say(axis, 1.35, 0.42, "blue: clicked    red: asked for, never clicked", colour=GREY, size=8)

    box(axis, 6.0, 1.72, 3.55, 2.88, "white", LINE)
    box(axis, 6.0, 4.2, 3.55, 0.4, SOFT, LINE)
    say(axis, 6.15, 4.4, "What it does: four actions", weight="bold")
    for number, action in enumerate(episode.actions, start=1):
        words = wrap(action.split("Action: ")[-1], 31)
        say(axis, 6.15, 3.86 - 0.57 * (number - 1), f"{number}", colour=GREY)
        say(axis, 6.42, 3.86 - 0.57 * (number - 1), "\n".join(words), family="DejaVu Sans Mono", size=8.5)
    box(axis, 6.0, 0.0, 3.55, 1.55, SOFT, LINE)
    say(axis, 6.15, 1.18, "What it gets, at the end:", weight="bold")
    say(axis, 8.25, 1.18, f"reward {episode.reward:g}", weight="bold", size=11, colour=PALETTE["ipr"])
    say(axis, 6.15, 0.5, "One number for four actions.\nWhich of them was the mistake?", size=11.5, weight="bold")
    return figure


def method() -> Figure:
    """The five stages, and what goes from one to the next."""
    figure, axis = canvas(9.6, 2.5)
    stages = (
        ("1  Clone", "imitate the\ndemonstrator\n(SFT)"),
        ("2  Explore", "act on from every\nstep of every\ndemonstration"),
        ("3  Score", "from after an action\nplay on 5 times; the\nmean is its reward"),
        ("4  Pair", "same history, two\nactions: better over\nworse"),
        ("5  Train", "prefer the better\n(DPO), keep what\nworked (SFT)"),
    )
    width, gap = 1.62, 0.365
    for place, (name, text) in enumerate(stages):
        x = place * (width + gap)
        box(axis, x, 0.95, width, 1.45, SOFT if place else "white", LINE)
        say(axis, x + 0.1, 2.15, name, weight="bold", size=11)
        say(axis, x + 0.1, 1.48, text, size=8.5)
        if place:
            arrow(axis, (x - gap, 1.67), (x, 1.67))
    first, last = 1.5 * width + gap, 4.5 * width + 4 * gap
    for start, end, style in (((last, 0.95), (last, 0.45), "-"), ((first, 0.45), (first, 0.95), "-|>")):
        arrow(axis, start, end, style)
    arrow(axis, (last, 0.45), (first, 0.45), "-")
    say(axis, (first + last) / 2, 0.2, "round after round, with the policy just trained; dev tasks choose the round", ha="center", colour=GREY)  # fmt: skip
    say(axis, 0.1, 0.6, "a frozen copy stays\nthe scorer and DPO's\nreference", colour=GREY, size=8)
    return figure


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose coordinates are inches, without axes."""
    figure = PngFigure(figsize=(width, height), facecolor="white")
    axis = figure.add_axes((0.005, 0.01, 0.99, 0.98))
    axis.set(xlim=(-0.02, width - 0.02), ylim=(-0.04, height - 0.04))
    axis.axis("off")
    return figure, axis


def box(axis: Axes, x: float, y: float, width: float, height: float, face: str, edge: str):
    axis.add_patch(FancyBboxPatch((x, y), width, height, "square,pad=0", facecolor=face, edgecolor=edge, linewidth=1))


def say(axis: Axes, x: float, y: float, text: str, colour: str = INK, size: float = 9, va: str = "center", **more):
    axis.text(x, y, text, color=colour, fontsize=size, va=va, parse_math=False, **more)


def chips(axis: Axes, x: float, y: float, texts, chosen: str | None = None, wanted=()):
    """What can be clicked, in a row: what was, in blue; what should have been, in red."""
    for text in texts:
        width = 0.16 + 0.075 * len(text)
        missed = text in wanted and text != chosen
        face = PALETTE["ipr"] if text == chosen else "white"
        edge = MISTAKE if missed else LINE
        axis.add_patch(FancyBboxPatch((x, y - 0.14), width, 0.28, "round,pad=0,rounding_size=0.07", facecolor=face, edgecolor=edge, linewidth=2 if missed else 1))  # fmt: skip
        colour = "white" if text == chosen else MISTAKE if missed else INK
        say(axis, x + width / 2, y - 0.01, text, colour=colour, size=8.5, ha="center")
        x += width + 0.12


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-|>"):
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=12, color=GREY, shrinkA=0, shrinkB=0))


def pictures() -> dict[str, bytes]:
    """The front page's pictures by the name of their file."""
    return {"front.png": png_bytes(front()), "method.png": png_bytes(method())}


def write_pictures(folder: Path = PICTURES) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [write_atomically(folder / name, png) for name, png in pictures().items()]


if __name__ == "__main__":
    print("\n".join(map(str, write_pictures())))
