"""Crashes of the embedded ClickHouse, and the tests that may fail beside one.

Whatever goes wrong while a client of its native port says hello, or is killed then, ends the
embedded server by SIGABRT (ADR 1); its supervisor starts it again. Some tests kill clients or send
wrong passwords: those are marked `clickhouse_may_crash`. One that fails beside such a crash is run
once more, and the run says so. Any other test fails.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

MARK = "clickhouse_may_crash"
_RECENT = 60.0  # seconds; a crash takes some, to write where it was
_RESTART = 15.0
_homes: set[Path] = set()
_told: list[float] = []


def watch(home: Path) -> None:
    """Look for crashes in a stack's home."""
    _homes.add(home)


def forget(home: Path) -> None:
    """Tell the crash, if there was one, before the home is gone."""
    _homes.discard(home)
    log = _log(home)
    if _written(log):
        _told.append(_written(log))
        print(log.read_text(errors="replace")[:10_000], file=sys.stderr)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """As pytest's own, but for marked tests that fail beside a crash."""
    if item.get_closest_marker(MARK) is None:
        return None
    hook, named = item.ihook, {"nodeid": item.nodeid, "location": item.location}
    hook.pytest_runtest_logstart(**named)
    began = time.time()
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if any(report.failed for report in reports) and _crashed(since=began - _RECENT):
        print(f"once more, after a crash of ClickHouse: {item.nodeid}", file=sys.__stderr__)
        time.sleep(_RESTART)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(**named)
    return True


def _crashed(since: float) -> bool:
    return max([*_told, *(_written(_log(home)) for home in _homes)], default=0) > since


def _log(home: Path) -> Path:
    return home / "logs/clickhouse.log"  # which holds nothing but crashes


def _written(log: Path) -> float:
    """When, in seconds since 1970; 0 where nothing was."""
    return log.stat().st_mtime if log.exists() and log.stat().st_size else 0
