"""Checks of a hot standby that is read instead of the primary."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from sluice.capture import slot as slots
from sluice.errors import NeedsPerson, NotReady, SluiceError
from sluice.events.positions import format_lsn, parse_lsn
from sluice.settings import PostgresSettings, Settings

_PAUSE = 0.1
_IDENTITY = "SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system())"


def require_replayed(settings: Settings, standby: Any, primary: Any, point: int) -> None:
    """Wait until the standby has replayed the primary's WAL up to a point.

    Args:
        standby, primary: a cursor on each.

    Raises:
        NeedsPerson: it is no standby of the primary.
        NotReady: it did not replay the WAL within the time that a check waits for the drain.
    """
    where = f"SLUICE_QUALITY_REPLICA {settings.compared.address}"
    in_recovery, system = _row(standby, _IDENTITY)
    if not in_recovery or system != _row(primary, _IDENTITY)[1]:
        raise NeedsPerson(
            f"{where} is not a standby of PostgreSQL {settings.postgres.address}",
            remedy="set it to one of its standbys, or unset it",
        )
    deadline = time.monotonic() + settings.quality_seconds
    while (replayed := _replayed(standby)) < point:
        if time.monotonic() > deadline:
            raise NotReady(
                f"{where} replayed the WAL up to {format_lsn(replayed)}, not to"
                f" {format_lsn(point)}, in {settings.quality_seconds:.0f} s",
                remedy="see pg_stat_replication on the primary, or read the primary:"
                " unset SLUICE_QUALITY_REPLICA",
            )
        time.sleep(_PAUSE)


@contextmanager
def running_transactions_logged(settings: PostgresSettings) -> Iterator[None]:
    """Let the primary log its running transactions repeatedly.

    The creation of a slot on a standby waits for such a record. Without EXECUTE on
    pg_log_standby_snapshot it comes every 15 seconds while the primary is written to.
    """
    stop = threading.Event()

    def log_them() -> None:
        with suppress(SluiceError), slots.session(settings) as cursor:
            while not stop.wait(_PAUSE):
                cursor.execute("SELECT pg_log_standby_snapshot()")

    with ThreadPoolExecutor(1) as beside:
        beside.submit(log_them)
        try:
            yield
        finally:
            stop.set()


def _replayed(standby: Any) -> int:
    (lsn,) = _row(standby, "SELECT pg_last_wal_replay_lsn()::text")
    return parse_lsn(lsn) if lsn else 0


def _row(cursor: Any, query: str) -> tuple[Any, ...]:
    cursor.execute(query)
    row: tuple[Any, ...] = cursor.fetchone()
    return row
