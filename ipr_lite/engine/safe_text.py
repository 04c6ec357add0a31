"""Texts that are safe to show, in a page, a figure, a terminal or the book, and commands that are safe to paste.

What models, worlds, servers and files say goes through here on its way out; HTML is escaped by the templates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

LONGEST = 20_000
# Controls but tab and line break, what turns the direction of writing, what has no width, halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: object, longest: int = LONGEST) -> str:
    r"""`text` with what cannot be seen written out (`\x1b`, `\u202e`), cut with a note after `longest` characters."""
    text = str(text)
    if len(text) > longest:
        text = f"{text[:longest]} [cut: {len(text) - longest:,} more characters]"
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: object, longest: int = LONGEST) -> str:
    """`visible` text with every run of white space as one blank, at most `longest` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


def markdown(text: object) -> str:
    """Prose for a line of Markdown (MyST): what would be markup, mathematics or a role stands for itself."""
    return re.sub(r"([\\`*_{}\[\]<>&$~|#!^])", r"\\\1", one_line(text))


def markdown_code(text: object) -> str:
    """A code span of Markdown; its fence is longer than any run of ticks in the text."""
    text = one_line(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if ticks != "`" or not text else ""
    return f"{ticks}{blank}{text}{blank}{ticks}"


def command_line(arguments: Sequence[str], module: str = "ipr_lite") -> str:
    """The command as a POSIX shell takes it, for records and reports."""
    return shlex.join(["python", "-m", module, *arguments])
