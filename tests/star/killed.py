"""Run a rebuild and kill this process where it first reaches a point; run by test_rebuild.py."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

from sluice.clients.clickhouse import ClickHouse
from sluice.settings import read_settings
from sluice.star import create as warehouse
from tests.star.rebuilds import run
from tests.star.store import FACT, FEW

kind, wanted = sys.argv[1:]


def reached(point: str) -> None:
    if point == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


plain = warehouse.make_rebuild(ClickHouse(read_settings(os.environ).clickhouse), FACT)
run(replace(plain, range_rows=FEW, reached=reached), kind)
