"""Decides whether a table's rows go in bulk or through the topic."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from sluice.capture import slot as slots
from sluice.capture.bulk import Loads
from sluice.catalog import Table
from sluice.clients.clickhouse_http import table_id
from sluice.drain.bulk_load import BulkLoad
from sluice.errors import SluiceError, Unreachable
from sluice.events.event import CONNECT
from sluice.generate.bulk import topic_only
from sluice.settings import Settings
from sluice.warehouse.evolution import differing
from sluice.wiring.context import Run, opened
from sluice.wiring.drains import make_drain, named_source
from sluice.wiring.masked import wrong_key

log = logging.getLogger(__name__)


def make_load(run: Run, table: Table) -> BulkLoad | None:
    """Make the load of a table's rows; None, with a line in the log, where they cannot go so.

    Whether the table differs in PostgreSQL from its model is decided when it is locked.
    """
    if reason := topic_only(table) or _refusal(run, table):
        log.info("%s: rows go through the topic: %s", table.name, reason)
        return None
    return bulk_load(run, table)


def bulk_load(run: Run, table: Table) -> BulkLoad:
    """Make the load of a table whose rows can go in bulk; see make_load."""
    return BulkLoad(
        settings=run.settings.clickhouse,
        clickhouse=run.clickhouse,
        drain=make_drain(run),
        table=table,
        differences=lambda of: run.source.schema_differences([of])[of.name],
        load=run.settings.copy_load,
    )


@contextmanager
def first_loads(settings: Settings) -> Iterator[Loads]:
    """Open the loads of a relay's first copy.

    The relay may run without ClickHouse. Where it does not answer as the snapshot begins, or is not
    set up, rows go through the topic: nothing says when it will be.
    """
    unreachable = ""

    def first_load(table: Table) -> BulkLoad | None:
        nonlocal unreachable
        try:
            reason = unreachable or _unready(run, table)
        except SluiceError as error:
            reason = error.what
            # Waiting for an answer for each of many tables would take long.
            unreachable = reason if isinstance(error, Unreachable) else ""
        if reason:
            log.warning("%s: rows go through the topic: %s", table.name, reason)
            return None
        if wrong := wrong_key(run, [table]):
            raise wrong
        load = make_load(run, table)
        prefix = f"sluice-copy-{settings.relay.slot}-{table.storage}-"
        return load and replace(load, alone=prefix)

    with opened(settings) as run:
        yield first_load


def _unready(run: Run, table: Table) -> str:
    """Return why a table cannot take rows of a relay; empty where it can.

    Raises:
        SluiceError: a service does not answer, or a person has to decide before a drain.
    """
    if named_source(run) == CONNECT:
        return "its changes come from Redpanda Connect; see: sluice source relay"
    for error in differing(run.clickhouse, [table]).values():
        return error.what
    make_drain(run).present(table)
    return ""


def _refusal(run: Run, table: Table) -> str:
    """Return why the services take no rows in bulk; empty where they do."""
    with slots.session(run.settings.postgres) as cursor:
        if cursor.connection.encoding == "SQLASCII":
            return "the database is in SQL_ASCII, whose texts may not be UTF-8"
    try:
        answers = table_id(run.settings.clickhouse, table.storage)
    except SluiceError as error:
        return error.what
    own = run.clickhouse.execute(run.queries["storage"], table=table.storage)
    if [(UUID(answers or "0" * 32),)] != own:
        return (
            f"another server than {run.clickhouse.where} answers on"
            f" SLUICE_CLICKHOUSE_HTTP_PORT ({run.settings.clickhouse.http_port})"
        )
    return ""
