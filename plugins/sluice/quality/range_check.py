"""Compares one range of a table: checksums of buckets, then of rows, then columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, key_text
from sluice.clients.clickhouse import ClickHouse
from sluice.drain.ports import Checkpoint
from sluice.events.event import CONNECT, KeyText
from sluice.events.positions import beyond, pack
from sluice.generate.clickhouse import quoted
from sluice.generate.row_text import (
    WIDEST_STEP,
    Buckets,
    among,
    clickhouse_as_of,
    clickhouse_checksum,
    clickhouse_key,
    clickhouse_range,
    clickhouse_row,
    clickhouse_text,
    postgres_checksum,
    postgres_key,
    postgres_name,
    postgres_row,
    postgres_text,
    same_sum,
    wanted,
)
from sluice.quality.differences import MOST_KEYS, MOST_NAMED, Difference, TableFindings
from sluice.warehouse.key_ranges import KeyRange

_ROWS_IN_A_BUCKET = 2000
_MOST_BUCKETS = 32_768


class Snapshot(Protocol):
    """PostgreSQL as of an exact point of the WAL, which the drain has passed."""

    point: int

    def holds(self, table: Table) -> bool:
        """Whether the table can be read as of the point while this snapshot is open."""

    def held(self, tables: Sequence[Table]) -> dict[str, str]:
        """Return the FROM expressions of those tables that `holds` is true of, by table."""

    def source(self, table: Table) -> str:
        """Return the FROM expression of the table's rows."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the snapshot."""

    def pieces(self, table: Table) -> Sequence[str]:
        """Yield conditions that divide the table's rows into queries with pauses in between."""

    def division(self, table: Table, rows: int) -> tuple[int, Sequence[KeyText]]:
        """Return the number of the table's rows, and the keys that divide them by `rows`."""


