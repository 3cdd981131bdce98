"""Drain in this process, and be killed, fail or stop where a point is first reached.

Run by test_interruptions.py. Exit 3: another drain was faster.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

from sluice.errors import StaleCheckpoint
from sluice.settings import read_settings
from tests.drain.table import drain_of
from tests.support.products import DECODER

kind, wanted = sys.argv[1:]
passed: list[str] = []


def reached(point: str) -> None:
    passed.append(point)
    if point != wanted or passed.count(wanted) > 1:
        return
    if kind == "raise":
        raise RuntimeError(f"raised at {point}")
    os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)


with drain_of(read_settings(os.environ)) as drain:
    try:
        replace(drain, reached=reached).run(DECODER)
    except StaleCheckpoint:
        sys.exit(3)
