"""Check deeply in this process, and be killed where a point is reached so many times.

Run by test_deep_resumed.py: rows of a range, point, times, tables (none for all).
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from unittest.mock import patch

from sluice import wiring
from sluice.quality.deep_check import DeepCheck
from sluice.settings import read_settings

rows, wanted, times, *tables = sys.argv[1:]
passed: list[str] = []


def reached(point: str) -> None:
    passed.append(point)
    if passed.count(wanted) == int(times):
        os.kill(os.getpid(), signal.SIGKILL)


check = partial(DeepCheck, rows=int(rows), reached=reached)
with patch.object(wiring.checks, "DeepCheck", check):
    report = wiring.quality(read_settings(os.environ), tables, deep=True)
    print([check.sentence() for check in report.checks])
