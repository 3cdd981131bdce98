"""Erase a person's row from everything that Sluice keeps of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sluice.capture import slot as slots
from sluice.capture.row_reader import count_rows, readable_keys
from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, typed_key
from sluice.errors import NeedsPerson, NotReady, WrongUsage
from sluice.events.event import DEAD_LETTER_TOPIC, KeyText
from sluice.execution.contention import until_done
from sluice.repair.erasure import Erasure
from sluice.settings import Settings
from sluice.warehouse.merges import merge
from sluice.wiring.context import Run, opened
from sluice.wiring.drains import make_decoder, make_drain
from sluice.wiring.steps import rebuild_changed


def erase(
    settings: Settings, name: str, key: str, *, reason: str, former: bool = False
) -> Iterator[str]:
    """Erase a row's versions, dead letters and drained messages; yield a line for each step.

    Args:
        former: whether PostgreSQL may have the row, whose present version then stays.

    Raises:
        NeedsPerson: PostgreSQL has the row.
        NotReady: its delete has not arrived yet.
    """
    if not reason.strip():
        raise WrongUsage("a row is erased for a reason", remedy="give one: --reason TEXT")
    with opened(settings) as run:
        table = run.catalog.table(name)
        own = typed_key(table, key)
        present = _in_postgres(settings, table, own)
        if present and not former:
            raise NeedsPerson(
                f"{name}: PostgreSQL has the row of key {key}",
                remedy="delete it there first, or erase only what it was before: --former",
            )
        offset = _drained(run, table)
        erasure = Erasure(clickhouse=run.clickhouse, table=table)
        if erasure.is_live(own) and not present:
            raise NotReady(
                f"{name}: the delete of the row has not arrived in ClickHouse",
                remedy="start the relay, or run: sluice resync --diff; then run it again",
            )
        facts = [fact for fact in run.catalog.facts if table in fact.tables]
        rebuild_changed(run, facts).require()
        with erasure.run(own, reason=reason, live=present) as erased:
            yield (
                f"{name}: {erased.versions} former versions and {erased.dead_letters} dead letters"
                " of the row are erased"
            )
            for fact in facts:
                merge(run.clickhouse, run.clickhouse.cluster.local(fact.name))
                yield f"{fact.name}: former versions of its rows are merged away"
            erasure.reached("facts merged")
            yield from _forgotten(run, table, offset)
            erasure.reached("messages deleted")


def _in_postgres(settings: Settings, table: Table, key: KeyText) -> bool:
    with slots.session(settings.postgres) as cursor:
        keys = readable_keys(cursor, table, [key])
        return bool(keys) and count_rows(cursor, table, Selection(keys=tuple(keys))) > 0


def _drained(run: Run, table: Table) -> int:
    """Drain the table; return the offset below which all of its messages are stored."""
    drain = make_drain(run)
    until_done(partial(drain.run, make_decoder(run, table.name)))
    checkpoint = run.store.checkpoint(table.name)
    return checkpoint.next_offset if checkpoint else 0


def _forgotten(run: Run, table: Table, offset: int) -> Iterator[str]:
    """Let the broker delete the drained messages; yield what it refuses to delete."""
    if refusal := run.topics.forget(table.topic, offset):
        yield (
            f"{table.topic}: the broker does not delete messages ({refusal}); they stay until the"
            " topic's retention.ms is over"
        )
    else:
        yield f"{table.topic}: the messages below offset {offset} are deleted"
    yield (
        f"{DEAD_LETTER_TOPIC}: rejected events stay until its retention; see"
        " SLUICE_DEAD_LETTER_DAYS"
    )
