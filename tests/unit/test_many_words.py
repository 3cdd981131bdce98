"""Words about many tables: the first names and the number of the rest, whatever says them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sluice.catalog import Catalog, Table
from sluice.catalog.quality_options import Status
from sluice.errors import NotReady, PoisonedTopic, SluiceError
from sluice.execution.outcomes import together
from sluice.printable import first_lines, named
from sluice.quality.alerts import Alerts
from sluice.quality.checks import Check, QualityReport
from sluice.quality.results import News
from sluice.settings import PROJECT, read_settings

NAMES = [f"table_{at}" for at in range(300)]
FEW = "table_0, table_1, table_2, table_3, table_4 and 295 more"


def check(table: str, status: Status, name: str = "row_count") -> Check:
    return Check(table=table, check=name, status=status, postgres=2, clickhouse=2)


def raised(call: Callable[[], Any]) -> SluiceError:
    with pytest.raises(SluiceError) as caught:
        call()
    return caught.value


def test_names_are_told_whole_up_to_five_and_then_counted() -> None:
    assert [named(NAMES[:count]) for count in (0, 1, 2)] == ["", "table_0", "table_0, table_1"]
    assert named(NAMES[:5]) == ", ".join(NAMES[:5])
    assert named(NAMES[:6]).endswith("table_4 and 1 more")
    assert named(iter(NAMES)) == FEW
    assert first_lines(NAMES[:20], "more") == NAMES[:20]
    assert first_lines(NAMES, "more tables") == [*NAMES[:20], "and 280 more tables"]


def test_one_error_of_many_tables_names_few() -> None:
    error = together({name: NotReady("it is late", remedy="wait") for name in NAMES})
    assert str(error) == f"{FEW}: it is late\nwait"


def test_of_many_errors_the_worst_are_told_and_decide() -> None:
    errors: dict[str, SluiceError] = {name: NotReady(f"{name} is late") for name in NAMES}
    errors["table_299"] = PoisonedTopic("table_299 is poisoned")
    error = together(errors)
    lines = str(error).splitlines()
    assert isinstance(error, PoisonedTopic)
    assert lines[0] == "table_299 is poisoned"
    assert len(lines) < 25
    assert "table_19, table_20, table_21, table_22, table_23 and 275 more: other" in lines[-1]


def test_a_failed_report_names_few_tables_and_shows_few_findings() -> None:
    failed = QualityReport(checks=tuple(check(name, Status.FAIL) for name in NAMES))
    first = sorted(NAMES)[:5]
    text = f"quality checks failed: {', '.join(first)} and 295 more"
    assert str(raised(failed.require_passed)).splitlines()[0] == text
    assert len(failed.findings) == 21
    assert failed.sums == ["0 of 300 checks passed"]


@pytest.mark.parametrize(("count", "lines"), [(20, 21), (21, 2), (300, 2)])
def test_the_counts_of_many_equal_tables_are_one_line(count: int, lines: int) -> None:
    checks = [check(name, Status.PASS) for name in NAMES[:count]]
    report = QualityReport(checks=(*checks, check("one", Status.PASS, "freshness")))
    assert len(report.sums) == lines
    assert report.sums[-1] == f"{count + 1} of {count + 1} checks passed"
    if lines == 2:
        assert report.sums[0] == f"row_count pass: {count} tables, {2 * count} rows"


def test_an_unknown_table_is_told_with_few_of_the_known() -> None:
    tables = [cast(Table, SimpleNamespace(name=name)) for name in NAMES]
    catalog = Catalog(models="models", profile="lossless", tables=tuple(tables), facts=())
    assert f"(known: {FEW})" in str(raised(lambda: catalog.table("tabel")))


def test_a_message_for_people_holds_few_news(monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Any] = []
    monkeypatch.setattr(Alerts, "_post", lambda self, url, body: posted.append(body))
    news = [News(check=check(name, Status.FAIL), before=Status.PASS) for name in NAMES]
    places = {"SLUICE_ALERT_SLACK": "https://a", "SLUICE_ALERT_WEBHOOK": "https://b"}
    Alerts(read_settings(places).alerts).tell(news)
    webhook, slack = posted
    assert len(webhook["checks"]) == 300  # a program can read all of them
    assert len(slack["text"].splitlines()) == 22
    assert slack["text"].splitlines()[-1] == "• and 280 more"


def test_no_module_joins_names_of_tables_itself() -> None:
    """A comprehension over tables or facts, joined with commas, is a line of every name."""
    found = []
    for path in sorted((PROJECT / "plugins").rglob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text())))
        for node in calls:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            by = node.func.value
            if node.func.attr == "join" and isinstance(by, ast.Constant) and by.value == ", ":
                text = ast.unparse(node)
                if re.search(r"\bin (\w+\.)*(tables|facts)\b", text):
                    found.append(f"{path.name}: {text}")
    # A statement for PostgreSQL has to have all.
    assert [line for line in found if not line.startswith("publication.py: ")] == []
