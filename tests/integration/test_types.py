"""Every type: what Postgres holds is what ClickHouse holds, or the event is a dead letter."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as effort

from sluice import wiring
from sluice.settings import RelaySettings, Settings
from tests.integration import samples
from tests.integration.samples import NAMES, drained, insert, relaying
from tests.support.services import drop_slot, own_services
from tests.support.type_samples import AS_TEXT, rows
from tests.support.waiting import until

pytestmark = pytest.mark.services
services = own_services  # test_deep has tables and a slot of the same names
settings, postgres, stream = samples.settings, samples.postgres, samples.stream


def of_postgres(postgres: Any) -> dict[int, list[Any]]:
    # format() uses the type's output function; a cast to text may differ.
    listed = ", ".join(
        f'CASE WHEN "{name}" IS NOT NULL THEN format(\'%s\', "{name}") END'
        if name in AS_TEXT
        else f'"{name}"'
        for name in NAMES
    )
    postgres.execute(f"SELECT id, {listed} FROM samples")
    return {
        row[0]: [canonical(*pair) for pair in zip(NAMES, row[1:], strict=True)] for row in postgres
    }


def of_clickhouse(settings: Settings) -> dict[int, list[Any]]:
    # The driver reads timestamps before 1970 a second too early; ticks are exact.
    read = {"moment": "toUnixTimestamp64Micro({})", "instant": "toUnixTimestamp64Micro({})"}
    read["instants"] = "arrayMap(x -> toUnixTimestamp64Micro(x), {})"
    read["raw"] = "hex({})"
    listed = ", ".join(read.get(name, "{}").format(f"`{name}`") for name in NAMES)
    _, found = wiring.query(settings, f"SELECT id, {listed} FROM olap.dim_sample")
    return {
        row[0]: [canonical(*pair) for pair in zip(NAMES, row[1:], strict=True)] for row in found
    }


def canonical(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [canonical(name, element) for element in value]
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        since = aware - datetime(1970, 1, 1, tzinfo=timezone.utc)
        return (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    if isinstance(value, float):
        packed: float = (
            struct.unpack("f", struct.pack("f", value))[0] if name == "single" else value
        )
        return "NaN" if math.isnan(packed) else (packed, math.copysign(1, packed))
    if isinstance(value, memoryview):
        return bytes(value).hex().upper()
    if isinstance(value, UUID):
        return str(value)
    return value


@effort(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sample=rows())
def test_every_value_that_is_streamed_comes_through_unaltered(
    settings: Settings, postgres: Any, stream: None, sample: list[dict[str, str | None]]
) -> None:
    keys = [insert(postgres, row) for row in sample]
    drained(settings)
    assert wiring.dead_letters(settings, "samples", 5) == []
    expected, found = of_postgres(postgres), of_clickhouse(settings)
    for key in keys:
        for at, name in enumerate(NAMES):
            assert found[key][at] == expected[key][at], name


def test_a_snapshot_carries_every_value_as_the_stream_does(
    settings: Settings, postgres: Any, stream: None
) -> None:
    before = of_clickhouse(settings)
    assert len(before) > 20
    again = replace(settings, relay=RelaySettings(slot="samples_again", ack="broker"))
    with relaying(again):

        def has_slot() -> bool:
            postgres.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'samples_again'")
            return postgres.fetchone() is not None

        until(has_slot, "the relay has its slot")
    drop_slot(again)
    wiring.query(settings, "TRUNCATE TABLE cdc.dim_sample")
    drained(settings)
    assert of_clickhouse(settings) == of_postgres(postgres) == before


UNFIT = {
    "day": ["infinity", "0044-03-15 BC", "1899-12-31", "2300-01-01", "5874897-12-31"],
    "moment": ["infinity", "-infinity", "0001-01-01 00:00:00 BC", "2300-01-01", "294276-12-31"],
    "instant": ["1899-12-31 23:59:59.999999+00", "9999-12-31+00"],
    "cents": ["NaN"],
    "numbers": ["[0:1]={1,2}", "{{1,2},{3,4}}"],
    "amounts": ["{NaN}"],
    "instants": ["{infinity}"],
}


def test_a_value_that_does_not_fit_is_a_dead_letter_that_names_its_column(
    settings: Settings, postgres: Any, stream: None
) -> None:
    arrays = dict.fromkeys(("numbers", "words", "instants", "amounts"), "{}")
    cases = [(name, value) for name, values in UNFIT.items() for value in values]
    keys = [insert(postgres, {**arrays, name: value}) for name, value in cases]
    whole = insert(postgres, {**arrays, "cents": "1.50"})
    drained(settings)
    _, found = wiring.query(
        settings,
        "SELECT JSONExtractInt(value, 'payload', 'id'), reason FROM cdc.dead_letters FINAL"
        " WHERE source_table = 'samples'",
    )
    reasons = dict(found)
    for key, (name, value) in zip(keys, cases, strict=True):
        assert f"payload.{name}" in reasons[key], (name, value, reasons[key])
    stored = of_clickhouse(settings)
    assert whole in stored
    assert not set(keys) & set(stored)
