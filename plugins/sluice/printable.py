"""Text of others as terminals, logs and alerts may show it: what they would act on, written out.

A row's key, a column's name or a server's message can hold an escape sequence that rewrites the
screen, a newline that begins a forged line, or a mark that turns the direction of reading.
"""

from __future__ import annotations

import re
import shlex

# Control characters, marks of direction, separators of lines, what shows nothing, half characters.
_ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str) -> str:
    r"""Return the text on one line, with `\x1b` and the like for what is not shown as it is."""
    return _ACTS.sub(_written, text)


def printable_lines(text: str) -> str:
    """Return a text whose newlines are its writer's own, each line as `printable` makes it."""
    return "\n".join(map(printable, text.split("\n")))


def shell_quoted(text: str) -> str:
    """Quote a word for a command line that is shown; bash and zsh read it back as it was."""
    if printable(text) == text:
        return shlex.quote(text)
    return "$'" + printable(text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def _written(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if code < 0x80:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
