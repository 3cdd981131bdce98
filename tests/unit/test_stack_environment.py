"""What the programs of the embedded stack get from the environment of its caller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sluice.embedded.passwords import ensure_secrets
from sluice.embedded.stack import Stack
from sluice.settings import PROJECT, read_settings


@pytest.mark.parametrize("given", ["", "/own/models", "/own/models:/others"])
def test_programs_find_the_modules_of_the_callers_path_after_sluices_own(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", given)
    settings = read_settings({"SLUICE_HOME": str(tmp_path)})
    ensure_secrets(settings.home)
    paths = Stack(settings).environment()["PYTHONPATH"].split(os.pathsep)
    own = [str(PROJECT), str(PROJECT / "plugins")]
    # An empty entry would stand for the folder in which a program starts.
    assert paths == [*own, *(given.split(os.pathsep) if given else [])]
