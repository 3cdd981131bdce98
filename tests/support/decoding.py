"""Events of products, decoded, and a decoded chunk as changes alone."""

from __future__ import annotations

import json
from typing import Any

from models.generated import ProductEvent
from sluice.catalog import Table, load_catalog
from sluice.drain.blocks import rows_of
from sluice.drain.decoder import Decoded, Decoder
from sluice.events.event import Change, Record

TABLE = load_catalog("models").table("products")
DECODER = Decoder(TABLE, ProductEvent)
ROW = {
    "id": 1,
    "name": "Lamp",
    "category": "Garden",
    "price": "9.90",
    "created_at": "1969-12-31T23:59:59.5Z",
}


def changes(table: Table, decoded: Decoded) -> list[Change]:
    """Plain rows as changes, then everything else."""
    places = [at for at, column in enumerate(table.columns) if column.primary_key]
    keys = set(zip(*(decoded.rows[at] for at in places), strict=True)) if decoded.rows else set()
    return [*rows_of(table, decoded.rows, keys), *decoded.changes]


def event(operation: str, payload: Any, before: Any = None, **metadata: Any) -> bytes:
    place = {"lsn": "0/1", "commit_lsn": "0/10", "ordinal": 3, "commit_ts_ms": 5}
    head = {"source": "relay", "table": "products", "operation": operation, **place, **metadata}
    return json.dumps({"metadata": head, "payload": payload, "before": before}).encode()


def decode(value: bytes | None) -> Decoded:
    return DECODER.decode([Record(offset=7, key=None, value=value)], epoch=1, base_seq=100)
