"""Interruption of a session's statement, which itself checks nothing while it waits for a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import psycopg2

from sluice.errors import NotReady

_WATCH_SECONDS = 0.2


@contextmanager
def interrupted(check: Callable[[], None], *cursors: Any) -> Iterator[None]:
    """Cancel the sessions' statements when `check` raises, and raise its error."""
    ended, raised = Event(), list[Exception]()

    def watch() -> None:
        while not ended.wait(_WATCH_SECONDS):
            try:
                check()
            except Exception as error:  # noqa: BLE001 - raised by the session's thread
                raised.append(error)
                for cursor in cursors:
                    cursor.connection.cancel()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except (NotReady, psycopg2.errors.QueryCanceled):
        if raised:
            raise raised[0] from None
        raise
    finally:
        ended.set()
        watcher.join()
