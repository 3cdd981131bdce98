"""Repair tables with versions ahead of their source; see quality/ahead.py."""

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
    """Make the search for versions that are ahead of the WAL's end."""
    return Ahead(clickhouse=run.clickhouse, wal_end=partial(wal_end, run.settings.postgres))


def put_below(run: Run, table: Table) -> str:
    """Begin a new epoch if versions of a table are ahead, so that later changes replace them.

    Returns:
        What was ahead, in one line; empty if nothing was, or PostgreSQL's WAL end is unknown.
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
    """See resync.Resync; 0 if PostgreSQL's WAL end is unknown."""
    with suppress(NotReady):
        return ahead_in(run).hidden(table, selection, version)
    return 0
