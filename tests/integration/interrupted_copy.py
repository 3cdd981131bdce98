"""Take a first copy in this process, and be killed where a point is reached so many times.

Run by test_first_copy.py: point, times.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from unittest.mock import patch

from sluice.capture import initial_copy, table_copy
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients import clickhouse_http
from sluice.settings import read_settings
from sluice.wiring.bulk import first_loads

wanted, times = sys.argv[1:]
passed: list[str] = []


def reached(point: str) -> None:
    passed.append(point)
    if passed.count(wanted) == int(times):
        os.kill(os.getpid(), signal.SIGKILL)


settings = read_settings(os.environ)
settings = replace(settings, relay=replace(settings.relay, ack="broker"))
with (
    patch.object(clickhouse_http, "_BUFFER", 100),  # chunks end within rows
    patch.multiple(table_copy, _FEWEST_PAGES=0, _PAGES_IN_A_RANGE=1, _RANGES_IN_AN_INSERT=1),
    patch.object(initial_copy, "take", partial(initial_copy.take, reached=reached)),
):
    loads = partial(first_loads, settings)
    run(settings, load_catalog(settings.models), snapshot=True, loads=loads)
