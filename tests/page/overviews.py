"""Overviews of pipelines in chosen states, without services."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from sluice.catalog.quality_options import Status
from sluice.operate.flow import stages
from sluice.operate.health import concerns
from sluice.operate.overview import CheckResult, FactState, Overview, Service, Slot, TableState

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
COUNT = 300


def result(status: str) -> CheckResult:
    return CheckResult(
        table="orders",
        check="row_count",
        status=Status(status),
        checked_at=NOW,
        postgres=1,
        clickhouse=1,
        fence="0/1",
        keys=(),
        repair="",
    )


def table(**changes: Any) -> TableState:
    state = TableState(
        name="orders",
        topic="cdc.orders",
        storage="cdc.dim_order",
        postgres_rows=1,
        clickhouse_rows=1,
        counted_at=NOW,
        compared_at=NOW,
        pending_events=2,
        freshness_s=5.0,
        dead_letters=0,
        last_drain=None,
        last_check=result("pass"),
    )
    return replace(state, **changes)


def pipeline(*tables: TableState, **changes: Any) -> Overview:
    state = Overview(
        at=NOW,
        healthy=True,
        tables=tables or (table(),),
        facts=(),
        slot=Slot(name="sluice", wal_status="reserved", active=True, lag_bytes=1_500_000),
        services=(Service(name="PostgreSQL", answers=True, error=""),),
        concerns=(),
        findings=(),
    )
    return judged(replace(state, **changes))


def judged(of: Overview) -> Overview:
    """The same with the stages of its flow."""
    return replace(of, flow=stages(of))


def many(seed: int) -> Overview:
    """An overview of COUNT tables in random states, some of them with problems."""
    chance = random.Random(seed)
    states, findings = [], list[CheckResult]()
    for number in range(COUNT):
        name = f"{chance.choice(('Order', 'item', 'crm.person'))}_{number}"
        status = chance.choices(("pass", "warn", "fail"), (20, 1, 1))[0]
        check = replace(result(status), table=name)
        findings += [check] if status != "pass" else []
        state = table(
            name=name,
            postgres_rows=chance.randrange(1000),
            pending_events=chance.choice((None, 0, chance.randrange(100))),
            freshness_s=chance.choice((None, 1.0, 2.0, 3.0, 400.0)),
            dead_letters=chance.choice((0, 0, 0, 7)),
            last_check=check,
        )
        states.append(replace(state, clickhouse_rows=state.postgres_rows))
    fact = FactState(
        name="fact_order",
        rows=5,
        expected_rows=5,
        counted_at=None,
        last_rebuild=None,
        last_check=None,
    )
    of = pipeline(*states, facts=(fact,), findings=tuple(findings))
    return judged(replace(of, concerns=tuple(concerns(of))))
