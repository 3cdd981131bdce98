"""Text from outside, escaped for terminals, logs and alerts.

A row's key, a column's name or a server's message can hold an escape sequence that rewrites the
screen, a newline that begins a forged line, or a mark that changes the text direction.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence

# Control characters, direction marks, line separators, invisible characters, lone surrogates.
_ACTIVE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str) -> str:
    r"""Return the text on one line, with active characters written as `\x1b` and the like."""
    return _ACTIVE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return a text whose newlines are trusted, with each line made `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def named(names: Iterable[str], most: int = 5) -> str:
    """List names on one line: the first of them, and the number of the rest."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return f"{', '.join(listed[:most])}{more}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the one of some known names that is most like a wrong one."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]


def first_lines(lines: Sequence[str], rest: str, most: int = 20) -> list[str]:
    """Return the first lines; where there are more, their number and what they are follow.

    Args:
        rest: what the other lines are, such as `more findings`.
    """
    more = [f"and {len(lines) - most:,} {rest}"] if len(lines) > most else []
    return [*lines[:most], *more]


def shell_quoted(text: str) -> str:
    """Quote a word for a displayed command line; bash and zsh read back the same word."""
    if printable(text) == text:
        return shlex.quote(text)
    return "$'" + printable(text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if code < 0x80:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
