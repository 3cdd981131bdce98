"""A history in the summaries: drains, a check that failed, a dead letter and a row with markup."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

from sluice.clients.clickhouse import ClickHouse

ABSENT = "600000005"  # a key that no test gives to an order
FAKED = "<script>alert(1)</script>"
LONG = FAKED + "x" * 1000
CUSTOMER = 900_000_001
PERSON = "jo@example.com"  # a key, and a value
REJECTED, ACCEPTED, DISMISSED, REPLAYED = 77, 78, 70, 71  # offsets of dead letters
SUMMARIES = (
    "drains",
    "rebuilds",
    "quality_checks",
    "dead_letters",
    "dead_letter_dismissals",
    "resyncs",
)
# Tables that did not pass a check of late are problems, whoever drained them before these tests.
FRESH = ("products", "order_items")
CHECKS: tuple[tuple[Any, ...], ...] = (
    *((table, "caught_up", "pass", 9, 9, [], "") for table in FRESH),
    ("customers", "row_count", "pass", 41, 41, [], ""),
    ("orders", "caught_up", "fail", 9, 8, [], "see: sluice status"),
    ("orders", "row_count", "pass", 7, 7, [], ""),
    (
        "orders",
        "rows",
        "fail",
        7,
        7,
        [ABSENT, FAKED, PERSON],
        f"run: sluice resync orders --key {ABSENT} --key {PERSON}",
    ),
    ("fact_order_item", "fact_row_count", "pass", 12, 12, [], ""),
    ("fact_order_item", "fact_rows", "warn", 12, 12, [PERSON], "run: sluice rebuild --full"),
    ("sluice", "slot_lag", "pass", 0, 1_500_000, [], ""),
)


def fill(clickhouse: ClickHouse) -> None:
    """Write it."""
    for table, events in (("customers", 1234567), ("orders", 3)):
        drain = {"source_table": table, "broker_epoch": "e", "first_offset": 0}
        drain |= {"next_offset": events, "events": events, "rejected": 1}
        clickhouse.insert_row("cdc.drains", {**drain, "seconds": 2.5, "freshness_s": 1.25})
    now = datetime.now(timezone.utc)
    names = ("source_table", "check", "status", "postgres", "clickhouse", "keys", "repair")
    for number, values in enumerate(CHECKS):
        at = now + timedelta(milliseconds=number)
        check = {
            "run": "r",
            "fence": "0/1",
            "checked_at": at,
            **dict(zip(names, values, strict=True)),
        }
        clickhouse.insert_row("cdc.quality_checks", check)
    fill_letters(clickhouse)
    for selection in (f"keys from {PERSON} to the last", f"keys from 1 to before {PERSON}"):
        resync = {"source_table": "orders", "selection": selection, "fence": "0/1", "rows": 1}
        clickhouse.insert_row("cdc.resyncs", resync)
    version = {"id": CUSTOMER, "name": LONG, "email": PERSON, "_version": 1}
    clickhouse.insert_row("cdc.history_customers", version)


def fill_letters(clickhouse: ClickHouse) -> None:
    """Write two open dead letters, of which the models accept one now, and two that ended."""
    now = datetime.now(timezone.utc)
    place = {"source": "relay", "table": "orders", "operation": "insert", "lsn": "0/1"}
    metadata = {**place, "commit_lsn": "0/10", "ordinal": 3, "commit_ts_ms": 5}
    row = {"id": 5, "customer_id": 1, "order_date": "2026-01-01T00:00:00Z", "status": PERSON}
    event = {"metadata": metadata, "payload": {**row, "total": "9.90"}, "before": None}
    letters: dict[int, dict[str, Any]] = {
        REJECTED: {"value": PERSON + LONG, "reason": FAKED},
        ACCEPTED: {"value": json.dumps(event), "reason": "payload.total is missing"},
        DISMISSED: {"dismissed_at": now, "reason": "payload.status: too long"},
        REPLAYED: {"replayed_at": now, "replayed_by": "bob", "reason": "payload.total: NaN"},
    }
    for offset, letter in letters.items():
        head = {"source_table": "orders", "broker_epoch": "e", "offset": offset, "key": PERSON}
        clickhouse.insert_row(
            "cdc.dead_letters", {**head, "value": "", "schema_version": "s", **letter}
        )
    dismissal = {"source_table": "orders", "broker_epoch": "e", "offset": DISMISSED}
    dismissal |= {"dismissed_by": "ann", "reason": f"a test of {PERSON}", "rejected_for": ""}
    clickhouse.insert_row("cdc.dead_letter_dismissals", dismissal)


def forget(clickhouse: ClickHouse) -> None:
    """Empty the summaries, whichever tests wrote to them."""
    for summary in SUMMARIES:
        clickhouse.execute(f"TRUNCATE TABLE cdc.{summary}")
    clickhouse.execute(f"DELETE FROM cdc.history_customers WHERE id = {CUSTOMER}")
