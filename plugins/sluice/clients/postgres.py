"""PostgreSQL as the source of truth: fences, counts, the slot; psycopg2's errors end here."""

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

APPLICATION = "sluice"  # what our sessions are called
HEARTBEAT_PREFIX = "sluice-heartbeat"
# What a server says that ends a session before it begins; and what of it passes by itself.
_REFUSAL = re.compile(r"FATAL:\s+(.*)")
_PASSING = re.compile("starting up|shutting down|recovery|too many|slots are reserved", re.I)
_LOG = "see: sluice status, sluice logs postgres"
_LOGIN = (
    "mend SLUICE_POSTGRES_USER, _PASSWORD or _DATABASE, or the connection sluice_postgres; or"
    " pg_hba.conf there"
)
# What a client says that got no session -> what to do.
_SIGNS = (
    (
        re.compile("SSL|certificate|GSSAPI", re.I),
        "mend sslmode or sslrootcert in SLUICE_POSTGRES_OPTIONS, or sluice_postgres's extra",
    ),
    (
        re.compile("could not translate host name", re.I),
        "mend SLUICE_POSTGRES_HOST, or the host of the connection sluice_postgres",
    ),
)
_NUMERIC = re.compile(r"numeric\((\d+)(?:,\s*(-?\d+))?\)")
# Column -> its type in Postgres, whether that is the model's, whether it is never NULL, and its
# type without domains. A domain is its base type, with that one's modifier; all types of text are
# one, enums among them. `depth` counts arrays: one of a domain over an array is no array of arrays.
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
# Those that the models lack. A column that PostgreSQL computes from others holds nothing of its
# own, and is not sent.
_MORE = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%(place)s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    AND attname != ALL (%(names)s::text[])
ORDER BY attnum
"""
_PARTITIONED = "SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(%s))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Row counts of one snapshot and the WAL position that holds all it saw.

    Attributes:
        lsn: an LSN at or after every commit that the snapshot saw.
        rows: source table -> count.
        troubles: source table -> why it could not be counted.
    """

    lsn: int
    rows: dict[str, int]
    troubles: Mapping[str, SluiceError]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """The replication slot as Postgres reports it.

    Attributes:
        invalidation: why PostgreSQL invalidated it, a reason of slot_loss; empty where it did not.
        lag_bytes: WAL not yet confirmed.
        safe_wal_size: bytes that may be written before the slot is lost; None without a limit.
    """

    confirmed_lsn: int
    wal_status: str
    lag_bytes: int
    safe_wal_size: int | None
    active: bool
    invalidation: str = ""


class PostgresSource:
    """Reads what the checks compare with; never writes to a table.

    Args:
        seconds: how long counting a table may take; 0 for as long as it takes.
    """

    def __init__(self, settings: PostgresSettings, seconds: int = 0) -> None:
        self._settings, self._seconds = settings, seconds

    @contextmanager
    def connect(self) -> Iterator[extensions.connection]:
        """A session in autocommit mode; driver errors come out as ours."""
        with opened(self._settings) as connection:
            yield connection

    def ping(self) -> None:
        """Unreachable when PostgreSQL does not answer."""
        with opened(self._settings, dbname="postgres"):
            pass

    def at_most(self, tables: Sequence[Table], rows: int) -> tuple[Table, ...]:
        """Those that have no more rows than this, by what PostgreSQL's statistics say."""
        estimate = (
            "SELECT coalesce(sum(reltuples), 0) FROM pg_class WHERE relkind = 'r' AND (oid ="
            " to_regclass(%(place)s)"
            " OR oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(place)s))))"
        )
        kept = []
        with self.connect() as connection, connection.cursor() as cursor:
            for table in tables:
                cursor.execute(estimate, {"place": _place(table)})
                if _value(cursor) <= rows:
                    kept.append(table)
        return tuple(kept)

    def fence(self, tables: Sequence[Table]) -> Fence:
        """Count the tables in one snapshot, and mark the WAL so that a relay passes it soon.

        Cost: one sequential or index-only scan a table.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            limit_statements(cursor, self._seconds)
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            lsn = parse_lsn(_value(cursor))
            cursor.execute("SET LOCAL row_security = off")  # rather an error than fewer rows
            rows, outcomes = dict[str, int](), Outcomes()
            for table in tables:
                with outcomes.of(table.name), apart(self._settings, cursor, table):
                    query = sql.SQL("SELECT count(*) FROM {}").format(own_rows(cursor, table))
                    cursor.execute(query)
                    rows[table.name] = int(_value(cursor))
            cursor.execute("COMMIT")
            # A message in the WAL makes an idle slot move past the fence.
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')", [HEARTBEAT_PREFIX])
        return Fence(lsn=lsn, rows=rows, troubles=outcomes.troubles)

    def schema_differences(self, table: Table) -> list[str]:
        """How the table in PostgreSQL differs from the model, in words; empty when it does not.

        Columns that only PostgreSQL has are no difference, and lengths of text are none.
        """
        types = [column.postgres_type for column in table.columns]
        names = [column.name for column in table.columns]
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(_SCHEMA, {"names": names, "types": types, "place": _place(table)})
            found = {name: row for name, *row in cursor.fetchall()}
        differences = []
        for column in table.columns:
            present, same, required, base = found[column.name]
            if present is None:
                differences.append(f"{column.name} is not in PostgreSQL")
            elif not same or _digits_differ(base, column.postgres_type):
                wanted = column.postgres_type.lower()
                resolved = "" if base == present else f" ({base})"
                differences.append(f"{column.name} is {present}{resolved}, the model says {wanted}")
            elif not required and not column.nullable:
                differences.append(f"{column.name} may be NULL, the model says not")
        return differences

    def more_columns(self, table: Table) -> list[str]:
        """Columns that the table has in PostgreSQL and the model lacks."""
        names = [column.name for column in table.columns]
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(_MORE, {"names": names, "place": _place(table)})
            return [name for (name,) in cursor.fetchall()]

    def slot(self, name: str) -> SlotState:
        """The slot's state; SlotAwaited when there is none yet."""
        found = self.find_slot(name)
        if found is None:
            raise SlotAwaited(
                f"replication slot {name!r} is not there: the relay has not finished its snapshot",
                remedy="see: sluice logs relay",
            )
        return found

    def find_slot(self, name: str) -> SlotState | None:
        """The slot's state; None when there is none."""
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
    """Whether two numerics, or arrays of them, have other digits; other types have none."""
    return _digits(present) != _digits(wanted)


