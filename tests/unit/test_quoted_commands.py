"""Every `sluice` command that README and docs quote is known with its options; links resolve."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from sluice.cli import app
from sluice.settings import PROJECT

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
QUOTED = re.compile(r"(?:`|^|bin/|&& )sluice ((?:[a-z][a-z-]*)[^`\n#|]*)", re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_quoted_command_is_known(page: Path) -> None:
    group = typer.main.get_command(app)
    for quoted in QUOTED.findall(page.read_text()):
        words = re.sub(r"[\[\]]", " ", quoted).split()
        command: Any = group
        while commands := getattr(command, "commands", None):
            name = words.pop(0)
            assert name in commands, f"sluice {quoted}"
            command = commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.split("=")[0] for word in words if word.startswith("-")}
        assert options <= known, f"sluice {quoted}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
