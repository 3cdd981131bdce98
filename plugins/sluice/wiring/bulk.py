"""Decides whether a table's rows go in bulk or through the topic."""

from __future__ import annotations

import logging
from uuid import UUID

from sluice.capture import slot as slots
from sluice.catalog import Table
from sluice.clients.clickhouse_http import table_id
from sluice.drain.bulk_load import BulkLoad
from sluice.errors import SluiceError
from sluice.generate.bulk import topic_only
from sluice.wiring.context import Run
from sluice.wiring.drains import make_drain

log = logging.getLogger(__name__)


def make_load(run: Run, table: Table) -> BulkLoad | None:
    """Make the load of a table's rows; None, with a line in the log, where they cannot go so.

    Whether the table differs in PostgreSQL from its model is decided when it is locked.
    """
    if reason := topic_only(table) or _refusal(run, table):
        log.info("%s: rows go through the topic: %s", table.name, reason)
        return None
    return BulkLoad(
        settings=run.settings.clickhouse,
        clickhouse=run.clickhouse,
        drain=make_drain(run),
        table=table,
        differences=lambda of: run.source.schema_differences([of])[of.name],
        load=run.settings.copy_load,
    )


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
