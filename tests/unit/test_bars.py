"""Long work shows bars on a terminal, and lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from threading import Thread

from sluice.settings import PROJECT

# What a command does: it sets up the log, works for long, and prints a result.
COMMAND = """
import logging
import time
from sluice.cli.output import Log, say
from sluice.execution import progress

logging.basicConfig(handlers=[Log()], level=logging.INFO)
log = logging.getLogger("sluice.test")
progress.report_every(0.0)
pace = progress.Pace(log, "orders: {} rows copied", lambda: 12)
for done in (3, 6):
    pace.at(done)
    time.sleep(0.2)
log.info("orders: a plain line")
pace.at(9)
say("done, 12 rows")
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment() -> dict[str, str]:
    return {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}


def in_terminal(command: str) -> str:
    """What a command writes on a terminal."""
    ours, theirs = pty.openpty()
    written = bytearray()

    def read() -> None:
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # closed on the other side
                return
            if not part:
                return
            written.extend(part)

    reader = Thread(target=read)
    reader.start()
    done = subprocess.run(
        [sys.executable, "-c", command],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        cwd=PROJECT,
        env=environment(),
        check=False,
    )
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert done.returncode == 0, written.decode()
    return written.decode()


def test_a_terminal_shows_a_bar_that_makes_room_for_lines_and_results() -> None:
    written = in_terminal(COMMAND)
    assert "━" in written
    shown = _ESCAPES.sub("", written)
    assert re.search(r"orders: rows copied .*3 of 12, about \d+ s left", shown)
    assert "a second" not in shown  # the line that the log has elsewhere
    plain = written.index("orders: a plain line")
    again = written.index("9 of 12")
    result = written.index("done, 12 rows")
    assert plain < again < result
    # Each is printed where the bar was, which is erased.
    for at in (plain, result):
        assert "\x1b[2K" in written[:at].rpartition("of 12")[2]


def test_elsewhere_it_is_a_line_of_the_log_on_stderr() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env=environment(),
        check=True,
    )
    lines = done.stderr.splitlines()
    assert re.search(r"orders: 3 rows copied, [\d,]+ a second, 9 left: about 1 s$", lines[0])
    assert lines[2].endswith("orders: a plain line")
    assert done.stdout == "done, 12 rows\n"
    assert "\x1b" not in done.stdout + done.stderr
