"""The deep check: every column of every row, on both sides, as of one point of the WAL.

Postgres is read in an exported snapshot, whose point is exact; ClickHouse as of the same point,
by row versions and history. So writes that go on raise no alarm and hide none. First one
checksum a bucket on both sides; then, of the buckets that differ, one a row; then the columns of
the rows that differ. Memory is bounded by buckets and by the keys that are reported.

Of Redpanda Connect's tables, whose positions are no points of the WAL, ClickHouse is read as it is
now. A row that differs there is looked at twice, and counts if neither side changed in between.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sluice.adapters.clickhouse import ClickHouse
from sluice.catalog import Fact, Table
from sluice.comparison import (
    Buckets,
    clickhouse_as_of,
    clickhouse_checksum,
    clickhouse_row,
    clickhouse_text,
    postgres_checksum,
    postgres_name,
    postgres_row,
    postgres_text,
    same_sum,
)
from sluice.events import CONNECT
from sluice.findings import MOST_NAMED, Difference, FactFindings, TableFindings, seen_twice
from sluice.generate.clickhouse import quoted
from sluice.generate.star import select_all
from sluice.ports import Checkpoint
from sluice.positions import beyond, pack
from sluice.selection import key_text

log = logging.getLogger(__name__)

_ROWS_IN_A_BUCKET = 2000
_MOST_BUCKETS = 32_768
_MOST_KEYS = 1000


class Snapshot(Protocol):
    """Postgres as of an exact point of the WAL, which the drain has passed."""

    point: int

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query in the snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepCheck:
    """Compares tables, and facts with their join.

    Attributes:
        snapshot: opens Postgres at a point that the drain has passed.
        checkpoint: how far a table is drained by now.
    """

    clickhouse: ClickHouse
    snapshot: Callable[[], AbstractContextManager[Snapshot]]
    checkpoint: Callable[[Table], Checkpoint]

    def tables(self, tables: Sequence[Table]) -> Iterator[tuple[Table, TableFindings]]:
        """Compare each table with its source."""
        with self.snapshot() as snapshot:
            for table in tables:
                findings = self._compared(snapshot, table)
                log.info(
                    "deep: %s, %d rows, %d buckets differ",
                    table.name,
                    findings.postgres,
                    findings.buckets,
                )
                yield table, findings

    def _compared(self, snapshot: Snapshot, table: Table) -> TableFindings:
        checkpoint = self.checkpoint(table)
        findings = _TableCheck(self.clickhouse, snapshot, table, checkpoint).run()
        if checkpoint.source != CONNECT or not findings.differences:
            return findings
        with self.snapshot() as later:
            again = _TableCheck(self.clickhouse, later, table, self.checkpoint(table)).run()
        return seen_twice(findings, again)

    def fact(self, fact: Fact) -> FactFindings:
        """Rows of the join and of the fact as they are now, and keys that differ."""
        names = [quoted(column.name) for column in fact.columns]
        row = f"cityHash64(formatRowNoNewline('TabSeparated', {', '.join(names)}))"
        stored = f"SELECT {', '.join(names)} FROM cdc.{quoted(fact.name)} FINAL"
        joined = select_all(fact)
        settings = "SETTINGS join_use_nulls = 1, max_bytes_before_external_group_by = 2000000000"
        sums = [
            self.clickhouse.execute(f"SELECT count(), sum({row}) FROM (\n{rows}\n) {settings}")[0]
            for rows in (joined, stored)
        ]
        if sums[0] == sums[1]:
            return int(sums[0][0]), int(sums[1][0]), ()
        key = ", ".join(quoted(column.name) for column in fact.key)
        texts = ", ".join(f"toString({quoted(column.name)})" for column in fact.key)
        differing = self.clickhouse.execute(
            f"SELECT {texts} FROM (\n"
            f"    SELECT {key}, {row} AS row, 1 AS side FROM (\n{joined}\n)\n    UNION ALL\n"
            f"    SELECT {key}, {row}, -1 FROM (\n{stored}\n)\n)\n"
            f"GROUP BY {key} HAVING count() != 2 OR min(row) != max(row)\n"
            f"ORDER BY {key} LIMIT {_MOST_KEYS} {settings}"
        )
        return int(sums[0][0]), int(sums[1][0]), tuple(key_text(parts) for parts in differing)


class _TableCheck:
    def __init__(
        self, clickhouse: ClickHouse, snapshot: Snapshot, table: Table, checkpoint: Checkpoint
    ) -> None:
        self._clickhouse, self._snapshot, self._table = clickhouse, snapshot, table
        if checkpoint.source == CONNECT:
            self._beyond = self._fence = beyond(checkpoint.epoch, checkpoint.next_offset)
        else:
            self._fence = pack(checkpoint.epoch, snapshot.point, 0)
            self._beyond = beyond(checkpoint.epoch, snapshot.point)
        self._source = f"{_quoted(table.schema)}.{_quoted(table.relation)}"

    def run(self) -> TableFindings:
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
        found: list[Difference] = []
        for bucket in differing:
            found += self._within(buckets, bucket)
            if len(found) > _MOST_KEYS:
                break
        ahead = self._ahead()
        findings.complete = len(found) <= _MOST_KEYS and len(ahead) < _MOST_KEYS
        findings.differences = found[:_MOST_KEYS] + ahead
        self._name_columns(findings.differences)
        return findings

    def _buckets(self) -> Buckets:
        """Ranges of an integer key, with some rows each; buckets by hash for other keys."""
        key = self._table.key
        if len(key) > 1 or not key[0].type.clickhouse.startswith("Int"):
            (rows,) = self._snapshot.rows(f"SELECT count(*) FROM {self._source}")[0]
            return Buckets(count=_between(1, rows // _ROWS_IN_A_BUCKET, _MOST_BUCKETS))
        name = postgres_name(key[0])
        first, last, rows = self._snapshot.rows(
            f"SELECT min({name}), max({name}), count(*) FROM {self._source}"
        )[0]
        if not rows:
            return Buckets(step=1 << 40)
        wanted = _between(1, rows // _ROWS_IN_A_BUCKET, _MOST_BUCKETS)
        return Buckets(step=max(1, (last - first + wanted) // wanted))

    def _postgres_buckets(self, buckets: Buckets) -> dict[int, tuple[int, int]]:
        found = self._snapshot.rows(
            f"SELECT {buckets.postgres(self._table)} AS bucket, count(*),"
            f" sum({postgres_checksum(self._table.columns)}) FROM {self._source} GROUP BY 1"
        )
        return {int(bucket): (int(count), int(total)) for bucket, count, total in found}

    def _clickhouse_buckets(self, buckets: Buckets) -> dict[int, tuple[int, int]]:
        found = self._clickhouse.execute(
            f"SELECT {buckets.clickhouse(self._table)} AS bucket, count(),"
            f" sum({clickhouse_checksum(self._table.columns)})"
            f" FROM (\n{clickhouse_as_of(self._table)}\n) GROUP BY bucket",
            fence=self._fence,
        )
        return {int(bucket): (int(count), int(total)) for bucket, count, total in found}

    def _within(self, buckets: Buckets, bucket: int) -> list[Difference]:
        """The keys of one bucket that differ."""
        table = self._table
        key = ", ".join(f"{postgres_name(column)}::text" for column in table.key)
        postgres = {
            tuple(row[1:-1]): (row[0], row[-1])
            for row in self._snapshot.rows(
                f"SELECT {postgres_row(table.key)}, {key}, {postgres_checksum(table.columns)}"
                f" FROM {self._source} WHERE {buckets.postgres_condition(table, bucket)}"
            )
        }
        by_text = {text: (parts, checksum) for parts, (text, checksum) in postgres.items()}
        texts = ", ".join(f"toString({quoted(column.name)})" for column in table.key)
        found = self._clickhouse.execute(
            f"SELECT {clickhouse_row(table.key)}, {texts}, {clickhouse_checksum(table.columns)}"
            f" FROM (\n{clickhouse_as_of(table)}\n)"
            f" WHERE {buckets.clickhouse_condition(table, bucket)}",
            fence=self._fence,
        )
        differences = []
        for text, *parts, checksum in found:
            known = by_text.pop(text, None)
            if known is None:
                kind, sums = "is not in Postgres", (0, checksum)
                differences.append(Difference(key=key_text(parts), kind=kind, sums=sums))
            elif known[1] != checksum:
                key, sums = key_text(known[0]), (known[1], checksum)
                differences.append(Difference(key=key, kind="differs", sums=sums))
        differences += [
            Difference(key=key_text(parts), kind="is not in ClickHouse", sums=(total, 0))
            for parts, total in by_text.values()
        ]
        return differences

    def _ahead(self) -> list[Difference]:
        """Rows whose version is beyond any change's."""
        texts = ", ".join(f"toString({quoted(column.name)})" for column in self._table.key)
        found = self._clickhouse.execute(
            f"SELECT DISTINCT {texts} FROM cdc.{quoted(self._table.storage)}"
            f" WHERE _version > {{limit:UInt128}} LIMIT {_MOST_KEYS}",
            limit=self._beyond,
        )
        kind = "has a version that no change can have"
        return [Difference(key=key_text(parts), kind=kind) for parts in found]

    def _name_columns(self, differences: list[Difference]) -> None:
        for at, difference in enumerate(differences[:MOST_NAMED]):
            if difference.kind == "differs":
                columns = tuple(self._columns_of(difference.key))
                differences[at] = replace(difference, columns=columns)

    def _columns_of(self, key: str) -> Iterator[str]:
        """The columns whose texts differ in the row of this key."""
        table, parts = self._table, next(csv.reader([key]))
        wanted = " AND ".join(
            f"{postgres_name(column)}::text = {_literal(part)}"
            for column, part in zip(table.key, parts, strict=True)
        )
        listed = ", ".join(postgres_text(column) for column in table.columns)
        postgres = self._snapshot.rows(f"SELECT {listed} FROM {self._source} WHERE {wanted}")
        names = ", ".join(clickhouse_text(column) for column in table.columns)
        same = " AND ".join(
            f"toString({quoted(column.name)}) = {{part{at}:String}}"
            for at, column in enumerate(table.key)
        )
        parameters: dict[str, Any] = {f"part{at}": part for at, part in enumerate(parts)}
        parameters["fence"] = self._fence
        clickhouse = self._clickhouse.execute(
            f"SELECT {names} FROM (\n{clickhouse_as_of(table)}\n) WHERE {same}",
            **parameters,
        )
        if postgres and clickhouse:
            for column, one, other in zip(table.columns, postgres[0], clickhouse[0], strict=True):
                if one != other:
                    yield column.name


def _equal(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return (
        one is not None and other is not None and one[0] == other[0] and same_sum(one[1], other[1])
    )


def _between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'" if "\\" not in text else "E'" + escaped.replace("\\", "\\\\") + "'"
