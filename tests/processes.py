"""Processes that tests start."""

from __future__ import annotations

import subprocess
from contextlib import suppress

import psutil


def stop(process: subprocess.Popen[bytes], grace: float = 30) -> None:
    """SIGTERM, and SIGKILL to what is left of it and its children `grace` seconds later.

    Airflow's scheduler can lose a SIGTERM, because its handler raises SystemExit wherever it is
    just then; and when it ends it can leave a worker that it was about to start.
    """
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
