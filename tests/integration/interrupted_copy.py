"""Run `sluice relay --snapshot` in this process, and be killed where a point of its copy is reached
so many times.

Run by test_first_copy.py: point, times.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from unittest.mock import patch

from sluice.capture import initial_copy, table_copy
from sluice.cli import main
from sluice.clients import clickhouse_http

wanted, times = sys.argv[1:]
passed: list[str] = []


def reached(point: str) -> None:
    passed.append(point)
    if passed.count(wanted) == int(times):
        os.kill(os.getpid(), signal.SIGKILL)


with (
    patch.object(clickhouse_http, "_BUFFER", 100),  # chunks end within rows
    patch.multiple(table_copy, _FEWEST_PAGES=0, _PAGES_IN_A_RANGE=1, _RANGES_IN_AN_INSERT=1),
    patch.object(initial_copy, "take", partial(initial_copy.take, reached=reached)),
    patch.object(sys, "argv", ["sluice", "relay", "--snapshot"]),
):
    main()
