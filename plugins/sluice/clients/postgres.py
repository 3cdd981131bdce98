"""PostgreSQL sessions: fences, counts, the slot; psycopg2's errors are translated here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import extensions, sql

from sluice.catalog import Table
from sluice.clients.mask_key import no_key
from sluice.clients.session_settings import pinned_later, pinned_options
from sluice.clients.slot_loss import INVALIDATION
from sluice.clients.source_tables import (
    Relation,
    from_table,
    marks,
    more_columns,
    relations,
    schema_differences,
)
from sluice.data_types.masks import INNER, OUTER, session_options
from sluice.errors import NeedsPerson, NotReady, SlotAwaited, SluiceError, Unreachable, own_log
from sluice.events.positions import parse_lsn
from sluice.execution.batches import batches
from sluice.execution.outcomes import Outcomes
from sluice.settings import PostgresSettings

APPLICATION = "sluice"  # application_name of Sluice's sessions
HEARTBEAT_PREFIX = "sluice-heartbeat"
# SQL of the timeline, eight hexadecimal digits; an error in recovery. LSNs compare only within one.
TIMELINE = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
# A server's refusal of a session, and the refusals that pass by themselves.
_REFUSAL = re.compile(r"FATAL:\s+(.*)")
_TRANSIENT = re.compile("starting up|shutting down|recovery|too many|slots are reserved", re.I)
_LOG = own_log("postgres")
_THEIRS = (
    "see that it runs and that this machine reaches it, or fix SLUICE_POSTGRES_HOST and"
    " SLUICE_POSTGRES_PORT, or the connection sluice_postgres"
)
_LOGIN = (
    "fix SLUICE_POSTGRES_USER, SLUICE_POSTGRES_PASSWORD or SLUICE_POSTGRES_DATABASE, or the"
    " connection sluice_postgres; or pg_hba.conf there"
)
# libpq's message where no session was opened -> remedy.
_SIGNS = (
    (
        re.compile("no password supplied"),
        "set SLUICE_POSTGRES_PASSWORD, or the password of the connection sluice_postgres",
    ),
    (
        re.compile("SSL|certificate|GSSAPI", re.I),
        "fix sslmode or sslrootcert in SLUICE_POSTGRES_OPTIONS, or sluice_postgres's extra",
    ),
    (
        re.compile("could not translate host name", re.I),
        "fix SLUICE_POSTGRES_HOST, or the host of the connection sluice_postgres",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Row counts of one snapshot, and a WAL position after all that it saw.

    Attributes:
        lsn: LSN at or after every commit that the snapshot saw.
        rows: source table -> count.
        troubles: source table -> error of its count.
    """

    lsn: int
    rows: dict[str, int]
    troubles: Mapping[str, SluiceError]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """The replication slot as PostgreSQL reports it.

    Attributes:
        lag_bytes: bytes of WAL that are not confirmed.
        safe_wal_size: bytes of WAL that can be written before the slot is lost; None: no limit.
        active: whether a session reads from it.
        invalidation: why PostgreSQL invalidated it, see slot_loss. Default: empty, for not.
    """

    confirmed_lsn: int
    wal_status: str
    lag_bytes: int
    safe_wal_size: int | None
    active: bool
    invalidation: str = ""


