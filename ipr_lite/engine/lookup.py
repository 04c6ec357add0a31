"""Several tokens in one pass: guess what an agent will write, and keep of it what it would have written.

What agents write is often what others have written before, or stands in what they read. The next few tokens are
guessed, and one pass over the guess tells after each of its tokens which one every sample draws there. As long as that
is the guessed one, the next is known too; from the first other token on the guess is thrown away. So samples are those
of one pass a token, in fewer passes (speculative decoding by lookup: Leviathan et al. 2023, Saxena 2023).
"""

from __future__ import annotations

from collections.abc import Iterable


def most_guesses(rows: int) -> int:
    """Tokens to guess for each of so many rows: the fewer there are, the less one costs beside the pass itself."""
    return min(16, max(3, 256 // rows))


class Guesses:
    """What came after the last few tokens when they were last seen, in any conversation.

    Eight equal tokens are asked first, then four, then two. Keys are hashes: a collision costs a wrong guess.
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

    def after(self, tokens: list[int], most: int, end: int) -> list[int]:
        """Up to `most` tokens that may follow, up to where `end` may."""
        context, found = tokens[-max(self.ORDERS) :], []
        while len(found) < most:
            tries = (self.next.get(hash(tuple(context[-order:]))) for order in self.ORDERS)
            token = next((token for token in tries if token is not None), end)
            if token == end:
                break
            found.append(token)
            context.append(token)
        return found


def agreed(guess: list[int], chosen: list[list[int]], samples: Iterable[int]) -> list[tuple[list[int], list[int]]]:
    """The samples that wrote the same, and what: the guess as far as each drew it, and the first other token.

    chosen: the token that each sample draws after 0, 1, ... guessed tokens.
    """
    found, following = [], list(samples)
    for place, tokens in enumerate(chosen):
        by_token: dict[int, list[int]] = {}
        for sample in following:
            by_token.setdefault(tokens[sample], []).append(sample)
        following = by_token.pop(guess[place], []) if place < len(guess) else []
        found += [(group, guess[:place] + [token]) for token, group in by_token.items()]
    return found
