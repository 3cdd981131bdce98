"""ClickHouse's disk is full: said clearly, nothing advances, and the next drain goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import Topics
from sluice.drain import drain as draining
from sluice.embedded.stack import Stack
from sluice.errors import Refused
from sluice.generate.files import topics
from sluice.settings import read_settings
from sluice.star import create as warehouse
from tests.drain.table import DrainedTable
from tests.support.services import stack_environment, temporary_home

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
    catalog = load_catalog("models")
    with temporary_home() as home, small_disk(home / "clickhouse"):
        variables = stack_environment(home)
        stack = Stack(read_settings(variables))
        stack.launch()
        try:
            stack.start(("broker", "clickhouse"), lambda _: None)
            settings = read_settings(variables)
            Topics(settings.kafka).ensure(topics(catalog))
            with closing(ClickHouse(settings.clickhouse)) as clickhouse:
                warehouse.create_warehouse(clickhouse, catalog)
            made = DrainedTable(variables)
            with closing(made.clickhouse):
                yield made
        finally:
            stack.stop()


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
