"""Writes docs/errors.md from the source: every error, its exit code and remedy; for `make docs`."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import sluice
from sluice import errors

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"
CODES = {
    1: "a finding: the data or a file is not as it should be",
    2: "wrong usage: correct the call",
    3: "try again later: the same call may succeed",
    4: "a person decides, then runs the named command",
}
_BEGINNING = """# Errors

Every error that Sluice raises, by exit code. `make docs` writes this page from the source. An
error prints its message on one line and what to do on the next; `...` stands for a value. To
look up a symptom instead, see [troubleshooting](operations.md).
"""


def raised() -> dict[str, set[tuple[str, str]]]:
    """Return the (message, remedy) of each place that raises an error, by class."""
    messages: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path in sorted(Path(inspect.getfile(sluice)).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                remedies = [key.value for key in node.keywords if key.arg == "remedy"]
                remedy = _text(remedies[0]) if remedies else ""
                if node.args or remedy:
                    message = _text(node.args[0]) if node.args else ""
                    messages[node.func.id].add((message, remedy))
    return messages


def page() -> str:
    """Return the page's text."""
    parts, places = [_BEGINNING], raised()
    for code, meaning in CODES.items():
        parts.append(f"\n## {code}: {meaning}\n")
        for kind in _kinds(code):
            summary = inspect.getdoc(kind) or ""
            parts.append(f"\n**{kind.__name__}.** {summary.splitlines()[0]}\n")
            rows = sorted(row for row in places[kind.__name__] if "".join(row).strip(".: "))
            if rows:
                parts.append("\n| message | what to do |\n|---|---|\n")
                parts += [f"| {_cell(message)} | {_cell(remedy)} |\n" for message, remedy in rows]
    return "".join(parts)


def _kinds(code: int) -> Iterator[type[errors.SluiceError]]:
    silent = (errors.SluiceError, errors.Rejected)
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        known = issubclass(kind, errors.SluiceError) and kind not in silent
        if known and kind.exit_code == code:
            yield kind


def _text(node: ast.expr) -> str:
    """Return the text of a string expression, with `...` for values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return re.sub(r"(\.\.\.)+", "...", "".join(map(_text, node.values)))
    return "..."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
