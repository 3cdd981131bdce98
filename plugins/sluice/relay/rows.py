"""A table's rows as `read` events: JSON made by COPY, published as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from psycopg2 import sql

from sluice.catalog import Table
from sluice.comparison import postgres_checksum
from sluice.events import CONNECT, DELETE, READ, RELAY, TRUNCATE, KeyText
from sluice.relay.envelope import RowEncoder, Transaction
from sluice.relay.expressions import escaped, key_expression, row_expression
from sluice.relay.pgoutput import RelationColumn
from sluice.relay.publisher import Batch
from sluice.selection import Selection, ordered_as_text

_ROWS_BETWEEN_CHECKS = 1000
_ALL = Selection()


class Destination(Protocol):
    """Where rows go: see Publisher."""

    def publish(self, topic: str, key: str | bytes | None, value: bytes, batch: Batch) -> None:
        """Take a message."""

    def poll(self) -> None:
        """Called every now and then."""


class RowReader:
    """Publishes the rows of one table as of a batch's end, at (batch end, 1).

    Args:
        cursor: a session whose snapshot is that of the batch's end.
        check: called often; ends the reading by raising.
        offset: of a table of Redpanda Connect's, the offset that the rows stand before.
    """

    def __init__(
        self,
        cursor: Any,
        table: Table,
        publisher: Destination,
        batch: Batch,
        check: Callable[[], None],
        offset: int | None = None,
    ) -> None:
        self.rows = 0
        self._cursor, self._table = cursor, table
        self._publisher, self._batch, self._check = publisher, batch, check
        self._transaction = Transaction(batch.end_lsn, int(time.time() * 1000), offset)
        self._columns = _columns(cursor, table)
        self._key = [column.name for column in table.key]
        source = RELAY if offset is None else CONNECT
        self._encoder = RowEncoder(table.name, self._columns, self._key, source)
        # Each row's envelope is the same but for the payload.
        self._before, self._after = self._event(READ, 1, "\n").split(b"\n")

    def read(self, selection: Selection = _ALL) -> int:
        """Publish the selected rows; how many."""
        named = {column.name: column for column in self._columns}
        query = sql.SQL("COPY (SELECT {}, {} FROM {} WHERE {} ORDER BY {}) TO STDOUT").format(
            key_expression([named[name] for name in self._key]),
            row_expression(self._columns),
            sql.Identifier(self._table.schema, self._table.relation),
            _condition(self._table, selection),
            sql.SQL(", ").join(map(sql.Identifier, self._key)),
        )
        self._cursor.copy_expert(query.as_string(self._cursor.connection), self)
        self._check()
        return self.rows

    def write(self, line: bytes) -> None:
        """One row of COPY's text format: its key and its columns, both JSON objects."""
        key, _, row = escaped(line).partition(b"\t")
        if key == rb"\N":
            raise ValueError(f"table {self._table.name}: a key without a value")
        value = self._before + row[:-1] + self._after
        self._publisher.publish(self._table.topic, key, value, self._batch)
        self.rows += 1
        if self.rows % _ROWS_BETWEEN_CHECKS == 0:
            self._publisher.poll()
            self._check()

    def truncate_below(self) -> None:
        """Delete everything older than the rows, by one event at (batch end, 0)."""
        self._send(TRUNCATE, None, "null")
        self._check()

    def delete(self, key: str) -> None:
        """Delete the row of this key, a JSON object, where it is older than the batch's end."""
        self._send(DELETE, key, key)

    def _send(self, operation: str, key: str | None, payload: str) -> None:
        value = self._event(operation, 0, payload)
        self._publisher.publish(self._table.topic, key, value, self._batch)

    def _event(self, operation: str, ordinal: int, payload: str) -> bytes:
        lsn = self._batch.end_lsn
        return self._transaction.event(self._encoder, operation, lsn, ordinal, payload, "null")


def present_rows(cursor: Any, table: Table, keys: Sequence[KeyText]) -> list[bytes]:
    """The rows of these keys as they are now, as `read` events; without those that are gone."""
    found = _Found()
    reader = RowReader(cursor, table, found, Batch(end_lsn=0), lambda: None)
    reader.read(Selection(keys=tuple(keys)))
    return found.values


class _Found:
    """Events that nobody publishes."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def publish(self, topic: str, key: str | bytes | None, value: bytes, batch: Batch) -> None:
        self.values.append(value)

    def poll(self) -> None:
        """Nothing is under way."""


def _condition(table: Table, selection: Selection) -> sql.Composable:
    """The selection as SQL; the server reads each part of a key as its column's type."""
    if selection.keys:
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.key)
        keys = sql.SQL(", ").join(map(_literals, selection.keys))
        return sql.SQL("({}) IN ({})").format(names, keys)
    conditions = [
        sql.SQL(f"({{}}) {sign} {{}}").format(_ordered(table), _literals(bound))
        for sign, bound in selection.bounds()
    ]
    return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")


def _ordered(table: Table) -> sql.Composable:
    """The key's parts as both sides order them."""
    return sql.SQL(", ").join(
        sql.SQL('{}::text COLLATE "C"' if ordered_as_text(column) else "{}").format(
            sql.Identifier(column.name)
        )
        for column in table.key
    )


def count_rows(cursor: Any, table: Table, selection: Selection) -> int:
    """How many rows are selected."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
        sql.Identifier(table.schema, table.relation), _condition(table, selection)
    )
    cursor.execute(query)
    return int(cursor.fetchone()[0])


def checksum_rows(cursor: Any, table: Table, selection: Selection) -> tuple[int, int]:
    """How many rows are selected, and the sum of their checksums."""
    query = sql.SQL("SELECT count(*), coalesce(sum({}), 0) FROM {} WHERE {}").format(
        sql.SQL(postgres_checksum(table.columns)),
        sql.Identifier(table.schema, table.relation),
        _condition(table, selection),
    )
    cursor.execute(query)
    count, total = cursor.fetchone()
    return int(count), int(total)


def keys_between(cursor: Any, table: Table, selection: Selection, rows: int) -> list[KeyText]:
    """The key of every selected row that comes after another `rows` of them, in their order.

    Cost: one scan of the key's index, or a sort of all keys where they are text.
    """
    names = [sql.Identifier(column.name) for column in table.key]
    query = sql.SQL(
        "SELECT {texts} FROM (SELECT {names}, row_number() OVER (ORDER BY {ordered}) - 1 AS n"
        " FROM {place} WHERE {condition}) AS numbered WHERE n > 0 AND n % {rows} = 0 ORDER BY n"
    ).format(
        texts=sql.SQL(", ").join(map(sql.SQL("{}::text").format, names)),
        names=sql.SQL(", ").join(names),
        ordered=_ordered(table),
        place=sql.Identifier(table.schema, table.relation),
        condition=_condition(table, selection),
        rows=sql.Literal(rows),
    )
    cursor.execute(query)
    return [tuple(key) for key in cursor.fetchall()]


def _literals(parts: Sequence[str]) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, parts)))


def _columns(cursor: Any, table: Table) -> list[RelationColumn]:
    """The columns that pgoutput publishes: of computed ones those of the models."""
    name = sql.Identifier(table.schema, table.relation).as_string(cursor.connection)
    cursor.execute(
        "SELECT attname, atttypid::int8, attgenerated <> '' FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [name],
    )
    wanted = {column.name for column in table.columns if column.generated}
    return [
        RelationColumn(name=column, type_oid=oid, in_key=False)
        for column, oid, generated in cursor.fetchall()
        if not generated or column in wanted
    ]
