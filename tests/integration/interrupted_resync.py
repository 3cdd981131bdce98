"""Resync or repair a table in this process, and be killed where a point is reached so many times.

Run by test_resumed.py: what, table, rows of a range, point, times.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from unittest.mock import patch

from sluice import wiring
from sluice.clients import clickhouse_http
from sluice.repair.resync import Resync
from sluice.settings import read_settings

what, name, rows, wanted, times = sys.argv[1:]
passed: list[str] = []


def reached(point: str) -> None:
    passed.append(point)
    if passed.count(wanted) >= int(times):  # several readers may pass it at once
        os.kill(os.getpid(), signal.SIGKILL)


settings = read_settings(os.environ)
with (
    patch.object(clickhouse_http, "_BUFFER", 100),  # chunks end within rows
    patch.object(wiring.resyncs, "Resync", partial(Resync, rows=int(rows), reached=reached)),
):
    if what == "repair":
        print(list(wiring.repair(settings)))
    else:
        print(wiring.resync(settings, name, restart=True).sentence())
