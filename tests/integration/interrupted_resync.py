"""Resync a table in this process, and be killed where a point is reached so many times.

Run by test_resumed.py: table, rows of a range, point, times.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.selection import Selection
from sluice.settings import read_settings

name, rows, wanted, times = sys.argv[1:]
passed: list[str] = []


def reached(point: str) -> None:
    passed.append(point)
    if passed.count(wanted) == int(times):
        os.kill(os.getpid(), signal.SIGKILL)


settings = read_settings(os.environ)
table = load_catalog(settings.models).table(name)
with wiring.resyncing(settings, table) as step:
    interrupted = replace(step, rows=int(rows), reached=reached)
    print(interrupted.run(table, Selection()).sentence())
