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
from sluice.clients.session_settings import pinned_later, pinned_options
from sluice.clients.slot_loss import INVALIDATION
from sluice.errors import NeedsPerson, NotReady, SlotAwaited, SluiceError, Unreachable
from sluice.events.positions import parse_lsn
from sluice.execution.outcomes import Outcomes
from sluice.settings import PostgresSettings

APPLICATION = "sluice"  # application_name of Sluice's sessions
HEARTBEAT_PREFIX = "sluice-heartbeat"
# SQL of the timeline, eight hexadecimal digits; an error in recovery. LSNs compare only within one.
TIMELINE = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
# A server's refusal of a session, and the refusals that pass by themselves.
_REFUSAL = re.compile(r"FATAL:\s+(.*)")
_TRANSIENT = re.compile("starting up|shutting down|recovery|too many|slots are reserved", re.I)
_LOG = "see: sluice status, sluice logs postgres"
_LOGIN = (
    "fix SLUICE_POSTGRES_USER, _PASSWORD or _DATABASE, or the connection sluice_postgres; or"
    " pg_hba.conf there"
)
# libpq's message where no session was opened -> remedy.
_SIGNS = (
    (
        re.compile("SSL|certificate|GSSAPI", re.I),
        "fix sslmode or sslrootcert in SLUICE_POSTGRES_OPTIONS, or sluice_postgres's extra",
    ),
    (
        re.compile("could not translate host name", re.I),
        "fix SLUICE_POSTGRES_HOST, or the host of the connection sluice_postgres",
    ),
)
_NUMERIC = re.compile(r"numeric\((\d+)(?:,\s*(-?\d+))?\)")
# Column -> its type in PostgreSQL, whether that is the model's, whether it is NOT NULL, and its
# type without domains. A domain counts as its base type with its modifier; all types of text are
# equal, enums included. `depth` counts arrays: a domain over an array adds no dimension.
_SCHEMA = """
WITH RECURSIVE wanted AS (
    SELECT * FROM unnest(%(names)s::text[], %(types)s::text[]) AS w (name, type)
), resolved AS (
    SELECT name, false AS present, to_regtype(type)::oid AS type, -1 AS modifier, 0 AS depth,
        false AS required
    FROM wanted
    UNION ALL
    SELECT w.name, true, a.atttypid, a.atttypmod, 0, a.attnotnull
    FROM wanted w JOIN pg_attribute a ON a.attrelid = to_regclass(%(place)s)
        AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT r.name, r.present, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE e.oid END,
        CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE r.modifier END,
        r.depth + (t.typtype <> 'd')::int, r.required OR (t.typnotnull AND r.depth = 0)
    FROM resolved r JOIN pg_type t ON t.oid = r.type
    LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
    WHERE t.typtype = 'd' OR e.oid IS NOT NULL
), base AS (
    SELECT DISTINCT ON (r.name, r.present) r.*, t.typcategory IN ('S', 'E') AS is_text
    FROM resolved r LEFT JOIN pg_type t ON t.oid = r.type
    WHERE t.typtype IS DISTINCT FROM 'd'
    ORDER BY r.name, r.present, r.depth DESC
)
SELECT w.name, format_type(a.atttypid, a.atttypmod),
    coalesce(p.depth = m.depth AND (p.type = m.type OR (p.is_text AND m.is_text)), false),
    p.required, format_type(p.type, p.modifier) || repeat('[]', p.depth)
FROM wanted w JOIN base m ON m.name = w.name AND NOT m.present
LEFT JOIN base p ON p.name = w.name AND p.present
LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(%(place)s) AND a.attname = w.name
    AND a.attnum > 0 AND NOT a.attisdropped
"""
# Columns that the model lacks. Computed ones hold no data of their own and are not sent.
_MORE = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%(place)s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    AND attname != ALL (%(names)s::text[])
ORDER BY attnum
"""
_PARTITIONED = "SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(%s))"


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
        estimate = (
            "SELECT coalesce(sum(reltuples), 0) FROM pg_class WHERE relkind = 'r' AND (oid ="
            " to_regclass(%(place)s)"
            " OR oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(place)s))))"
        )
        small = []
        with self.connect() as connection, connection.cursor() as cursor:
            for table in tables:
                cursor.execute(estimate, {"place": _place(table)})
                if _value(cursor) <= rows:
                    small.append(table)
        return tuple(small)

    def fence(self, tables: Sequence[Table]) -> Fence:
        """Count the tables in one snapshot, and write to the WAL so that a relay passes it soon.

        Cost: one sequential or index-only scan a table.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            limit_statements(cursor, self._seconds)
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            lsn = parse_lsn(_value(cursor))
            cursor.execute("SET LOCAL row_security = off")  # an error instead of fewer rows
            rows, outcomes = dict[str, int](), Outcomes()
            for table in tables:
                with outcomes.of(table.name), apart(self._settings, cursor, table):
                    query = sql.SQL("SELECT count(*) FROM {}").format(own_rows(cursor, table))
                    cursor.execute(query)
                    rows[table.name] = int(_value(cursor))
            cursor.execute("COMMIT")
            # A message in the WAL lets an idle slot advance past the fence.
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')", [HEARTBEAT_PREFIX])
        return Fence(lsn=lsn, rows=rows, troubles=outcomes.troubles)

    def schema_differences(self, table: Table) -> list[str]:
        """Describe how the table in PostgreSQL differs from the model; empty if it does not.

        Columns that only PostgreSQL has and lengths of text are no differences.
        """
        types = [column.postgres_type for column in table.columns]
        names = [column.name for column in table.columns]
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(_SCHEMA, {"names": names, "types": types, "place": _place(table)})
            columns = {name: row for name, *row in cursor.fetchall()}
        differences = []
        for column in table.columns:
            present, same, required, base = columns[column.name]
            if present is None:
                differences.append(f"{column.name} is not in PostgreSQL")
            elif not same or _digits_differ(base, column.postgres_type):
                wanted = column.postgres_type.lower()
                resolved = "" if base == present else f" ({base})"
                differences.append(f"{column.name} is {present}{resolved}, the model says {wanted}")
            elif not required and not column.nullable:
                differences.append(f"{column.name} is nullable, but not in the model")
        return differences

    def more_columns(self, table: Table) -> list[str]:
        """Return the table's columns in PostgreSQL that the model lacks."""
        names = [column.name for column in table.columns]
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(_MORE, {"names": names, "place": _place(table)})
            return [name for (name,) in cursor.fetchall()]

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


