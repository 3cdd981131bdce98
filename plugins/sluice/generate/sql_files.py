"""Named SQL statements in files.

    -- name: latest_rebuild
    -- The last rebuild of a fact, and the changes it had seen.
    SELECT ...;

A block runs from its name to the next one; the comment lines below the name describe it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from sluice.settings import PACKAGE

_MARK = "-- name: "


@lru_cache
def read_statements(path: Path) -> Mapping[str, str]:
    """Read name -> statement, in the file's order, without the closing semicolons."""
    statements = {}
    for block in f"\n{path.read_text()}".split(f"\n{_MARK}")[1:]:
        name, _, body = block.partition("\n")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        statements[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return statements


def render_statements(heading: str, statements: Iterable[tuple[str, str]]) -> str:
    """Return the text of a file that `read_statements` reads."""
    blocks = [f"{_MARK}{name}\n{text};\n" for name, text in statements]
    return f"-- {heading}\n\n" + "\n".join(blocks)


PIPELINE = PACKAGE / "sql/pipeline.sql"
