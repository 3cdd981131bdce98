"""Which tests are run once more where they fail beside a crash of the embedded ClickHouse."""

from __future__ import annotations

import pytest

from tests.support import crashes

pytest_plugins = ["pytester"]

# Each test fails the first time; a crash is told by the log of its home, which is this folder.
TESTS = """
import pytest
from pathlib import Path

LOG, SEEN = Path("logs/clickhouse.log"), []

def fail_once(name, *, crash):
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("ended" if crash else "")
    SEEN.append(name)
    assert SEEN.count(name) == 2

@pytest.mark.clickhouse_may_crash
def test_marked():
    fail_once("marked", crash=True)

def test_unmarked():
    fail_once("unmarked", crash=True)

@pytest.mark.clickhouse_may_crash
def test_marked_without_a_crash():
    fail_once("without", crash=False)
"""


def test_a_test_that_fails_beside_a_crash_is_run_once_more_where_it_is_marked(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "_RESTART", 0.0)
    monkeypatch.setattr(crashes, "_homes", {pytester.path})
    monkeypatch.setattr(crashes, "_told", [])
    pytester.makeini("[pytest]\nmarkers = clickhouse_may_crash")
    pytester.makeconftest("from tests.support.crashes import pytest_runtest_protocol")
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rA")
    done.assert_outcomes(passed=1, failed=2)
    done.stdout.fnmatch_lines_random(["PASSED *::test_marked", "FAILED *::test_unmarked*"])
