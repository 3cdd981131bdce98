"""Keeps sessions on the services from one request to the next, as logging in is slow.

Only people who look at the page, and what reads its metrics, need them; a while later they end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import Lock, Timer

from fastapi import HTTPException

from sluice import wiring
from sluice.errors import WrongUsage
from sluice.operate.monitor import Monitor
from sluice.settings import Settings

IDLE_S = 30.0
# Logins are tried again: a changed password is found, and another server behind the address.
OLDEST_S = 300.0


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    """A monitor whose sessions are open, until `resources` are closed."""

    settings: Settings
    monitor: Monitor
    resources: ExitStack
    opened_at: float
    idle_since: float


class Sessions:
    """Monitors that no request uses, and the settings with which each was opened."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: list[_Session] = []
        self._timer: Timer | None = None

    @contextmanager
    def lent(self, settings: Settings) -> Iterator[Monitor]:
        """Lend a monitor to one request; it is kept for the next unless a service fails."""
        session = self._take(settings) or _opened(settings)
        try:
            yield session.monitor
        except (HTTPException, WrongUsage):  # the request's own fault
            self._keep(session)
            raise
        except BaseException:
            session.resources.close()
            raise
        self._keep(session)

    def end(self, idle_s: float = 0.0) -> None:
        """End the sessions that have been idle for so long."""
        before = time.monotonic() - idle_s
        with self._lock:
            ended = [session for session in self._idle if session.idle_since <= before]
            self._idle = [session for session in self._idle if session.idle_since > before]
            self._timer = self._watch() if self._idle else None
        with ExitStack() as closing:  # all of them, whatever one raises
            for session in ended:
                closing.push(session.resources)

    def _take(self, settings: Settings) -> _Session | None:
        with self._lock:
            fitting = [session for session in self._idle if session.settings == settings]
            if fitting:
                self._idle.remove(fitting[-1])
                return fitting[-1]
        return None

    def _keep(self, session: _Session) -> None:
        now = time.monotonic()
        if now - session.opened_at > OLDEST_S:
            session.resources.close()
            return
        with self._lock:
            self._idle.append(replace(session, idle_since=now))
            self._timer = self._timer or self._watch()

    def _watch(self) -> Timer:
        timer = Timer(IDLE_S, self.end, (IDLE_S,))
        timer.daemon = True
        timer.start()
        return timer


def _opened(settings: Settings) -> _Session:
    with ExitStack() as resources:
        monitor = resources.enter_context(wiring.monitor(settings))
        return _Session(settings, monitor, resources.pop_all(), time.monotonic(), 0.0)
