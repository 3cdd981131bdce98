"""Bringing tables right in which something is ahead of its source; see ahead.py."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.drain.wal import wal_end
from sluice.errors import NotReady
from sluice.execution.contention import until_done
from sluice.quality.ahead import Ahead
from sluice.wiring.context import Run
from sluice.wiring.drains import make_drain

log = logging.getLogger(__name__)


def ahead_in(run: Run) -> Ahead:
    """Looks for what is ahead in ClickHouse."""
    return Ahead(clickhouse=run.clickhouse, wal_end=partial(wal_end, run.settings.postgres))


def put_below(run: Run, table: Table) -> str:
    """Begin a new epoch where something of a table is ahead, so that what comes wins over it.

    Returns:
        What was ahead, in one line; empty where nothing was, or PostgreSQL cannot say.
    """
    step, found = ahead_in(run), None
    with suppress(NotReady):
        found = step.find(table)
    if not found:
        return ""
    until_done(partial(make_drain(run).raise_epoch, table, truncated=not found.truncated))
    step.remove(table, step.checkpoint(table).epoch)
    line = f"{table.name}: {found.sentence()}; a new epoch of positions begins"
    log.warning(line)
    return line


def hidden(run: Run, table: Table, selection: Selection, version: int) -> int:
    """See resync.Resync; none where PostgreSQL cannot say."""
    with suppress(NotReady):
        return ahead_in(run).hidden(table, selection, version)
    return 0