def _digits(name: str) -> tuple[int, int] | None:
    """Precision and scale of `numeric(p, s)` or `numeric(p)`; None without them."""
    found = _NUMERIC.match(name.lower())
    return (int(found[1]), int(found[2] or 0)) if found else None


def connection_options(settings: PostgresSettings, pinned: str = "") -> dict[str, Any]:
    """psycopg2's connection arguments.

    Args:
        pinned: the session's own `-c name=value ...`; they win over those of the settings.
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
    """Open a session in autocommit mode with the pinned settings and the server's encoding.

    Args:
        factory: psycopg2's class of the connection.
        others: arguments that go before those of the settings.
    """
    with translated(settings):
        options = {**connection_options(settings, pinned_options()), **others}
        connection = psycopg2.connect(**options, connection_factory=factory)
        try:
            if factory is None:  # a replication session has no other mode
                connection.autocommit = True
            # Postgres converts values to the session's encoding; SQL_ASCII cannot be converted.
            stored = connection.get_parameter_status("server_encoding")
            connection.set_client_encoding("SQL_ASCII" if stored == "SQL_ASCII" else "UTF8")
            with connection.cursor() as cursor:
                for statement in pinned_later(connection.server_version):
                    cursor.execute(statement)
            yield connection
        finally:
            connection.close()


def own_rows(cursor: Any, table: Table) -> sql.Composable:
    """Name a table in FROM or LOCK so that its own rows are meant, not those of INHERITS children.

    A partitioned table has no rows of its own; there those of its partitions are meant.
    """
    name = sql.Identifier(table.schema, table.relation)
    cursor.execute(_PARTITIONED, [name.as_string(cursor.connection)])
    return name if _value(cursor) else sql.SQL("ONLY {}").format(name)


def limit_statements(cursor: Any, seconds: int) -> None:
    """Let every statement of the transaction end after so many seconds."""
    cursor.execute("SET LOCAL statement_timeout = %s", [seconds * 1000])


@contextmanager
def apart(settings: PostgresSettings, cursor: Any, table: Table | None = None) -> Iterator[None]:
    """A part of a transaction, on one table, whose failure leaves the transaction usable."""
    with translated(settings, table):
        cursor.execute("SAVEPOINT apart")
        try:
            yield
        except psycopg2.Error:
            with suppress(psycopg2.Error):  # of a session that ended; the first one says why
                cursor.execute("ROLLBACK TO SAVEPOINT apart")
            raise
        cursor.execute("RELEASE SAVEPOINT apart")


@contextmanager
def translated(settings: PostgresSettings, table: Table | None = None) -> Iterator[None]:
    """psycopg2's errors as ours, in one line and without the connection string.

    Args:
        table: what is read, for messages and remedies.
    """
    where, place = f"PostgreSQL {settings.host}:{settings.port}", _place(table) if table else "it"
    try:
        yield
    except psycopg2.errors.QueryCanceled as error:
        of = f" on {table.name}" if table else ""
        raise NotReady(
            f"{where} did not finish a query{of}: {first_line(error)}",
            remedy="look for what keeps it busy, or raise SLUICE_QUALITY_STATEMENT_SECONDS",
        ) from error
    except psycopg2.errors.SerializationFailure as error:
        raise NotReady(
            f"{where} ended a query: {first_line(error)}",
            remedy="on a standby set hot_standby_feedback = on, or a longer"
            " max_standby_streaming_delay",
        ) from error
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise _unreachable(where, error) from error
    except UnicodeDecodeError as error:  # psycopg2, of what libpq quotes of a stranger's answer
        if b"connection to server" not in error.object:
            raise
        raise Unreachable(
            f"{where} does not answer as PostgreSQL does",
            remedy="mend SLUICE_POSTGRES_HOST and _PORT, or the connection sluice_postgres",
        ) from error
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName) as error:
        raise NeedsPerson(
            f"{where}: {first_line(error)}",
            remedy="create it in PostgreSQL, or take its model out and run: sluice generate, sluice"
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
    """Why there is no session; psycopg2 gives the reasons of connecting no codes, only texts."""
    refusal = _REFUSAL.search(str(error))
    if refusal is None:
        text, what = first_line(error), "does not answer"
        remedy = next((remedy for sign, remedy in _SIGNS if sign.search(text)), _LOG)
    else:
        text, what = refusal[1][:300], "refuses the session"
        remedy = _LOG if _PASSING.search(text) else _LOGIN
    return Unreachable(f"{where} {what}: {text}", remedy=remedy)


def first_line(error: psycopg2.Error) -> str:
    """What the server or the driver said, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _value(cursor: Any) -> Any:
    return cursor.fetchone()[0]
