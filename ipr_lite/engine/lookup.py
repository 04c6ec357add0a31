"""Speculative decoding with n-gram drafts: several tokens in one pass, and the same ones as one by one.

What agents write is often what others have written before, or stands in what they read. The next few tokens are drafted
from that, and one pass over the draft tells after each of its tokens which one every sample draws there. As long as that
is the drafted one, the next is known too; from the first other token on the draft is thrown away. So samples are those
of one pass a token, in fewer passes (speculative decoding by lookup: Leviathan et al. 2023, Saxena 2023).
"""

from __future__ import annotations

from collections.abc import Iterable


def longest_draft(rows: int) -> int:
    """Tokens to draft for each of so many rows: the fewer there are, the less one costs beside the pass itself."""
    return min(16, max(3, 256 // rows))


class NGrams:
    """What came after the last few tokens when they were last seen, in any conversation.

    Eight equal tokens are asked first, then four, then two. Keys are hashes: a collision costs a wrong draft.
    """

    ORDERS = (8, 4, 2)

    def __init__(self):
        self.next: dict[int, int] = {}

    def learn(self, tokens: list[int], new: int):
        """Remember the last `new` of these tokens, each with what stands before it."""
        for place in range(len(tokens) - new, len(tokens)):
            for order in self.ORDERS:
                if place >= order:
                    self.next[hash(tuple(tokens[place - order : place]))] = tokens[place]

    def draft(self, tokens: list[int], most: int, end: int) -> list[int]:
        """Up to `most` tokens that may follow, up to where `end` may: the draft tokens."""
        context, found = tokens[-max(self.ORDERS) :], []
        while len(found) < most:
            tries = (self.next.get(hash(tuple(context[-order:]))) for order in self.ORDERS)
            token = next((token for token in tries if token is not None), end)
            if token == end:
                break
            found.append(token)
            context.append(token)
        return found


def accepted(draft: list[int], chosen: list[list[int]], samples: Iterable[int]) -> list[tuple[list[int], list[int]]]:
    """The samples that wrote the same, and what: the draft as far as each drew it, and the first other token.

    chosen: the token that each sample draws after 0, 1, ... draft tokens.
    """
    found, following = [], list(samples)
    for place, tokens in enumerate(chosen):
        by_token: dict[int, list[int]] = {}
        for sample in following:
            by_token.setdefault(tokens[sample], []).append(sample)
        following = by_token.pop(draft[place], []) if place < len(draft) else []
        found += [(group, draft[:place] + [token]) for token, group in by_token.items()]
    return found
