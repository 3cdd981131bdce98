"""Events of a row with a column of every type, and two decoders of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict
from typing_extensions import Required, TypedDict

from models.generated.envelope import EventMetadata
from sluice.catalog import Table, load_catalog
from sluice.data_types.mapping import PROFILES
from sluice.drain.decoder import Decoder
from sluice.drain.fast_decoder import Plain, PlainReader
from sluice.drain.origin import Origin
from sluice.events.event import Record


class NothingIsPlain(PlainReader):
    """Leaves all to the schema."""

    def read(self, records: Sequence[Record], origin: Origin) -> Plain:
        return Plain(rows=[], others=list(records))


def event_type(table: Table) -> Any:
    """The schema that is generated for the table."""
    fields: dict[str, Any] = {}
    for column in table.columns:
        kind = column.type.event.resolve()
        optional = kind | None if column.nullable else kind
        fields[column.name] = Required[optional] if column.primary_key else optional
    typed: Any = TypedDict
    row = typed("row", fields, total=False)
    row.__pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    envelope = {"metadata": EventMetadata, "payload": row | None, "before": row | None}
    return typed("event", envelope)


def pair(profile: str) -> tuple[Decoder, Decoder]:
    """A decoder, and one by the schema alone."""
    table = load_catalog("tests.support.type_samples", profile).table("samples")
    fast, slow = Decoder(table, event_type(table)), Decoder(table, event_type(table))
    slow._plain = NothingIsPlain(table)
    return fast, slow


PAIRS = {profile: pair(profile) for profile in PROFILES}
# A value of each column as the relay sends it, JSON.
ROW = {
    "id": "7",
    "small": "-7",
    "whole": "7",
    "big": "7",
    "exact": '"-12.345678901234"',
    "widest": f'"1.{"5" * 30}"',
    "cents": '"99.90"',
    "thousands": '"99000"',
    "free": '"1.23456789"',
    "double": "1.5",
    "single": "-2",
    "yes": "true",
    "short": '"naïve"',
    "long": '"x"',
    "day": '"2026-01-31"',
    "daytime": '"24:00:00"',
    "moment": '"1969-12-31T23:59:59.5Z"',
    "instant": '"2026-01-31T12:00:00.123456Z"',
    "length": '"1 day"',
    "identity": '"12345678-1234-5678-1234-567812345678"',
    "choice": '"a"',
    "raw": '"AP8="',
    "document": '"{\\"a\\": 1.10}"',
    "kept": '"[]"',
    "numbers": '"{1,NULL}"',
    "words": '"{a}"',
    "instants": '"{\\"2026-01-31 12:00:00+00\\"}"',
    "amounts": '"{1.500}"',
    "address": '"::1"',
    "network": '"10.0.0.0/8"',
    "card": '"08:00:2b:01:02:03"',
    "bits": '"1010"',
    "span": '"[1,5)"',
    "days": '"empty"',
    "spell": '"empty"',
    "spans": '"{}"',
}
COMPACT_ROW = {**ROW, "small": "7", "moment": '"2026-01-31T12:00:00Z"'}
METADATA = {
    "source": '"relay"',
    "table": '"samples"',
    "operation": '"insert"',
    "lsn": '"0/1"',
    "commit_lsn": '"1/10"',
    "ordinal": "3",
    "commit_ts_ms": "5",
}


def written(fields: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"


def event(
    row: dict[str, str] | None, metadata: dict[str, str] = METADATA, before: str = "null"
) -> bytes:
    payload = "null" if row is None else written(row)
    return f'{{"metadata":{written(metadata)},"payload":{payload},"before":{before}}}'.encode()
