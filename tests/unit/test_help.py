"""What a person meets first: help, version, completion, addresses, logs, and the end of a stack."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sluice.cli import app
from sluice.cli.help import LOOK, REPAIR, RUN, SET_UP
from sluice.errors import WrongUsage
from tests.support.processes import SLUICE
from tests.support.waiting import until


def helps() -> Iterator[list[str]]:
    """Yield `--help` of the program, every command and every group."""
    within: Any = typer.main.get_command(app)
    yield ["--help"]
    for name, command in within.commands.items():
        yield [name, "--help"]
        yield from ([name, inner, "--help"] for inner in getattr(command, "commands", ()))


@pytest.mark.parametrize("call", list(helps()), ids=" ".join)
def test_help_shows_no_type_for_a_flag(call: list[str]) -> None:
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0
    assert "--help" in done.stdout
    assert "<bool>" not in done.stdout


def test_help_groups_every_command_by_what_it_is_for() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    panels = [f"╭─ {name} ─" for name in (RUN, LOOK, REPAIR, SET_UP)]
    assert sorted(panels, key=shown.index) == panels
    assert "╭─ Commands" not in shown


def test_the_version_is_printed_whatever_the_settings() -> None:
    done = CliRunner().invoke(app, ["--version"], env={"SLUICE_API_PORT": "x"})
    assert (done.exit_code, done.stdout) == (0, "sluice 0.1.0\n")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("sluice sta", {"status"}),
        ("sluice re", {"relay", "rebuild", "resync", "recover"}),
        ("sluice dead-letters re", {"replay"}),
        ("sluice source ", {"relay", "connect"}),
        ("sluice open p", {"page", "play"}),
        ("sluice sql --format j", {"json"}),
        ("sluice resync cust", {"customers"}),
        ("sluice quality orders order_", {"order_items"}),
        ("sluice dead-letters list --table prod", {"products"}),
        ("sluice logs rel", {"relay"}),
        ("sluice topics ", {"show"}),
        ("sluice topics show prod", {"products"}),
        ("sluice topics show cdc.prod", {"cdc.products"}),
    ],
)
def test_bash_completes_commands_options_and_names(
    words: str, wanted: set[str], tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "relay.log").touch()
    script = (
        f'source <("{SLUICE}" --show-completion); read -ra COMP_WORDS <<< "$0";'
        ' [ "${0: -1}" = " " ] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1));'
        f' COMP_LINE=$0; COMP_POINT=${{#0}}; _sluice_completion "{SLUICE}";'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, words],
        env={**os.environ, "SLUICE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == wanted, done


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("page", "http://127.0.0.1:8181/sluice/"),
        ("store", "http://127.0.0.1:3102/docs"),
        ("play", "http://127.0.0.1:8124/play?user=default"),
    ],
)
@pytest.mark.parametrize("desktop", [True, False])
def test_open_prints_the_address_and_opens_it_where_there_is_a_browser(
    place: str, address: str, desktop: bool, tmp_path: Path
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o755)
    ports = {"AIRFLOW": "8181", "API": "3102", "CLICKHOUSE_HTTP": "8124"}
    variables = {f"SLUICE_{name}_PORT": port for name, port in ports.items()}
    screens = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY"), "")
    done = subprocess.run(
        [SLUICE, "open", place],
        env={
            **os.environ,
            **variables,
            **screens,
            "SLUICE_HOME": str(tmp_path),
            "BROWSER": str(browser) if desktop else "",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{address}  (")
    if desktop:
        until(opened.exists, "the browser is opened")
        assert opened.read_text() == address
    else:
        assert not opened.exists()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with what a stack makes, and a person's file."""
    for name in ("run", "logs", "airflow", "postgres", "clickhouse"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "secrets.json").write_text("{}")
    (tmp_path / "logs" / "relay.log").write_text("".join(f"line {n}\n" for n in range(300)))
    (tmp_path / "own.txt").touch()
    return tmp_path


def sluice(home: Path, *arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"SLUICE_HOME": str(home)}, **options)


@pytest.mark.parametrize(
    ("lines", "first"), [((), 200), (("--lines", "2"), 298), (("-n", "0"), 300)]
)
def test_logs_prints_the_last_lines(home: Path, lines: tuple[str, ...], first: int) -> None:
    done = sluice(home, "logs", "relay", *lines)
    assert done.stdout.splitlines() == [f"line {n}" for n in range(first, 300)]


def test_logs_follows_a_log_that_is_replaced(home: Path) -> None:
    log = home / "logs" / "relay.log"
    with subprocess.Popen(
        [SLUICE, "logs", "relay", "-f", "--lines", "1"],
        env={**os.environ, "SLUICE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline() == "line 299\n"
            log.rename(log.with_suffix(".log.1"))
            log.write_text("begun again\n")
            assert following.stdout.readline() == "begun again\n"
        finally:
            following.terminate()


def test_wipe_deletes_nothing_without_a_terminal_or_yes(home: Path) -> None:
    done = sluice(home, "down", "--wipe")
    assert isinstance(done.exception, WrongUsage)
    assert "sluice down --wipe --yes" in str(done.exception)
    assert (home / "postgres" / "deep").exists()
    assert (home / "secrets.json").exists()


def test_wipe_with_yes_deletes_what_the_stack_made_and_keeps_other_files(home: Path) -> None:
    done = sluice(home, "down", "--wipe", "--yes")
    assert (done.exit_code, done.stdout) == (0, "nothing was running; no data is kept\n")
    assert [path.name for path in home.iterdir()] == ["own.txt"]
    assert sluice(home, "down", "--wipe").exit_code == 0  # nothing is left to ask about
    (home / "own.txt").unlink()
    (home / "logs").mkdir()
    sluice(home, "down", "--wipe", "--yes")
    assert not home.exists()


@pytest.mark.parametrize(("answer", "code", "kept"), [("n", 1, True), ("y", 0, False)])
def test_wipe_asks_on_a_terminal(home: Path, answer: str, code: int, kept: bool) -> None:
    ended, printed = on_a_terminal([SLUICE, "down", "--wipe"], {"SLUICE_HOME": str(home)}, answer)
    assert str(home) in printed
    assert "Delete them? [y/N]" in printed
    assert ended == code, printed
    assert (home / "postgres").exists() is kept
    assert (home / "own.txt").exists()


def test_down_without_wipe_keeps_the_data(home: Path) -> None:
    done = sluice(home, "down")
    assert done.stdout == f"nothing was running; data is kept in {home}\n"
    assert (home / "postgres").exists()


def on_a_terminal(command: list[str], variables: Mapping[str, str], answer: str) -> tuple[int, str]:
    """Run a command on a terminal and answer its question; exit code and output."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, env={**os.environ, **variables}, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        code = process.wait()
        printed = os.read(ours, 65536).decode()
    os.close(ours)
    return code, printed
