"""Repair a parked table: wait until the relay sends it again, then close its holes.

Only a reading or comparison of all rows that began after that closes them. A command that reads
fewer rows reports that they stay open.
"""

from __future__ import annotations

import time

from sluice.capture import slot as slots
from sluice.capture.standing import require_standing
from sluice.catalog import Table
from sluice.catalog.key_selection import Selection
from sluice.errors import NotReady
from sluice.events.positions import parse_lsn
from sluice.repair.resync import Resync
from sluice.warehouse.key_ranges import Plan
from sluice.warehouse.parked import Hole
from sluice.wiring.context import Run

_WAIT_SECONDS = 90.0
_PAUSE = 0.5


def plan_whole(run: Run, step: Resync, table: Table, *, restart: bool) -> Plan:
    """Plan to read all rows of a table; wait first until the relay sends a parked table again.

    The rows read then contain all changes that were not sent. Ranges read earlier are reread.

    Raises:
        NeedsPerson, NotReady: the table is parked, and why; or the relay does not run.
    """
    await_sent(run, table)
    plan = step.plan(table, Selection(), restart=restart)
    if plan.done:
        fence = first_fence(run, plan)
        if any(fence < (hole.sent or 0) for hole in run.holes.open(table.name)):
            plan = step.plan(table, Selection(), restart=True)
    return plan


def close_holes(run: Run, plan: Plan) -> None:
    """Close the table's holes if all ranges of a plan of all rows were read after them."""
    found = run.plans.find(plan.table, plan.run)
    if not plan.whole or found is None or found.open:
        return
    fence = first_fence(run, plan)
    for hole in run.holes.open(plan.table.name):
        if hole.sent is not None and hole.sent <= fence:
            run.holes.close(hole, fence)


def holes_left(run: Run, table: Table) -> str:
    """Return the table's open holes and what closes them; empty if there are none."""
    return "; ".join(
        f"it stays parked: {hole.sentence()}; {hole.repair()}"
        for hole in run.holes.open(table.name)
    )


def await_sent(run: Run, table: Table) -> list[Hole]:
    """Wait until the relay sends a parked table's changes again; return its holes, now ended.

    Rows read afterwards contain the changes that were not sent.

    Raises:
        NeedsPerson, NotReady: the table is parked, and why; or the relay does not run.
    """
    if not (found := run.holes.open(table.name)):
        return found
    relay = run.settings.relay
    noted = run.topics.slot_note(relay.slot)
    with slots.session(run.settings.postgres) as cursor:
        standing = require_standing(cursor, relay, run.catalog, noted)
    if table.name in standing.unsent:
        raise standing.unsent[table.name]
    deadline = time.monotonic() + _WAIT_SECONDS
    while any(hole.sent is None for hole in found):
        if time.monotonic() > deadline:
            raise NotReady(
                f"{table.name} is parked, and the relay did not send its changes again in"
                f" {_WAIT_SECONDS:.0f} s",
                remedy="start the relay (see: sluice logs relay), then run it again",
            )
        time.sleep(_PAUSE)
        found = run.holes.open(table.name)
    return found


def first_fence(run: Run, plan: Plan) -> int:
    """Return the fence of the range that was read first; 0 if none was."""
    rows = run.clickhouse.execute(run.queries["fences"], table=plan.table.name, run=plan.run)
    return min((parse_lsn(fence) for (fence,) in rows), default=0)
