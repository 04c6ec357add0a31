"""Imitate: the mask, the habit, and whose loss it is."""

from __future__ import annotations

import math
from collections.abc import Callable

from ipr_lite.checks.answers import NOTHING, WrongAnswer, attempt, conversation, say_right
from ipr_lite.records import Task, Trajectory

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
        found = attempt(build, turns)
        if found is NOTHING:
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
        for place, (value, right) in enumerate(zip(values, expected, strict=True)):
            if value != right:
                token, kind = tokens[place]
                raise WrongAnswer(f"token {place}, {token!r}, got {value}, not {right}: {_WHY[kind]}")
    say_right("only what the agent writes, end tokens included")


def skipped(find: Callable) -> None:
    """Notebook 02: `find(trajectory)` gives the options that the task asks for and nobody clicked."""
    searched = "Action: search[red tea 3 pack]"
    cases = [
        (["red"], [searched, "Thought: red.\nAction: click[red]", "Action: click[Buy Now]"], []),
        (["red", "3 pack"], [searched, "Action: click[red]", "Action: click[Buy Now]"], ["3 pack"]),
        ([], [searched, "Action: click[Buy Now]"], []),
        (["red"], [searched, "Thought: I want it in red.\nAction: click[Buy Now]"], ["red"]),
        (["red"], [searched, "Thought: click[red] would do.\nAction: click[Buy Now]"], ["red"]),
        (["red"], [searched, "Thought: it is red.\nAction: click[infrared]", "Action: click[Buy Now]"], ["red"]),
        (["3 pack", "red"], [searched, "Action: click[Buy Now]"], ["3 pack", "red"]),
    ]
    for asked, actions, expected in cases:
        found = attempt(find, _trajectory(asked, actions))
        if found is NOTHING:
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
    say_right("an option counts as chosen when exactly it was clicked")


def observation_share(share: Callable) -> None:
    """Notebook 02: `share(token_losses, mask)`, the part of the summed loss that is not the agent's."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for length in (5, 12, 40):
        losses = torch.rand(length, generator=generator) * 3
        mask = (torch.rand(length, generator=generator) < 0.4).long()
        mask[0], mask[1] = 1, 0
        found = attempt(share, losses, mask)
        if found is NOTHING:
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
    say_right("the loss where the mask is 0, over the whole loss")


def _trajectory(asked: list[str], actions: list[str]):
    task = Task(
        "t", "shop", "train", "buy red tea", {"goal_options": asked, "option_kinds": ["color", "count"][: len(asked)]}
    )
    return Trajectory(task, conversation(actions), 1.0, True, "demonstrator")
