"""Every command refuses wrong arguments of each kind: exit code 2, a reason, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_origin

import pytest
import typer

from sluice.catalog import load_catalog
from sluice.catalog.key_selection import _is_value, typed_key
from sluice.cli import app, main
from sluice.errors import WrongUsage
from tests.support.services import free_ports

# A value for each argument that a command needs.
NEEDED = {
    "source": ["relay"],
    "logs": ["relay"],
    "sql": ["SELECT 1"],
    "topics show": ["orders"],
    "dead-letters dismiss": ["--reason", "r"],
}
HUGE = "9" * 40
# What a text of this option can be wrong by, before a service is called.
TEXTS = {
    "tables": ["nothing", ""],
    "table": ["nothing"],
    "topic": ["nothing", "", "cdc.", "../orders"],
    "where": ["nothing", "offset>=abc", "rejected_at<never", "", f"offset={HUGE}"],
    "name": ["foo", "", "../secrets", "/etc/passwd"],
    "models": ["nothing.at.all", "json", ".", "a b", "1"],
    "profile": ["foo"],
    "reason": ["", " "],
    "from_key": ["abc", "1,2", HUGE],
    "to_key": ["abc", "1,2", HUGE],
    "key": ["abc", "1,2", "", HUGE],
}
TYPES: dict[Any, list[str]] = {
    int: ["abc", "1.5", ""],
    float: ["abc", "", "nan", "-1", "0"],
    datetime: ["abc", "2026-13-01", "", "2026-01-01T00:00:00"],
    Path: ["/dev/null/folder", "/proc/nothing"],
}
# Options that exclude one another, or need one another.
TOGETHER = [
    "drain --skip 1",
    "drain customers orders --skip 1",
    "drain customers --skip 1 --until-empty",
    "drain --pass-rejects",
    "rebuild --full --rollback",
    "rebuild --full --from 2026-01-01 --to 2026-01-02",
    "rebuild --from 2026-01-01",
    "rebuild --to 2026-01-01",
    "rebuild --from 2026-01-02 --to 2026-01-01",
    "resync",
    "resync --key abc",
    "resync --from-key 1",
    "resync customers orders --key 1",
    "resync customers --key 1 --from-key 1",
    "resync customers --from-key 2 --to-key 1",
    "resync customers --key 1 --diff",
    "dead-letters",
    "topics foo",
    "topics --foo",
    "topics --json show orders",
]


def commands(group: Any = None, before: tuple[str, ...] = ()) -> Iterator[tuple[list[str], Any]]:
    """Yield every command with its words."""
    within: Any = group or typer.main.get_command(app)
    for name, command in within.commands.items():
        words = (*before, name)
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield list(words), command


def wrong_calls() -> Iterator[list[str]]:
    """Yield calls with one wrong argument each."""
    yield ["foo"]
    yield ["--foo"]
    yield from (call.split() for call in TOGETHER)
    for words, command in commands():
        needed = NEEDED.get(" ".join(words), [])
        yield [*words, *needed, "--foo"]
        yield [*words, *needed, "--help=1"]
        if needed:
            yield words
        if "tables" not in {parameter.name for parameter in command.params}:
            yield [*words, *needed, "surplus"]
        for parameter in command.params:
            option = [parameter.opts[0]] if parameter.param_type_name == "option" else []
            if option and not parameter.is_flag:
                yield [*words, *needed, *option]
            beside = ["customers"] if words in (["resync"], ["drain"]) and option else []
            beside = [] if option == ["--reason"] or not option else [*needed, *beside]
            for value in wrong_values(parameter):
                yield [*words, *beside, *option, value]


def wrong_values(parameter: Any) -> Iterator[str]:
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is Literal:
        yield from ("foo", "")
    else:
        yield from [*TYPES.get(kind, []), *TEXTS.get(parameter.name, [])]
    if kind is int and parameter.name != "seed":
        yield from ("-1", HUGE)


CALLS = list(wrong_calls())


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of a stack that does not run."""
    names = ("POSTGRES", "KAFKA", "CLICKHOUSE", "CLICKHOUSE_HTTP", "API", "AIRFLOW")
    for name, port in zip(names, free_ports(len(names)), strict=True):
        monkeypatch.setenv(f"SLUICE_{name}_PORT", str(port))
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "relay.log").touch()


def refused(call: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that has to be refused; what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sluice", *call])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    assert said.err.strip() or call == ["dead-letters"]
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_wrong_argument_is_refused_before_any_service_is_called(
    call: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(call, capsys)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("words", "command"), list(commands()), ids=str)
def test_an_argument_that_is_not_utf_8_is_refused(
    words: list[str], command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for parameter in command.params:
        option = [parameter.opts[0]] if parameter.param_type_name == "option" else []
        if not option or not parameter.is_flag:
            told = refused([*words, *option, os.fsdecode(b"\xff")], capsys)
            assert "UTF-8" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = y", "NameError: name 'y' is not defined"),
        ("x =", "SyntaxError"),
        ("1 / 0", "division"),
    ],
)
def test_models_that_cannot_be_imported_are_named_with_the_place(
    text: str, words: str, tmp_path: Path
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(f"\n{text}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(WrongUsage, match=f"cannot import models '{name}'.*{words}"):
            load_catalog(name)


def test_calls_of_every_command_are_made() -> None:
    assert len(CALLS) > 150
    made = {tuple(call[:2]) for call in CALLS} | {tuple(call[:1]) for call in CALLS}
    assert {tuple(words) for words, _ in commands()} <= made


@pytest.mark.parametrize(
    ("kind", "values", "others"),
    [
        ("Int16", "0 -32768 32767 007", "32768 -32769 1.0 +1 abc 1_0 \u0661 0x1"),
        ("Int64", f"{-(2**63)} {2**63 - 1}", f"{2**63} {HUGE} {HUGE}{HUGE}"),
        ("UInt64", f"0 {2**64 - 1}", f"-1 {2**64}"),
        ("UUID", "0a3e0e41-2c0e-4d4e-9d9a-000000000001", "0a3e abc"),
        ("Decimal(20, 1)", "1 -1.5 1e3 NaN Infinity", "abc 1,5 --1"),
        ("Float64", "1 -1.5 1e300 NaN -Infinity", "abc"),
        ("Date32", "2026-01-02 infinity -infinity 12026-01-02", "yesterday 2026 01-02-2026"),
        ("DateTime64(6, 'UTC')", "2026-01-02 infinity 2026-01-02T03:04:05Z", "now 12:00"),
        ("String", "abc 1 1.5", ""),
        ("LowCardinality(String)", "abc", ""),
    ],
)
def test_a_text_is_a_key_where_its_column_can_hold_it(kind: str, values: str, others: str) -> None:
    assert [text for text in values.split() if not _is_value(kind, text)] == []
    assert [text for text in others.split() if _is_value(kind, text)] == []


def test_a_text_that_is_no_key_is_refused_with_the_column_and_its_type() -> None:
    table = load_catalog("models").table("customers")
    assert typed_key(table, "-12") == ("-12",)
    with pytest.raises(WrongUsage, match="customers: 'abc' is not a key: id is INTEGER"):
        typed_key(table, "abc")