class PostgresSource:
    """Reads PostgreSQL for the checks; never writes to a table.

    Args:
        seconds: how long the count of a table may take. Default: 0, for no limit.
    """

    def __init__(self, settings: PostgresSettings, seconds: int = 0) -> None:
        self._settings, self._seconds = settings, seconds

    @contextmanager
    def connect(self) -> Iterator[extensions.connection]:
        """Open a session in autocommit mode, with translated errors."""
        with opened(self._settings) as connection:
            yield connection

    def ping(self) -> None:
        """Raise Unreachable where PostgreSQL does not answer."""
        with opened(self._settings, dbname="postgres"):
            pass

    def at_most(self, tables: Sequence[Table], rows: int) -> tuple[Table, ...]:
        """Return the tables with at most this many rows by PostgreSQL's statistics."""
        with self.connect() as connection, connection.cursor() as cursor:
            known = relations(cursor, tables)
        large = {name for name, relation in known.items() if relation.rows > rows}
        return tuple(table for table in tables if table.name not in large)

    def marks(self, tables: Sequence[Table], least_rows: float) -> dict[str, str]:
        """Return, by table, a mark of its rows' state, of tables with at least this many rows.

        It differs after a change; PostgreSQL reports a change up to a minute after its commit.
        None where the server does not count changes.

        Args:
            least_rows: by PostgreSQL's estimate.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            return marks(cursor, tables, least_rows)

    def fence(self, tables: Sequence[Table]) -> Fence:
        """Count the tables in one snapshot, and write to the WAL so that a relay passes it soon.

        Cost: one sequential or index-only scan a table, in one statement for 50 small tables.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            limit_statements(cursor, self._seconds)
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            lsn = parse_lsn(_value(cursor))
            cursor.execute("SET LOCAL row_security = off")  # an error instead of fewer rows
            rows, troubles = counted(self._settings, cursor, tables)
            cursor.execute("COMMIT")
            # A message in the WAL lets an idle slot advance past the fence.
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')", [HEARTBEAT_PREFIX])
        return Fence(lsn=lsn, rows=rows, troubles=troubles)

    def schema_differences(self, tables: Sequence[Table]) -> dict[str, list[str]]:
        """Describe how each table in PostgreSQL differs from its model; empty if it does not.

        Columns that only PostgreSQL has and lengths of text are no differences.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            return schema_differences(cursor, tables)

    def more_columns(self, tables: Sequence[Table]) -> dict[str, list[str]]:
        """Return the columns of each table in PostgreSQL that its model lacks."""
        with self.connect() as connection, connection.cursor() as cursor:
            return more_columns(cursor, tables)

    def slot(self, name: str) -> SlotState:
        """Return the slot's state; SlotAwaited where there is none yet."""
        state = self.find_slot(name)
        if state is None:
            raise SlotAwaited(
                f"no replication slot {name!r}: the relay has not finished its snapshot",
                remedy="see: sluice logs relay",
            )
        return state

    def find_slot(self, name: str) -> SlotState | None:
        """Return the slot's state; None where there is none."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT confirmed_flush_lsn::text, wal_status, active,"
                " pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,"
                f" safe_wal_size, {INVALIDATION}"
                " FROM pg_replication_slots s WHERE slot_name = %s",
                [name],
            )
            row = cursor.fetchone()
        if row is None or row[0] is None:
            return None
        return SlotState(
            confirmed_lsn=parse_lsn(row[0]),
            wal_status=row[1],
            active=row[2],
            lag_bytes=row[3],
            safe_wal_size=row[4],
            invalidation=row[5],
        )


def _place(table: Table) -> str:
    return f"{_identifier(table.schema)}.{_identifier(table.relation)}"


def _identifier(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def connection_options(settings: PostgresSettings, pinned: str = "") -> dict[str, Any]:
    """Return psycopg2's connection arguments.

    Args:
        pinned: the session's own `-c name=value ...`; they override those of the settings.
    """
    session = f"{settings.options.get('options', '')} {pinned}".strip()
    return {
        "connect_timeout": 5,
        **settings.options,
        "host": settings.host,
        "port": settings.port,
        "user": settings.user,
        "password": settings.password.get_secret_value(),
        "dbname": settings.database,
        "application_name": APPLICATION,
        **({"options": session} if session else {}),
    }


@contextmanager
def opened(
    settings: PostgresSettings, *, factory: Any = None, **others: Any
) -> Iterator[extensions.connection]:
    """Open a session in autocommit mode with pinned settings and the server's encoding.

    Args:
        factory: psycopg2's connection class. Default: a plain connection.
        others: connection arguments that override those of the settings.
    """
    with translated(settings):
        pinned = pinned_options(session_options(settings.mask_key.get_secret_value()))
        options = {**connection_options(settings, pinned), **others}
        connection = psycopg2.connect(**options, connection_factory=factory)
        try:
            if factory is None:  # a replication session always is in autocommit mode
                connection.autocommit = True
            # PostgreSQL converts values to the session's encoding, except from SQL_ASCII.
            stored = connection.get_parameter_status("server_encoding")
            connection.set_client_encoding("SQL_ASCII" if stored == "SQL_ASCII" else "UTF8")
            with connection.cursor() as cursor:
                for statement in pinned_later(connection.server_version):
                    cursor.execute(statement)
            yield connection
        finally:
            connection.close()


def counted(
    settings: PostgresSettings, cursor: Any, tables: Sequence[Table]
) -> tuple[dict[str, int], dict[str, SluiceError]]:
    """Count the rows of tables in the cursor's transaction.

    Returns:
        Source table -> count, and source table -> error of those that cannot be counted.
    """
    known, rows, outcomes = relations(cursor, tables), dict[str, int](), Outcomes()
    for batch in batches(tables, lambda table: _estimate(table, known)):
        if len(batch) > 1:
            # A table that fails, or is locked by a migration, must not hold up the others.
            with suppress(SluiceError), apart(settings, cursor):
                cursor.execute("SET LOCAL lock_timeout = '1s'")
                counts = _counts(cursor, batch, known)
                cursor.execute("SET LOCAL lock_timeout = 0")
                rows |= counts
        for table in batch:
            if table.name not in rows:
                with outcomes.of(table.name), apart(settings, cursor, table):
                    rows |= _counts(cursor, [table], known)
    return rows, outcomes.troubles


def _estimate(table: Table, known: Mapping[str, Relation]) -> float:
    return known[table.name].rows if table.name in known else 0.0


def _counts(cursor: Any, tables: Sequence[Table], known: Mapping[str, Relation]) -> dict[str, int]:
    counts = [
        sql.SQL("SELECT {}, count(*) FROM {}").format(sql.Literal(at), from_table(table, known))
        for at, table in enumerate(tables)
    ]
    cursor.execute(sql.SQL(" UNION ALL ").join(counts))
    return {tables[at].name: int(count) for at, count in cursor.fetchall()}


def limit_statements(cursor: Any, seconds: int) -> None:
    """Limit each statement of the transaction to this many seconds."""
    cursor.execute("SET LOCAL statement_timeout = %s", [seconds * 1000])


@contextmanager
def apart(settings: PostgresSettings, cursor: Any, table: Table | None = None) -> Iterator[None]:
    """Run part of a transaction in a savepoint, so that its failure leaves the rest usable."""
    with translated(settings, table):
        cursor.execute("SAVEPOINT apart")
        try:
            yield
        except psycopg2.Error:
            with suppress(psycopg2.Error):  # the session ended; the first error has the cause
                cursor.execute("ROLLBACK TO SAVEPOINT apart")
            raise
        cursor.execute("RELEASE SAVEPOINT apart")


@contextmanager
def translated(settings: PostgresSettings, table: Table | None = None) -> Iterator[None]:
    """Translate psycopg2's errors into Sluice's, in one line and without the connection string.

    Args:
        table: the table that is read, for messages and remedies. Default: none.
    """
    where, place = f"PostgreSQL {settings.address}", _place(table) if table else "it"
    try:
        yield
    except psycopg2.errors.QueryCanceled as error:
        target = f" on {table.name}" if table else ""
        raise NotReady(
            f"{where} did not finish a query{target}: {first_line(error)}",
            remedy="find out what keeps it busy, or raise SLUICE_QUALITY_STATEMENT_SECONDS",
        ) from error
    except psycopg2.errors.SerializationFailure as error:
        raise NotReady(
            f"{where} ended a query: {first_line(error)}",
            remedy="on a standby set hot_standby_feedback = on, or a longer"
            " max_standby_streaming_delay",
        ) from error
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise _unreachable(settings, where, error) from error
    except UnicodeDecodeError as error:  # libpq quoted another protocol's answer
        if b"connection to server" not in error.object:
            raise
        raise Unreachable(
            f"{where} does not answer as PostgreSQL does",
            remedy="fix SLUICE_POSTGRES_HOST and SLUICE_POSTGRES_PORT, or the connection"
            " sluice_postgres",
        ) from error
    except psycopg2.errors.UndefinedObject as error:
        if INNER in str(error) or OUTER in str(error):
            raise no_key() from error
        raise NeedsPerson(f"{where}: {first_line(error)}") from error
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName) as error:
        raise NeedsPerson(
            f"{where}: {first_line(error)}",
            remedy="create it in PostgreSQL, or remove its model and run: sluice generate, sluice"
            " init",
        ) from error
    except psycopg2.errors.InsufficientPrivilege as error:
        first, user = first_line(error), _identifier(settings.user)
        remedy = f"as its owner run in PostgreSQL: GRANT SELECT ON {place} TO {user}"
        if "row-level security" in first:
            remedy = f"as a superuser run in PostgreSQL: ALTER ROLE {user} BYPASSRLS"
        raise NeedsPerson(f"{where}: {first}", remedy=remedy) from error
    except psycopg2.Error as error:
        raise NeedsPerson(f"{where}: {first_line(error)}") from error


def _unreachable(settings: PostgresSettings, where: str, error: psycopg2.Error) -> Unreachable:
    """Return the error of a failed connection; psycopg2 reports its cause only as text."""
    log = _LOG if settings.embedded else _THEIRS
    refusal = _REFUSAL.search(str(error))
    if refusal is None:
        text, what = first_line(error), "does not answer"
        remedy = next((remedy for sign, remedy in _SIGNS if sign.search(text)), log)
    else:
        text, what = refusal[1][:300], "refuses the session"
        remedy = log if _TRANSIENT.search(text) else _LOGIN
    return Unreachable(f"{where} {what}: {text}", remedy=remedy)


def first_line(error: psycopg2.Error) -> str:
    """Return the first line of the server's or driver's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _value(cursor: Any) -> Any:
    return cursor.fetchone()[0]
