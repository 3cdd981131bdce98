"""Draws amounts of work as bars on a terminal."""

from __future__ import annotations

import sys
from threading import RLock
from typing import TYPE_CHECKING

from sluice.execution.progress import Amount, duration
from sluice.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_MOST = 5  # bars at a time


class Bars:
    """Bars on stderr, the latest works last; they vanish before anything else is printed."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._drawn: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def show(self, amount: Amount) -> None:
        """Draw or update the bar of a work; of too many the oldest goes."""
        with self._lock:
            drawn = self._drawn or self._begin()
            if amount.work not in self._tasks:
                if len(self._tasks) >= _MOST:
                    drawn.remove_task(self._tasks.pop(next(iter(self._tasks))))
                name = printable(amount.work)
                self._tasks[amount.work] = drawn.add_task(name, words="", total=None)
            task = self._tasks[amount.work]
            drawn.update(task, completed=amount.done, total=amount.total, words=_words(amount))

    def hide(self) -> None:
        """Remove all bars; the next amount draws its own again."""
        with self._lock:
            drawn, self._drawn, self._tasks = self._drawn, None, {}
            if drawn is not None:
                drawn.stop()

    def _begin(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._drawn = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            console=Console(file=sys.stderr),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawn.start()
        return self._drawn


bars = Bars()


def _words(amount: Amount) -> str:
    words = f"{amount.done:,}" if amount.total is None else f"{amount.done:,} of {amount.total:,}"
    if amount.seconds_left is None:
        return words
    return f"{words}, {duration(amount.seconds_left)} left"
