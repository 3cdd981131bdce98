"""What tests of commands under attack share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

SLUICE = str(Path(sys.executable).parent / "sluice")


def until(condition: Callable[[], bool], seconds: float = 180) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)
