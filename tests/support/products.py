"""Events of products in any order, and the names that they leave."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from models.generated import ProductEvent
from sluice.catalog import load_catalog
from sluice.drain.decoder import Decoder
from sluice.drain.in_memory import MemoryStore
from sluice.events.event import UNCHANGED
from sluice.events.positions import format_lsn
from sluice.settings import DrainSettings

TABLE = load_catalog("models").table("products")
DECODER = Decoder(TABLE, ProductEvent)
LIMITS = DrainSettings(
    events=10_000, seconds=10, chunk=3, chunk_bytes=1 << 20, reject_ratio=0.5, reject_run=1000
)
ONE_CHUNK = replace(LIMITS, chunk=500)


class Step(BaseModel):
    """A change of the source: `to` is another key, or None for the same."""

    kind: str
    key: int
    to: int | None = None


def history(steps: list[Step]) -> tuple[list[bytes], dict[int, str]]:
    """The events that Postgres would give for these steps, and the names it would have."""
    events: list[bytes] = []
    rows: dict[int, str] = {}

    def emit(operation: str, payload: Any, before: Any = None) -> None:
        events.append(event(operation, payload, len(events), before))

    for number, step in enumerate(steps):
        name = f"n{number}"
        if step.kind == "truncate":
            rows.clear()
            emit("truncate", None)
        elif step.kind == "delete":
            if rows.pop(step.key, None):
                emit("delete", {"id": step.key})
        elif step.key not in rows:
            rows[step.key] = name
            emit("insert", row(step.key, name))
        elif step.to is not None and step.to not in rows:
            kept = rows.pop(step.key)
            rows[step.to] = kept if step.kind == "partial" else name
            sent = UNCHANGED if step.kind == "partial" else name
            emit("update", row(step.to, sent), {"id": step.key})
        elif step.kind == "partial":
            emit("update", row(step.key, UNCHANGED))
        else:
            rows[step.key] = name
            emit("update", row(step.key, name))
    return events, rows


def row(key: int, name: str) -> dict[str, Any]:
    return {
        "id": key,
        "name": name,
        "category": "c",
        "price": "1.00" if key % 2 else "1",  # plain, and for the schema to judge
        "created_at": "2026-01-01T00:00:00Z",
    }


def names(store: MemoryStore) -> dict[int, str]:
    return {key: values[1] for (key,), values in store.live(TABLE).items()}


def event(
    operation: str, payload: Any, number: int = 0, before: Any = None, ordinal: int = 1
) -> bytes:
    """An event at a place of its own."""
    place = {"commit_lsn": format_lsn(100 + number), "ordinal": ordinal, "commit_ts_ms": 1}
    metadata = {"source": "relay", "table": "products", "operation": operation, "lsn": "0/1"}
    whole = {"metadata": {**metadata, **place}, "payload": payload, "before": before}
    return json.dumps(whole, separators=(",", ":")).encode()
