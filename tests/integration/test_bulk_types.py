"""Bulk rows are byte for byte those of the drain, for every type, mark and profile.

Both ways read the same rows of PostgreSQL: as events through the decoder, and as COPY's text by
ClickHouse's own parser. What the drain rejects, bulk keeps out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as effort
from psycopg2 import sql

from sluice.capture import slot as slots
from sluice.capture.bulk import copy_rows
from sluice.capture.publisher import Batch
from sluice.capture.row_reader import RowReader
from sluice.catalog import Table, load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.clickhouse_http import insertion
from sluice.clients.source_tables import own_rows
from sluice.drain.blocks import joined
from sluice.drain.clickhouse_store import ClickHouseStore
from sluice.drain.decoder import Decoder
from sluice.drain.row_form import RowForm
from sluice.events.event import FullRow, Record
from sluice.generate.bulk import Place, bulk_rows
from sluice.generate.clickhouse import quoted, table_statements
from sluice.generate.event_schemas import event_schema
from sluice.generate.files import write_files
from sluice.settings import Settings
from store_api.database import make_engine
from tests.support.bulk_samples import COLUMNS, OVERRIDDEN, Columns, Rows, rows

pytestmark = pytest.mark.services

PLACE = Place(version=(7 << 112) + 5, seq=3 << 40, committed_at=1_700_000_000_123)
MARKED: Columns = {
    name: (kind, name != "word", values) for name, (kind, _, values) in OVERRIDDEN.items()
}
# Profile -> columns that go through the topic.
TOPIC_ONLY = {"lossless": {"raws"}, "compact": {"raws", "moments", "instants"}}
FEW = effort(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Ways:
    """The two ways of a table's rows.

    Not a dataclass, whose fields Hypothesis would print.
    """

    def __init__(
        self,
        settings: Settings,
        cursor: Any,
        clickhouse: ClickHouse,
        table: Table,
        decoder: Decoder,
    ) -> None:
        self.settings, self.cursor, self.clickhouse = settings, cursor, clickhouse
        self.table, self.decoder = table, decoder

    def fill(self, sample: list[dict[str, str | None]]) -> None:
        names = list(sample[0])
        listed = sql.SQL(", ").join(map(sql.Identifier, ["id", *names]))
        place = sql.Identifier(self.table.relation)
        self.cursor.execute(sql.SQL("TRUNCATE {}").format(place))
        self.clickhouse.execute(f"TRUNCATE TABLE cdc.{self.table.storage}")
        for key, row in enumerate(sample):
            values = sql.SQL(", ").join(
                [sql.Literal(key), *(sql.Literal(row[name]) for name in names)]
            )
            query = sql.SQL("INSERT INTO {} ({}) VALUES ({})")
            self.cursor.execute(query.format(place, listed, values))

    def by_drain(self) -> int:
        """Store the rows' events; return the number of rejected ones."""
        events = Events()
        reader = RowReader(self.cursor, self.table, events, Batch(end_lsn=0), lambda: None)
        reader.read_pages(0, None)
        decoded = self.decoder.decode(events.records, epoch=0, base_seq=0)
        form = RowForm(self.table)
        columns = joined(decoded.rows, [form.stored(change) for change in decoded.changes])
        assert all(isinstance(change, FullRow) for change in decoded.changes)
        if columns:
            ClickHouseStore(self.clickhouse).append(self.table, columns)
        return len(decoded.rejects)

    def in_bulk(self) -> int:
        """Store the rows that fit; return their number."""
        rows = bulk_rows(self.table, PLACE)
        source, fits = own_rows(self.cursor, self.table), sql.SQL(rows.fits or "true")
        with insertion(self.settings.clickhouse, rows.insert, lambda _: None, "types") as body:
            return copy_rows(self.cursor, sql.SQL(rows.selected), source, fits, body)

    def stored(self) -> dict[int, list[Any]]:
        """Key -> text and hash of the bytes of each column."""
        listed = ", ".join(
            f"toString({name}), sipHash64(assumeNotNull({name})), isNull({name})"
            for name in (quoted(column.name) for column in self.table.columns)
        )
        found = self.clickhouse.execute(f"SELECT id, {listed} FROM cdc.{self.table.storage}")
        return {key: values for key, *values in found}

    def machine(self) -> set[tuple[Any, ...]]:
        names = "_version, _is_deleted, _seq, toUnixTimestamp64Milli(_committed_at)"
        return set(self.clickhouse.execute(f"SELECT {names} FROM cdc.{self.table.storage}"))


class Events:
    """A destination that keeps events."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def publish(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        self.records.append(Record(offset=len(self.records), key=key, value=value))

    def flush(self, batch: Batch) -> None: ...

    def reject(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        raise AssertionError("no row is that large")


@pytest.fixture(scope="module", params=["lossless", "compact"])
def ways(
    request: pytest.FixtureRequest, services: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Ways]]:
    folder, name = tmp_path_factory.mktemp("bulk"), f"bulk_{request.param}"
    (folder / f"{name}.py").write_text(
        "from tests.support.bulk_samples import declare\n"
        f"Everything, Marked = declare(__name__, {TOPIC_ONLY[request.param]})\n"
    )
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(ClickHouse(services.clickhouse)) as clickhouse,
        slots.session(services.postgres) as cursor,
    ):
        patch.syspath_prepend(str(folder))
        write_files(load_catalog(name, request.param), folder)
        catalog = load_catalog(name, request.param)
        metadata = sys.modules[name].Everything.metadata
        engine = make_engine(services.postgres)
        metadata.create_all(engine)
        for table in catalog.tables:
            clickhouse.execute(table_statements(table)["current_state"])
        yield {
            table.name: Ways(
                settings=services,
                cursor=cursor,
                clickhouse=clickhouse,
                table=table,
                decoder=Decoder(table, event_schema(catalog, table)),
            )
            for table in catalog.tables
        }
        for table in catalog.tables:
            clickhouse.drop(table.storage)
        metadata.drop_all(engine)
        engine.dispose()


def check(ways: Ways, sample: list[dict[str, str | None]]) -> None:
    ways.fill(sample)
    rejected = ways.by_drain()
    drained = ways.stored()
    assert len(drained) + rejected == len(sample)
    ways.clickhouse.execute(f"TRUNCATE TABLE cdc.{ways.table.storage}")
    count = ways.in_bulk()
    bulk = ways.stored()
    assert count == len(bulk)
    names = [column.name for column in ways.table.columns]
    for key, values in bulk.items():
        assert key in drained, ("the drain rejects it", sample[key])
        for at, name in enumerate(names):
            part = slice(3 * at, 3 * at + 3)
            assert values[part] == drained[key][part], (name, sample[key].get(name))
    assert ways.machine() <= {(PLACE.version, 0, PLACE.seq, PLACE.committed_at)}


@FEW
@given(sample=rows(COLUMNS))
def test_rows_of_every_type_are_those_of_the_drain(ways: dict[str, Ways], sample: Rows) -> None:
    table = ways["everything"].table
    known = {column.name for column in table.columns}
    check(ways["everything"], [{n: v for n, v in row.items() if n in known} for row in sample])


@FEW
@given(sample=rows(MARKED))
def test_rows_of_every_mark_are_those_of_the_drain(ways: dict[str, Ways], sample: Rows) -> None:
    check(ways["marked"], sample)
