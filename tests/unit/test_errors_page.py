"""docs/errors.md says what the source says."""

from __future__ import annotations

import runpy

from sluice.settings import PROJECT


def test_the_page_of_errors_is_current() -> None:
    written = runpy.run_path(str(PROJECT / ".ci" / "errors_page.py"))
    assert written["PAGE"].read_text() == written["page"](), "run: make docs"
    assert "**SlotLost.**" in written["page"]()
