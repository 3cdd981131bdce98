"""Erase a ferry in this process, and be killed where a point is reached.

Run by test_erased.py: key, point.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from unittest.mock import patch

from sluice import wiring
from sluice.repair.erasure import Erasure
from sluice.settings import read_settings

key, wanted = sys.argv[1:]


def reached(point: str) -> None:
    if point == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


with patch.object(wiring.erasures, "Erasure", partial(Erasure, reached=reached)):
    print(list(wiring.erase(read_settings(os.environ), "ferries", key, reason="asked to")))
