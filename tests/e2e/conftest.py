"""A whole stack, brought up and down as a newcomer does it; its secrets are canaries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.running import Running
from tests.support.canaries import Canaries, CommandLines
from tests.support.services import free_ports, stack_environment, temporary_home
from tests.support.waiting import until


@pytest.fixture(scope="package")
def stack() -> Iterator[Running]:
    canaries, lines = Canaries(), CommandLines()
    with temporary_home() as home:
        canaries.write(home)
        variables = {**stack_environment(home), **canaries.variables(*free_ports(1))}
        running = Running(environment=variables, home=home, canaries=canaries, lines=lines)
        with lines.watched():
            done = running.sluice("up", "--detach")
        try:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            for word in ("sluice_quality", "Revenue", "Airflow ", "Postgres", "customers"):
                assert word in done.stdout
            # At minute 17 it would find what a test spoils, and be the last run for an hour.
            running.airflow("PATCH", "dags/sluice_deep_quality", is_paused=True)
            yield running
        finally:
            assert running.sluice("down").returncode == 0
            until(
                lambda: left_behind(home) == [],
                "all processes of the stack have ended",
                30,
                pause=1,
            )


def left_behind(home: Path) -> list[str]:
    """Processes whose command line or environment names this home."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(home) in text:
            found.append(text[:200])
    return found
