"""Compare how rows in ClickHouse are masked with the models and the key, and note it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sluice.catalog import Table
from sluice.clients.mask_key import masked_as
from sluice.errors import NeedsPerson
from sluice.events.positions import pack
from sluice.warehouse.key_ranges import Plan
from sluice.warehouse.masked import (
    difference,
    has_older,
    is_empty,
    note_masks,
    noted_masks,
    require_same_key,
)
from sluice.wiring.context import Run
from sluice.wiring.parked import first_fence


def require_key(run: Run, tables: Sequence[Table]) -> None:
    """Require the noted key before rows of these tables are hashed or compared.

    Raises:
        NeedsPerson: it is another key, or there is none.
    """
    require_same_key(run.clickhouse, run.settings.postgres, tables)


def wrong_key(run: Run, tables: Sequence[Table]) -> NeedsPerson | None:
    """Return the error of `require_key`, if there is one."""
    try:
        require_key(run, tables)
    except NeedsPerson as error:
        return error
    return None


def compare_masks(run: Run, tables: Sequence[Table]) -> Iterator[str]:
    """Note the masks of empty tables; yield a line for each whose rows are masked otherwise."""
    noted = noted_masks(run.clickhouse)
    for table in tables:
        wanted, present = masked_as(run.settings.postgres, table), noted.get(table.name, "")
        if wanted == present:
            continue
        if is_empty(run.clickhouse, table):
            note_masks(run.clickhouse, table, wanted)
        else:
            yield "; ".join(difference(table, present, wanted, run.clickhouse.cluster))


def note_read(run: Run, plan: Plan) -> None:
    """Note a table's masks if a finished plan has read all of its rows again."""
    table, found = plan.table, run.plans.find(plan.table, plan.run)
    wanted = masked_as(run.settings.postgres, table)
    if not plan.whole or found is None or found.open:
        return
    if wanted == noted_masks(run.clickhouse).get(table.name, ""):
        return
    checkpoint, fence = run.store.checkpoint(table.name), first_fence(run, plan)
    epoch = checkpoint.epoch if checkpoint else 0
    # A row that could not be stored keeps its last good version, with its former mask.
    if not has_older(run.clickhouse, table, pack(epoch, fence, 1)):
        note_masks(run.clickhouse, table, wanted)
