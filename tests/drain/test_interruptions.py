"""A drain that is killed, fails or sleeps between any two effects leaves what the next mends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from sluice.drain.drain import POINTS
from sluice.settings import PROJECT
from tests.drain.table import DrainedTable

pytestmark = [pytest.mark.services, pytest.mark.clickhouse_may_crash]


@pytest.fixture(scope="module")
def table(environment: dict[str, str]) -> Iterator[DrainedTable]:
    made = DrainedTable(environment)
    with closing(made.clickhouse):
        yield made


def drain_elsewhere(table: DrainedTable, kind: str, point: str) -> subprocess.Popen[bytes]:
    """A drain in a process of its own."""
    paths = f"{PROJECT}{os.pathsep}{PROJECT / 'plugins'}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.drain.interrupted", kind, point],
        env={**table.environment, "PYTHONPATH": paths},
        cwd=PROJECT,
        stderr=subprocess.PIPE,
    )


def test_every_point_is_reached(table: DrainedTable) -> None:
    table.begin()
    passed: list[str] = []
    table.drain(passed.append)
    assert set(passed) == set(POINTS)
    table.require_converged()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("kind", "code"), [("kill", -signal.SIGKILL), ("raise", 1)])
def test_a_drain_that_ends_at_any_point_is_mended_by_the_next(
    table: DrainedTable, kind: str, code: int, point: str
) -> None:
    table.begin(seed=POINTS.index(point))
    with drain_elsewhere(table, kind, point) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors.decode()
    table.require_converged()


@pytest.mark.parametrize("point", POINTS)
def test_a_drain_that_sleeps_while_another_runs_is_told_and_changes_nothing(
    table: DrainedTable, point: str
) -> None:
    table.begin(seed=POINTS.index(point))
    with drain_elsewhere(table, "hang", point) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), status
            table.drain()
            assert table.state() == table.expected
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == (0 if point == "run recorded" else 3)
        finally:
            process.kill()
    table.require_converged()
