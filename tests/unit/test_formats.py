"""The formats of `sluice sql`: what is printed can be read back, whatever is in a value."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sluice.cli.formats import print_result
from sluice.errors import WrongUsage

COLUMNS = [("name", "String"), ("count", "Nullable(Int64)")]
ROWS: list[tuple[Any, ...]] = [('a "b", c', 1), ("two\nlines | <b>", None), ("", 3)]
VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (2**64, 2**64),
    (1.5, 1.5),
    (float("nan"), None),
    (float("-inf"), None),
    (Decimal("1.10"), "1.10"),
    (datetime(2026, 1, 2, 3, tzinfo=timezone.utc), "2026-01-02T03:00:00+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (b"\xff1", r"\xff1"),
    ([1, (Decimal(2), None)], [1, ["2", None]]),
    ({"a": date(2026, 1, 2)}, {"a": "2026-01-02"}),
]


def printed(capsys: pytest.CaptureFixture[str], form: Any, rows: Sequence[Any] = ROWS) -> str:
    print_result(form, COLUMNS, rows)
    return capsys.readouterr().out


def test_csv_is_read_back_with_null_as_clickhouse_writes_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = list(csv.reader(io.StringIO(printed(capsys, "csv"), newline="")))
    assert lines == [["name", "count"], *([name, str(count or r"\N")] for name, count in ROWS)]


@given(texts=some.lists(some.text(some.characters(exclude_categories=["Cs"])), min_size=1))
def test_csv_keeps_every_text(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO(newline="")
        patch.setattr("sys.stdout", out)
        print_result("csv", [("a", "String"), ("b", "String")], [(text, text) for text in texts])
    assert list(csv.reader(io.StringIO(out.getvalue(), newline="")))[1:] == [[t, t] for t in texts]


def test_json_has_the_columns_and_an_object_for_each_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = json.loads(printed(capsys, "json"))
    assert result["columns"][1] == {"name": "count", "type": "Nullable(Int64)"}
    assert result["rows"] == [{"name": name, "count": count} for name, count in ROWS]


@pytest.mark.parametrize(("value", "wanted"), VALUES, ids=str)
def test_json_is_valid_for_every_type(
    value: Any, wanted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def invalid(word: str) -> None:
        raise AssertionError(word)

    (row,) = json.loads(printed(capsys, "json", [("a", value)]), parse_constant=invalid)["rows"]
    assert row["count"] == wanted


def test_json_refuses_two_columns_of_one_name() -> None:
    with pytest.raises(WrongUsage, match="two columns are named 'a'"):
        print_result("json", [("a", "Int8"), ("a", "Int8")], [(1, 2)])


def test_markdown_has_a_line_for_each_row_and_no_markup_of_a_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed(capsys, "markdown").splitlines() == [
        "| name | count |",
        "| --- | ---: |",
        '| a "b", c | 1 |',
        r"| two\nlines \| &lt;b> | NULL |",
        "|  | 3 |",
    ]


def test_the_table_aligns_numbers_to_the_right_also_after_null(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("a", None), ("b", 12345)]
    lines = printed(capsys, "table", rows).splitlines()
    assert [bool(re.search(r"  NULL │$|12345 │$", line)) for line in lines if "│" in line] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("form", "wanted"), [("table", "done\n"), ("csv", "done\n"), ("markdown", "done\n")]
)
def test_a_statement_without_a_result_is_done(
    form: Any, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(form, [], [])
    assert capsys.readouterr().out == wanted


def test_a_statement_without_a_result_is_empty_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_result("json", [], [])
    assert json.loads(capsys.readouterr().out) == {"columns": [], "rows": []}


@pytest.mark.parametrize("terminal", [True, False])
def test_csv_is_escaped_on_a_terminal_alone(terminal: bool) -> None:
    out = io.StringIO(newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(out, "isatty", lambda: terminal)
        patch.setattr("sys.stdout", out)
        print_result("csv", [("a", "String")], [("\x1b[2J\nb",)])
    assert out.getvalue() == ('"a"\n"\\x1b[2J\nb"\n' if terminal else '"a"\n"\x1b[2J\nb"\n')