def _digits_differ(present: str, wanted: str) -> bool:
    """Whether two numerics, or arrays of them, differ in precision or scale."""
    return _digits(present) != _digits(wanted)


def _digits(name: str) -> tuple[int, int] | None:
    """Parse precision and scale of `numeric(p, s)` or `numeric(p)`; None without them."""
    match = _NUMERIC.match(name.lower())
    return (int(match[1]), int(match[2] or 0)) if match else None


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
        options = {**connection_options(settings, pinned_options()), **others}
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


def own_rows(cursor: Any, table: Table) -> sql.Composable:
    """Name a table for FROM or LOCK without its INHERITS children.

    A partitioned table, which has no rows of its own, is named with its partitions.
    """
    name = sql.Identifier(table.schema, table.relation)
    cursor.execute(_PARTITIONED, [name.as_string(cursor.connection)])
    return name if _value(cursor) else sql.SQL("ONLY {}").format(name)


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
    where, place = f"PostgreSQL {settings.host}:{settings.port}", _place(table) if table else "it"
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
        raise _unreachable(where, error) from error
    except UnicodeDecodeError as error:  # libpq quoted another protocol's answer
        if b"connection to server" not in error.object:
            raise
        raise Unreachable(
            f"{where} does not answer as PostgreSQL does",
            remedy="fix SLUICE_POSTGRES_HOST and _PORT, or the connection sluice_postgres",
        ) from error
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


def _unreachable(where: str, error: psycopg2.Error) -> Unreachable:
    """Return the error of a failed connection; psycopg2 reports its cause only as text."""
    refusal = _REFUSAL.search(str(error))
    if refusal is None:
        text, what = first_line(error), "does not answer"
        remedy = next((remedy for sign, remedy in _SIGNS if sign.search(text)), _LOG)
    else:
        text, what = refusal[1][:300], "refuses the session"
        remedy = _LOG if _TRANSIENT.search(text) else _LOGIN
    return Unreachable(f"{where} {what}: {text}", remedy=remedy)


def first_line(error: psycopg2.Error) -> str:
    """Return the first line of the server's or driver's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _value(cursor: Any) -> Any:
    return cursor.fetchone()[0]
