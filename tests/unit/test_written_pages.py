"""Pages that are written from the source say what the source says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from sluice.settings import PROJECT, VARIABLES

SCRIPTS = sorted((PROJECT / ".ci").glob("*_page.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_written_page_is_current(script: Path) -> None:
    written = runpy.run_path(str(script))
    assert written["PAGE"].read_text() == written["page"](), "run: make docs"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_site_writes_every_page_that_has_a_script(script: Path) -> None:
    assert f"$(BIN)/python .ci/{script.name}" in (PROJECT / "Makefile").read_text()


def test_the_example_of_an_environment_says_of_each_setting_what_the_page_says() -> None:
    written = runpy.run_path(str(PROJECT / ".ci" / "settings_page.py"))
    assert written["EXAMPLE"].read_text() == written["example"](), "run: make docs"


def test_the_page_of_errors_has_classes_and_the_page_of_settings_all_variables() -> None:
    assert "**SlotLost.**" in (PROJECT / "docs" / "errors.md").read_text()
    settings = (PROJECT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\|", settings, re.M)
    assert dict(rows) == {name: default for name, (default, _) in VARIABLES.items()}
