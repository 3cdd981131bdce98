"""Lets traffic on PostgreSQL outlast an outage, a conflict and a deadlock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from sluice.errors import NeedsPerson, NotReady, Unreachable, own_log

_PAUSE = 0.5  # seconds between attempts while PostgreSQL does not answer
# Classes of SQLSTATE. A connection that fails has none; 57P is a server that stops or starts.
_OUTAGES = ("08", "53", "57P")
_CONFLICTS = ("23", "40")
_NO_TABLE = "42P01"


class Outages:
    """The times when PostgreSQL did not answer.

    Args:
        where: the server, for messages.
        report: receives a line when an outage begins and ends.

    Attributes:
        conflicts: transactions that another session's change prevented.
    """

    def __init__(self, where: str, report: Callable[[str], None]) -> None:
        self.conflicts = 0
        self._where, self._report = where, report
        self._before, self._since, self._reason = 0.0, 0.0, ""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Run a transaction; an outage or a conflict is noted, and the transaction left out.

        Raises:
            NotReady: a table is missing.
            NeedsPerson: PostgreSQL refuses a statement.
        """
        try:
            yield
        except DBAPIError as error:
            self._failed(error)
        else:
            self._answered()

    def seconds(self) -> float:
        """Return how long all outages have lasted until now."""
        return self._before + (time.monotonic() - self._since if self._reason else 0.0)

    def require_ended(self) -> None:
        """Raise Unreachable if PostgreSQL does not answer now."""
        if self._reason:
            raise Unreachable(
                f"{self._where} does not answer: {self._reason}",
                remedy=own_log("postgres"),
            )

    def _failed(self, error: DBAPIError) -> None:
        code = str(getattr(error.orig, "pgcode", None) or "")
        reason = str(error.orig).strip().splitlines()[0]
        connected = isinstance(error, OperationalError | InterfaceError)
        if error.connection_invalidated or code.startswith(_OUTAGES) or (connected and not code):
            self._lost(reason)
        elif code.startswith(_CONFLICTS):
            self.conflicts += 1
        elif code == _NO_TABLE:
            raise NotReady(
                f"{self._where}: {reason}", remedy="create the example's tables: sluice up"
            ) from error
        else:
            raise NeedsPerson(f"{self._where}: {reason}") from error

    def _lost(self, reason: str) -> None:
        if not self._reason:
            self._since = time.monotonic()
            self._report(f"{self._where} does not answer; waiting: {reason}")
        self._reason = reason
        time.sleep(_PAUSE)

    def _answered(self) -> None:
        if self._reason:
            self._before, self._reason = self.seconds(), ""
            self._report(f"{self._where} answers again")
