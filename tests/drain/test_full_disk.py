"""ClickHouse's disk is full: said clearly, nothing advances, and the next drain goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sluice.drain import drain as draining
from sluice.errors import Refused
from tests.drain.table import DrainedTable, running
from tests.support.services import temporary_home

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        sys.platform != "linux" or os.getuid() != 0, reason="only root can mount a small disk"
    ),
]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own there; skips where mounting is not allowed even to root."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"this machine lets no disk be mounted: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def table() -> Iterator[DrainedTable]:
    """A table whose ClickHouse has a small disk."""
    with (
        temporary_home() as home,
        small_disk(home / "clickhouse"),
        running(home) as variables,
    ):
        made = DrainedTable(variables)
        with closing(made.clickhouse):
            yield made


def test_a_full_disk_stops_the_drain_until_there_is_room(
    table: DrainedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_WAITS", (0.1, 0.1))
    table.begin()
    ballast = table.settings.home / "clickhouse" / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass
    with pytest.raises(Refused, match="space") as caught:
        table.drain()
    assert "disk" in str(caught.value)
    assert table.next_offset() == 0
    ballast.unlink()
    table.require_converged()
