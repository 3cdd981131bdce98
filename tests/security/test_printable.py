"""Escape sequences, forged lines and marks of direction, sent by each way to each reader."""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.catalog.quality_options import Status
from sluice.cli.output import OneLine, say
from sluice.cli.tables import print_table
from sluice.errors import SluiceError, WrongUsage
from sluice.events.event import Record, Reject
from sluice.execution.outcomes import together
from sluice.operate.doctor.diagnosis import Diagnosis
from sluice.printable import printable, shell_quoted
from sluice.quality.checks import Check
from sluice.quality.results import News
from sluice.settings import PROJECT
from tests.support.decoding import ROW, decode, event
from tests.support.processes import SLUICE

# Clears the screen, sets the title, begins a line of its own, turns what follows around.
EVIL = "\x1b[2J\x1b]0;owned\x07\r\n12:00:00 orders: row_count pass\u2028\u202e\x9b31m\x7f\x00\udcff"


def harmless(text: str, lines: int = 1) -> bool:
    """Whether a terminal shows the text and does nothing, and it has so many lines."""
    *whole, rest = text.split("\n")
    shown = [*whole, *([rest] if rest else [])]
    kinds = {unicodedata.category(character) for line in shown for character in line}
    return len(shown) == lines and not kinds & {"Cc", "Cs", "Zl", "Zp"} and "\u202e" not in text


@given(st.text(st.characters()))
def test_any_text_is_shown_on_one_line_and_plain_text_as_it_is(text: str) -> None:
    shown = printable(text)
    assert harmless(shown) or not shown
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


def test_every_character_that_acts_is_written_out() -> None:
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            assert printable(character).isascii(), hex(code)
    assert printable("\x1b\n\u202e\x9b\U000e0001") == r"\x1b\n\u202e\u009b\U000e0001"
    for name in ("Zoë", "山田", "👩\u200d💻", "\u0645\u200c\u0632"):
        assert printable(name) == name


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20))
def test_a_word_of_a_command_is_read_back_by_the_shell_as_it_was(text: str) -> None:
    quoted = shell_quoted(text)
    assert harmless(quoted)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True, env=environment
    )
    assert done.stdout.decode() == text


def test_an_error_is_one_line_and_its_remedy() -> None:
    error = WrongUsage(f"no table {EVIL}", remedy=f"see {EVIL.replace(chr(10), '')}")
    assert harmless(str(error), 2)
    assert harmless(str(together({"orders": SluiceError(EVIL)}, [EVIL])), 2)


def test_a_reason_is_one_line_whatever_the_event_names() -> None:
    for value in (
        event("insert", ROW, **{EVIL: 1}),
        event(EVIL, ROW),
        event("insert", ROW, table=EVIL),
        event("insert", {**ROW, "price": EVIL}),
        event("insert", ROW, commit_lsn=EVIL),
    ):
        for reject in decode(value).rejects:
            assert harmless(reject.reason)
    assert harmless(Reject(record=Record(offset=0, key=None, value=None), reason=EVIL).reason)


def test_news_and_diagnoses_are_printable() -> None:
    check = Check(
        table="orders", check="rows", status=Status.FAIL, postgres=1, clickhouse=0, difference=EVIL
    )
    assert harmless(News(check=check, before=Status.PASS).sentence())
    told = Diagnosis(service="s", check="c", ok=False, found=EVIL, remedy="see")
    assert harmless(told.sentence(), 2)


def test_a_line_of_the_log_stays_one() -> None:
    form = OneLine("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        raise ValueError(EVIL)
    except ValueError:
        # Made, not logged: what pytest captures cannot be sent to its other process.
        record = logging.getLogger("sluice").makeRecord(
            "sluice", logging.ERROR, __file__, 0, "row %s", (EVIL,), sys.exc_info()
        )
    first, *trace = form.format(record).split("\n")
    assert harmless(first)
    assert all(harmless(line) and line.startswith("  ") for line in trace)
    assert trace[0].strip().startswith("Traceback")


def test_what_is_printed_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL, EVIL)
    say(EVIL, err=True)
    printed = capsys.readouterr()
    assert harmless(printed.out, 2)
    assert harmless(printed.err)
    print_table(["a"], [("\x1b[2J\x07",), ("two\nlines",)])
    print_table(["\x1b[2J"], [("x",)])
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().out)


def test_commands_print_by_nothing_else() -> None:
    """But `env`, whose lines a shell reads as they are."""
    calls = []
    for path in (PROJECT / "plugins/sluice/cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "typer.echo"}:
                calls.append((path.name, ast.unparse(node)))
    assert [call for call in calls if call[0] != "output.py"] == [
        ("stack.py", """typer.echo(f"export {name}='{text}'")""")
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["drain", EVIL.replace("\0", "").replace("\udcff", "")],
        ["logs", "\x1b[2J\nforged"],
        ["logs", "service"],
        ["dead-letters", "list", "--where", "\x1b[2J\nforged"],
        ["generate", "--models", "\x1b[2J\nforged"],
        ["resync", "orders", "--key", "\x1b[2J\nforged", "--dry-run"],
        ["\x1b[2J\nforged"],
        ["status", "--\x1b[2J\nforged"],
    ],
    ids=" ".join,
)
def test_a_command_shows_what_it_was_given_without_acting_on_it(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "logs").mkdir()
    line = 'GET /\x1b[2J\x07\rforged "\udcff'
    (tmp_path / "logs" / "service.log").write_text(f"{line}\n", errors="surrogateescape")
    printed = on_a_terminal([SLUICE, *command], {"SLUICE_HOME": str(tmp_path)})
    for sign in ("\x1b[2J", "\x07", "\r", "\x9b", "\u202e", "\u2028"):
        assert sign not in printed
    assert not any(line.startswith(("12:00:00", "forged")) for line in printed.split("\n"))
    assert "Traceback" not in printed
    assert r"\x1b[2J" in printed


def on_a_terminal(command: list[str], variables: dict[str, str]) -> str:
    """What a command writes to a terminal: to a pipe it would leave out escape sequences."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "NO_COLOR": "1", **variables}
    with subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=theirs, stderr=theirs):
        os.close(theirs)
        written = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                written += part
    os.close(ours)
    return written.decode().replace("\r\n", "\n")