class RangeCheck:
    """Compares the rows of one range.

    Args:
        known: the number of the table's known differences, which count against MOST_KEYS.
    """

    def __init__(
        self,
        clickhouse: ClickHouse,
        snapshot: Snapshot,
        table: Table,
        part: KeyRange,
        checkpoint: Checkpoint,
        known: int = 0,
    ) -> None:
        self._clickhouse, self._snapshot, self._table = clickhouse, snapshot, table
        self._rows, self._known = part.rows, known
        self._whole = part.selection.everything
        self._within = _postgres_range(table, part.selection)
        self._among, self._bounds = clickhouse_range(table.key, part.selection)
        if checkpoint.source == CONNECT:
            self._beyond = self._fence = beyond(checkpoint.epoch, checkpoint.next_offset)
        else:
            self._fence = pack(checkpoint.epoch, snapshot.point, 0)
            self._beyond = beyond(checkpoint.epoch, snapshot.point)
        self._source = snapshot.source(table)

    def run(self) -> TableFindings:
        """Return the differences in the range."""
        buckets = self._buckets()
        postgres = self._postgres_buckets(buckets)
        clickhouse = self._clickhouse_buckets(buckets)
        findings = TableFindings(
            postgres=sum(count for count, _ in postgres.values()),
            clickhouse=sum(count for count, _ in clickhouse.values()),
            point=self._snapshot.point,
        )
        differing = [
            bucket
            for bucket in sorted({*postgres, *clickhouse})
            if not _equal(postgres.get(bucket), clickhouse.get(bucket))
        ]
        findings.buckets = len(differing)
        differences: list[Difference] = []
        most = MOST_KEYS - self._known
        for bucket in differing:
            if len(differences) > most:
                break
            differences += self._differences(buckets, bucket)
        ahead = self._ahead()
        findings.complete = len(differences) <= most and len(ahead) < MOST_KEYS
        findings.differences = differences[:most] + ahead
        self._name_columns(findings.differences)
        return findings

    def _buckets(self) -> Buckets:
        """Return buckets by range for an integer key, and by hash for other keys."""
        key = self._table.key
        wanted = max(1, min(self._rows // _ROWS_IN_A_BUCKET, _MOST_BUCKETS))
        if len(key) > 1 or not key[0].type.clickhouse.startswith("Int"):
            return Buckets(count=wanted)
        name = postgres_name(key[0])
        first, last = self._snapshot.rows(
            f"SELECT min({name}), max({name}) FROM {self._source} WHERE {self._within}"
        )[0]
        if first is None:
            return Buckets(step=1 << 40)
        return Buckets(step=min(max(1, (last - first + wanted) // wanted), WIDEST_STEP))

    def _postgres_buckets(self, buckets: Buckets) -> dict[int, tuple[int, int]]:
        sums: dict[int, tuple[int, int]] = {}
        for piece in self._snapshot.pieces(self._table) if self._whole else ("true",):
            rows_by_bucket = self._snapshot.rows(
                f"SELECT {buckets.postgres(self._table)} AS bucket, count(*),"
                f" sum({postgres_checksum(self._table.columns)}) FROM {self._source}"
                f" WHERE {self._within} AND {piece} GROUP BY 1"
            )
            for bucket, count, total in rows_by_bucket:
                rows, checksums = sums.get(int(bucket), (0, 0))
                sums[int(bucket)] = (rows + int(count), checksums + int(total))
        return sums

    def _clickhouse_buckets(self, buckets: Buckets) -> dict[int, tuple[int, int]]:
        rows = self._clickhouse.execute(
            f"SELECT {buckets.clickhouse(self._table)} AS bucket, count(),"
            f" sum({clickhouse_checksum(self._table.columns)})"
            f" FROM (\n{clickhouse_as_of(self._table, self._among)}\n) GROUP BY bucket",
            fence=self._fence,
            **self._bounds,
        )
        return {int(bucket): (int(count), int(total)) for bucket, count, total in rows}

    def _differences(self, buckets: Buckets, bucket: int) -> list[Difference]:
        """Return the rows of one bucket that differ."""
        table = self._table
        key = postgres_key(table.key)
        postgres = {
            tuple(row[1:-1]): (row[0], row[-1])
            for row in self._snapshot.rows(
                f"SELECT {postgres_row(table.key)}, {key}, {postgres_checksum(table.columns)}"
                f" FROM {self._source}"
                f" WHERE {self._within} AND {buckets.postgres_condition(table, bucket)}"
            )
        }
        by_text = {text: (parts, checksum) for parts, (text, checksum) in postgres.items()}
        texts = clickhouse_key(table.key)
        query = (
            f"SELECT {clickhouse_row(table.key)}, {texts}, {clickhouse_checksum(table.columns)}"
            f" FROM (\n{clickhouse_as_of(table, self._among)}\n)"
            f" WHERE {buckets.clickhouse_condition(table, bucket)}"
        )
        # A change that arrives while ClickHouse reads current state and history may hide its row or
        # return it twice, but in one of two readings at most.
        first, second = (
            _unlike(by_text, self._clickhouse.execute(query, fence=self._fence, **self._bounds))
            for _ in range(2)
        )
        return [difference for difference in first if difference in second]

    def _ahead(self) -> list[Difference]:
        """Return rows whose version is beyond that of any change."""
        texts = clickhouse_key(self._table.key)
        rows = self._clickhouse.execute(
            f"SELECT DISTINCT {texts} FROM cdc.{quoted(self._table.storage)}"
            f" WHERE _version > {{limit:UInt128}}{self._among} LIMIT {MOST_KEYS}",
            limit=self._beyond,
            **self._bounds,
        )
        kind = "has a version that no change can have"
        return [Difference(key=key_text(parts), kind=kind) for parts in rows]

    def _name_columns(self, differences: list[Difference]) -> None:
        for at, difference in enumerate(differences[: max(0, MOST_NAMED - self._known)]):
            if difference.kind == "differs":
                columns = tuple(self._columns_of(difference.key))
                differences[at] = replace(difference, columns=columns)

    def _columns_of(self, key: str) -> Iterator[str]:
        """Yield the columns whose texts differ in the row of this key."""
        table, parts = self._table, tuple(next(csv.reader([key])))
        same = f"({postgres_key(table.key)}) = ({', '.join(map(_literal, parts))})"
        listed = ", ".join(postgres_text(column) for column in table.columns)
        postgres = self._snapshot.rows(f"SELECT {listed} FROM {self._source} WHERE {same}")
        names = ", ".join(clickhouse_text(column) for column in table.columns)
        clickhouse = self._clickhouse.execute(
            f"SELECT {names} FROM (\n{clickhouse_as_of(table)}\n) WHERE {among(table.key)}",
            external=[wanted(table.key, [parts])],
            fence=self._fence,
        )
        if postgres and clickhouse:
            for column, left, right in zip(table.columns, postgres[0], clickhouse[0], strict=True):
                if left != right:
                    yield column.name


def _unlike(
    postgres: Mapping[str, tuple[tuple[Any, ...], int]], clickhouse: Sequence[tuple[Any, ...]]
) -> list[Difference]:
    """Return how rows of ClickHouse (key text, key parts, checksum) differ from PostgreSQL's."""
    left, differences = dict(postgres), []
    for text, *parts, checksum in clickhouse:
        known = left.pop(text, None)
        if known is None:
            kind, sums = "is not in Postgres", (0, checksum)
            differences.append(Difference(key=key_text(parts), kind=kind, sums=sums))
        elif known[1] != checksum:
            key, sums = key_text(known[0]), (known[1], checksum)
            differences.append(Difference(key=key, kind="differs", sums=sums))
    return differences + [
        Difference(key=key_text(parts), kind="is not in ClickHouse", sums=(total, 0))
        for parts, total in left.values()
    ]


def _equal(left: tuple[int, int] | None, right: tuple[int, int] | None) -> bool:
    if left is None or right is None:
        return False
    return left[0] == right[0] and same_sum(left[1], right[1])


def _postgres_range(table: Table, selection: Selection) -> str:
    """Return the SQL condition of a range of keys."""
    names = ", ".join(map(postgres_name, table.key))
    bounds = [
        f"({names}) {sign} ({', '.join(map(_literal, bound))})"
        for sign, bound in selection.bounds()
    ]
    return " AND ".join(bounds) or "true"


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'" if "\\" not in text else "E'" + escaped.replace("\\", "\\\\") + "'"
