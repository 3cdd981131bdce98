"""Recover in this process, and be killed when so many lines have been told, or in a resync where a
point is reached so many times.

Run by test_recovery.py: lines (0 for none), point, times; ranges are of 200 rows.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from unittest.mock import patch

from sluice import wiring
from sluice.repair.resync import Resync
from sluice.settings import read_settings

lines, wanted, times = [*sys.argv[1:], "", "0"][:3]
passed: list[str] = []


def reached(point: str) -> None:
    passed.append(point)
    if passed.count(wanted) == int(times):
        os.kill(os.getpid(), signal.SIGKILL)


with patch.object(wiring.resyncs, "Resync", partial(Resync, rows=200, reached=reached)):
    for number, _ in enumerate(wiring.recover(read_settings(os.environ)), start=1):
        if number == int(lines):
            os.kill(os.getpid(), signal.SIGKILL)
