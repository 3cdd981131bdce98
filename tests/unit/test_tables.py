from __future__ import annotations

import pytest

from sluice.cli.tables import print_table

NAMES = [f"column_{number}" for number in range(30)]


def test_a_pipe_gets_a_table_as_wide_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(NAMES, [tuple(range(30))])
    header = capsys.readouterr().out.splitlines()[1]
    assert all(name in header for name in NAMES)


def test_a_terminal_that_is_too_narrow_gets_a_line_for_each_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    print_table(NAMES, [tuple(range(30))])
    lines = capsys.readouterr().out.splitlines()
    assert sum("column_" in line for line in lines) == 30
    assert any("column_17" in line and "17" in line.split("column_17")[1] for line in lines)


def test_values_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a"], [("[red]x[/red]",), (None,)])
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "NULL" in shown
    print_table(["a"], [])
    assert "no rows" in capsys.readouterr().out
