"""`sluice env` prints what a shell reads back unaltered, whatever is in a password."""

from __future__ import annotations

import subprocess

import pytest
from typer.testing import CliRunner

from sluice.cli import app


@pytest.mark.parametrize("password", ["plain", "it's", "$(echo run)", "a;b`echo run`", '"\\\n%'])
def test_a_shell_reads_back_the_password_and_runs_nothing_of_it(password: str) -> None:
    printed = CliRunner().invoke(app, ["env"], env={"SLUICE_POSTGRES_PASSWORD": password}).stdout
    script = f'{printed}\nprintf %s "$PGPASSWORD"'
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout == password
