"""PostgreSQL as the source of truth: fences, counts, the slot; psycopg2's errors end here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import extensions, sql

from sluice.catalog import Table
from sluice.errors import NeedsPerson, NotReady, Unreachable
from sluice.positions import parse_lsn
from sluice.settings import PostgresSettings

HEARTBEAT_PREFIX = "sluice-heartbeat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Row counts of one snapshot and the WAL position that holds all it saw.

    Attributes:
        lsn: an LSN at or after every commit that the snapshot saw.
        rows: source table -> count.
    """

    lsn: int
    rows: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """The replication slot as Postgres reports it; `lag_bytes` is WAL not yet confirmed."""

    confirmed_lsn: int
    wal_status: str
    lag_bytes: int
    active: bool


class PostgresSource:
    """Reads what the checks compare with; never writes to a table."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings

    @contextmanager
    def connect(self) -> Iterator[extensions.connection]:
        """A session in autocommit mode; driver errors come out as ours."""
        with translated(self._settings):
            connection = psycopg2.connect(**connection_options(self._settings))
            try:
                connection.autocommit = True
                yield connection
            finally:
                connection.close()

    def ping(self) -> None:
        """Unreachable when PostgreSQL does not answer."""
        options = {**connection_options(self._settings), "dbname": "postgres"}
        with translated(self._settings):
            psycopg2.connect(**options).close()

    def fence(self, tables: Sequence[Table]) -> Fence:
        """Count the tables in one snapshot, and mark the WAL so that a relay passes it soon.

        Cost: one sequential or index-only scan a table.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            lsn = parse_lsn(_value(cursor))
            rows = {}
            for table in tables:
                name = sql.Identifier(table.schema, table.relation)
                cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(name))
                rows[table.name] = int(_value(cursor))
            cursor.execute("COMMIT")
            # A message in the WAL makes an idle slot move past the fence.
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')", [HEARTBEAT_PREFIX])
        return Fence(lsn=lsn, rows=rows)

    def rows(self, tables: Sequence[Table]) -> dict[str, int]:
        """Source table -> count, each by itself."""
        return self.fence(tables).rows

    def slot(self, name: str) -> SlotState:
        """The slot's state; NotReady when there is none yet."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT confirmed_flush_lsn::text, wal_status, active,"
                " pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint"
                " FROM pg_replication_slots WHERE slot_name = %s",
                [name],
            )
            row = cursor.fetchone()
        if row is None or row[0] is None:
            raise NotReady(
                f"replication slot {name!r} is not there: the relay has not finished its snapshot",
                remedy="see: sluice logs relay",
            )
        return SlotState(
            confirmed_lsn=parse_lsn(row[0]), wal_status=row[1], active=row[2], lag_bytes=row[3]
        )


def connection_options(settings: PostgresSettings) -> dict[str, Any]:
    """psycopg2's connection arguments."""
    return {
        "host": settings.host,
        "port": settings.port,
        "user": settings.user,
        "password": settings.password.get_secret_value(),
        "dbname": settings.database,
        "connect_timeout": 5,
        "application_name": "sluice",
    }


@contextmanager
def translated(settings: PostgresSettings) -> Iterator[None]:
    """psycopg2's errors as ours, in one line and without the connection string."""
    where = f"PostgreSQL {settings.host}:{settings.port}"
    try:
        yield
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise Unreachable(
            f"{where} does not answer: {_first_line(error)}",
            remedy="see: sluice status, sluice logs postgres",
        ) from error
    except psycopg2.Error as error:
        raise NeedsPerson(f"{where}: {_first_line(error)}") from error


def _first_line(error: psycopg2.Error) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _value(cursor: Any) -> Any:
    return cursor.fetchone()[0]
