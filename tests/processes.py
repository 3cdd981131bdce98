"""Processes that tests start."""

from __future__ import annotations

import subprocess

import psutil


def stop(process: subprocess.Popen[bytes], grace: float = 30) -> None:
    """SIGTERM; SIGKILL to it and its children if it is there `grace` seconds later, as Compose.

    Airflow's scheduler can lose a SIGTERM: its handler raises SystemExit wherever it is just then.
    """
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()
