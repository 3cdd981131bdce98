"""A table's rows as `read` events: JSON from COPY, published as it arrives."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Protocol

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from sluice.capture.json_rows import RowEncoder, Transaction
from sluice.capture.json_sql import escaped, key_expression, row_expression, size_expression
from sluice.capture.publisher import Batch
from sluice.capture.shapes import Shape, columns_of, named, shapes
from sluice.catalog import Table
from sluice.catalog.key_selection import Selection, ordered_as_text
from sluice.clients.source_tables import own_rows, own_table
from sluice.events.event import CONNECT, DELETE, READ, RELAY, TRUNCATE, KeyText, Record
from sluice.generate.row_text import (
    postgres_checksum,
    postgres_key,
    postgres_row,
    postgres_text,
)

log = logging.getLogger(__name__)

_BYTES_AT_ONCE = 100_000  # of COPY's output, to share the costs of a call
_MOST_BYTES = sql.Literal(150_000_000)  # of a row's values; brokers accept less
# PostgreSQL's texts are below a gigabyte.
TOO_LARGE = (psycopg2.errors.ProgramLimitExceeded, psycopg2.errors.InternalError_)
_ALL = Selection()
_READ, _DELETE, _TRUNCATE = READ.encode(), DELETE.encode(), TRUNCATE.encode()


class Destination(Protocol):
    """The destination of rows; see Publisher."""

    def publish(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Queue a message."""

    def flush(self, batch: Batch) -> None:
        """Send the queue, after the last message of a selection."""

    def reject(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        """Queue the envelope of a row that is too large for a message."""


class _Lines(Protocol):
    """The file that COPY writes to, a line at a time."""

    def write(self, line: bytes, /) -> object:
        """Write a line."""


class RowReader:
    """Publishes the rows of one table as of a batch's end, at (batch end, 1).

    Args:
        cursor: a session whose snapshot is as of the batch's end.
        check: called often; ends the reading by raising.
        offset: with Redpanda Connect, the offset that the rows precede. Default: None.
        shape: the table's shape. Default: None, to be read.

    Attributes:
        rows: number of rows read.
    """

    def __init__(
        self,
        cursor: Any,
        table: Table,
        publisher: Destination,
        batch: Batch,
        check: Callable[[], None],
        offset: int | None = None,
        shape: Shape | None = None,
    ) -> None:
        self.rows = 0
        self._lines: list[bytes] = []
        self._bytes = 0
        self._cursor, self._table = cursor, table
        self._publisher, self._batch, self._check = publisher, batch, check
        self._transaction = Transaction(batch.end_lsn, int(time.time() * 1000), offset)
        shape = shape or shapes(cursor, [table])[table.name]
        self._source, self._columns = shape.source, shape.columns
        self._key = [column.name for column in table.key]
        named = {column.name: column for column in self._columns}
        self._key_expression = key_expression([named[name] for name in self._key])
        self._payload = row_expression(self._columns)
        source = RELAY if offset is None else CONNECT
        self._encoder = RowEncoder(table.name, self._columns, self._key, source)
        # The envelopes of rows differ only in the payload.
        self._before, self._after = self._event(_READ, 1, b"\n").split(b"\n")

    def read(self, selection: Selection = _ALL) -> int:
        """Publish the selected rows; see `read_where`."""
        return self.read_where(selected_rows(self._cursor, self._table, selection))

    def read_where(self, condition: sql.Composable) -> int:
        """Publish rows in the order of their keys; return the number of rows read so far."""
        keys = sql.SQL(", ").join(map(sql.Identifier, self._key))
        return self._read(condition, sql.SQL(" ORDER BY ") + keys)

    def read_pages(self, first: int, below: int | None) -> int:
        """Publish the rows on these pages, of each partition if there are any; see `read`."""
        return self.read_rows(rows_on(first, below))

    def read_rows(self, condition: sql.Composable) -> int:
        """Publish rows in any order; return the number of rows read so far."""
        return self._read(condition, sql.SQL(""))

    def finds(self, condition: sql.Composable) -> bool:
        """Return whether there are such rows."""
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(self._source, condition)
        self._cursor.execute(query)
        return bool(self._cursor.fetchone()[0])

    def _read(self, condition: sql.Composable, order: sql.Composable) -> int:
        rows = self.rows
        try:
            with savepoint(self._cursor, *TOO_LARGE):
                self._copy(self._payload, condition + order, self)
        except TOO_LARGE:
            # PostgreSQL's texts are below a gigabyte, and JSON takes up to six bytes for one.
            self.rows, self._lines, self._bytes = rows, [], 0
            size = size_expression(self._columns)
            small = sql.SQL("{} AND {} <= {}").format(condition, size, _MOST_BYTES)
            self._copy(self._payload, small + order, self)
            self._reject(sql.SQL("{} AND {} > {}").format(condition, size, _MOST_BYTES))
        self._publish()
        self._publisher.flush(self._batch)
        return self.rows

    def _reject(self, condition: sql.Composable) -> None:
        """Publish these rows by their keys alone."""
        keys = BytesIO()
        self._copy(sql.SQL("'null'"), condition, keys)
        for line in escaped(keys.getvalue()).splitlines():
            key, value = line.partition(b"\t")[0], b"%bnull%b" % (self._before, self._after)
            self._publisher.reject(self._table.topic, key, value, self._batch)

    def _copy(self, payload: sql.Composable, condition: sql.Composable, to: _Lines) -> None:
        query = sql.SQL("COPY (SELECT {}, {} FROM {} WHERE {}) TO STDOUT").format(
            self._key_expression,
            payload,
            self._source,
            condition,
        )
        self._cursor.copy_expert(query.as_string(self._cursor.connection), to)

    def write(self, line: bytes) -> None:
        """Take a row in COPY's text format: its key and its columns, both JSON objects."""
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= _BYTES_AT_ONCE:
            self._publish()

    def _publish(self) -> None:
        """Publish the collected lines."""
        before, after, topic, batch = self._before, self._after, self._table.topic, self._batch
        publish = self._publisher.publish
        lines = escaped(b"".join(self._lines)).split(b"\n")
        for line in lines[:-1]:
            key, _, row = line.partition(b"\t")
            if key == rb"\N":
                raise ValueError(f"table {self._table.name}: a key without a value")
            publish(topic, key, b"%b%b%b" % (before, row, after), batch)
        self.rows += len(self._lines)
        self._lines, self._bytes = [], 0
        self._check()

    def truncate_below(self) -> None:
        """Delete all older rows, by one event at (batch end, 0).

        The drain skips it where it could not store a row, whose older version would be deleted.
        """
        self._send(_TRUNCATE, None, b"null")
        self._check()

    def delete(self, key: str) -> None:
        """Delete the row of this key, a JSON object, if it is older than the batch's end."""
        self._send(_DELETE, key.encode(), key.encode())

    def _send(self, operation: bytes, key: bytes | None, payload: bytes) -> None:
        value = self._event(operation, 0, payload)
        self._publisher.publish(self._table.topic, key, value, self._batch)

    def _event(self, operation: bytes, ordinal: int, payload: bytes) -> bytes:
        lsn = self._batch.end_lsn
        return self._transaction.event(self._encoder, operation, lsn, ordinal, payload, b"null")


@contextmanager
def savepoint(cursor: Any, *expected: type[Exception]) -> Iterator[None]:
    """Keep an open transaction usable after one of these errors."""
    if cursor.connection.info.transaction_status == TRANSACTION_STATUS_IDLE:
        yield
        return
    cursor.execute("SAVEPOINT reading")
    try:
        yield
    except expected:
        cursor.execute("ROLLBACK TO SAVEPOINT reading")
        raise
    cursor.execute("RELEASE SAVEPOINT reading")


def rows_on(first: int, below: int | None) -> sql.Composable:
    """Return the condition of the rows on these pages, of each partition if there are any."""
    condition = sql.SQL("ctid >= {}").format(_place(first))
    return (
        condition if below is None else condition + sql.SQL(" AND ctid < {}").format(_place(below))
    )


def _place(page: int) -> sql.Composable:
    return sql.SQL("{}::tid").format(sql.Literal(f"({page},0)"))


def present_rows(cursor: Any, table: Table, keys: Sequence[KeyText]) -> list[Record]:
    """Return the present rows of these keys; see completion.Reread."""
    events = _Collected()
    if readable := readable_keys(cursor, table, keys):
        reader = RowReader(cursor, table, events, Batch(end_lsn=0), lambda: None)
        reader.read(Selection(keys=tuple(readable)))
    return events.records


class _Collected:
    """A destination that collects events instead of publishing them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def publish(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        self.records.append(Record(offset=len(self.records), key=key, value=value))

    def flush(self, batch: Batch) -> None:
        """Do nothing: no event is queued."""

    def reject(self, topic: str, key: bytes | None, value: bytes, batch: Batch) -> None:
        self.records.append(Record(offset=len(self.records), key=key, value=None))


def selected_rows(cursor: Any, table: Table, selection: Selection) -> sql.Composable:
    """Return the selection as SQL, with each part of a key cast to its column's base type.

    A domain over an enum or a range has no operators; the cast is free, and allows index scans.
    """
    if selection.keys:
        columns = columns_of(cursor, [named(cursor, table)])
        types = {name: sql.SQL(base) for _, name, _, _, base in columns}
        names = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Identifier(column.name), types[column.name])
            for column in table.key
        )
        keys = sql.SQL(", ").join(map(_literals, selection.keys))
        return sql.SQL("({}) IN ({})").format(names, keys)
    conditions = [
        sql.SQL(f"({{}}) {sign} {{}}").format(_ordered(table), _literals(bound))
        for sign, bound in selection.bounds()
    ]
    return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")


def _ordered(table: Table) -> sql.Composable:
    """Return the key's parts in the form that both sides order alike."""
    return sql.SQL(", ").join(
        sql.SQL('concat({}) COLLATE "C"' if ordered_as_text(column) else "{}").format(
            sql.Identifier(column.name)
        )
        for column in table.key
    )


def count_rows(cursor: Any, table: Table, selection: Selection) -> int:
    """Return the number of selected rows."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
        own_table(cursor, table), selected_rows(cursor, table, selection)
    )
    cursor.execute(query)
    return int(cursor.fetchone()[0])


def checksum_rows(cursor: Any, table: Table, selection: Selection) -> tuple[int, int]:
    """Return the number of selected rows, and the sum of their checksums."""
    query = sql.SQL("SELECT count(*), coalesce(sum({}), 0) FROM {} WHERE {}").format(
        sql.SQL(postgres_checksum(table.columns)),
        own_rows(cursor, table),
        selected_rows(cursor, table, selection),
    )
    cursor.execute(query)
    count, total = cursor.fetchone()
    return int(count), int(total)


def row_texts(
    cursor: Any, table: Table, keys: Sequence[KeyText], longest: int
) -> dict[str, tuple[KeyText, list[str | None], list[str | None]]]:
    """Return the present rows of these keys as texts, by the text of their key.

    Returns:
        Key text of both sides -> the key, the hexadecimal start of each column's text, and the MD5
        of the whole text; None for NULL. In hexadecimal, as a database in SQL_ASCII may contain
        invalid UTF-8.

    Args:
        longest: characters of the start.
    """
    readable = readable_keys(cursor, table, keys)
    if not readable:
        return {}
    texts = [f"({postgres_text(column)})::text" for column in table.columns]
    starts = ", ".join(f"encode(textsend(left({text}, {longest})), 'hex')" for text in texts)
    sums = ", ".join(f"md5({text})" for text in texts)
    query = sql.SQL("SELECT {}, ARRAY[{}], ARRAY[{}], ARRAY[{}] FROM {} WHERE {}").format(
        *map(sql.SQL, (postgres_row(table.key), postgres_key(table.key), starts, sums)),
        own_rows(cursor, table),
        selected_rows(cursor, table, Selection(keys=tuple(readable))),
    )
    cursor.execute(query)
    return {text: (tuple(key), *values) for text, key, *values in cursor.fetchall()}


def present_keys(cursor: Any, table: Table, selection: Selection, texts: Sequence[str]) -> set[str]:
    """Return which of these key texts, as both sides write them, the selected rows have.

    By text, because ClickHouse may have keys that the type in PostgreSQL cannot read. Cost: one
    scan of the selected keys.
    """
    text = sql.SQL(postgres_row(table.key))
    query = sql.SQL(
        "SELECT DISTINCT {text} FROM {place} WHERE {condition}"
        " AND {text} IN (SELECT unnest({texts}::text[]))"
    ).format(
        text=text,
        place=own_table(cursor, table),
        condition=selected_rows(cursor, table, selection),
        texts=sql.Literal([text for text in texts if "\0" not in text]),
    )
    cursor.execute(query)
    return {text for (text,) in cursor.fetchall()}


def readable_keys(cursor: Any, table: Table, keys: Sequence[KeyText]) -> list[KeyText]:
    """Return the keys without those that PostgreSQL cannot read as its columns' types.

    ClickHouse may have such keys if a row is corrupt or the type was another. The session's
    transaction stays usable.
    """
    keys = [key for key in keys if "\0" not in "".join(key)]
    if not keys:
        return []
    query = sql.SQL("SELECT FROM {} WHERE {} LIMIT 0").format(
        own_table(cursor, table),
        selected_rows(cursor, table, Selection(keys=tuple(keys))),
    )
    try:
        with savepoint(cursor, psycopg2.DataError):
            cursor.execute(query)
        return list(keys)
    except psycopg2.DataError as error:
        if len(keys) == 1:
            reason = str(error).splitlines()[0]
            log.warning("%s: PostgreSQL has no such key: %s", table.name, reason)
            return []
    half = len(keys) // 2
    return [
        key for part in (keys[:half], keys[half:]) for key in readable_keys(cursor, table, part)
    ]


def keys_between(cursor: Any, table: Table, selection: Selection, rows: int) -> list[KeyText]:
    """Return the keys that divide the selected rows, in order, into ranges of `rows`.

    Cost: one scan of the key's index, or a sort of all keys where they are text.
    """
    names = [sql.Identifier(column.name) for column in table.key]
    query = sql.SQL(
        "SELECT {texts} FROM (SELECT {names}, row_number() OVER (ORDER BY {ordered}) - 1 AS n"
        " FROM {place} WHERE {condition}) AS numbered WHERE n > 0 AND n % {rows} = 0 ORDER BY n"
    ).format(
        texts=sql.SQL(", ").join(map(sql.SQL("concat({})").format, names)),
        names=sql.SQL(", ").join(names),
        ordered=_ordered(table),
        place=own_table(cursor, table),
        condition=selected_rows(cursor, table, selection),
        rows=sql.Literal(rows),
    )
    cursor.execute(query)
    return [tuple(key) for key in cursor.fetchall()]


def _literals(parts: Sequence[str]) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, parts)))
