"""Checks PostgreSQL: the requirements of logical replication and of the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import time
from typing import Any

from sluice.capture import publication as publications
from sluice.capture import relations
from sluice.capture import slot as slots
from sluice.catalog import Catalog
from sluice.catalog.masking import candidates
from sluice.clients.mask_key import require_mask_key
from sluice.clients.slot_loss import INVALIDATION, cause, remedy
from sluice.errors import SluiceError
from sluice.operate.doctor.diagnosis import Diagnosis, clock, failed, judged
from sluice.printable import named
from sluice.settings import RelaySettings, Settings

_MAJOR = 14  # pgoutput sends messages of pg_logical_emit_message from this release on
# Missing tables belong to another check.
_UNREADABLE = """
SELECT format('%%I.%%I', n.nspname, c.relname)
FROM unnest(%s::text[], %s::text[]) AS wanted (schema, relation)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relation
WHERE NOT (has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'))
ORDER BY 1
"""
_SLOTS = f"""
SELECT current_setting('max_replication_slots')::int - count(*),
    count(*) FILTER (WHERE slot_name = %s),
    coalesce(max({INVALIDATION}) FILTER (WHERE slot_name = %s), '')
FROM pg_replication_slots s
"""


def checks(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    """Yield every check of PostgreSQL."""
    with slots.session(settings.postgres) as cursor:
        version, level, now = _row(
            cursor,
            "SELECT current_setting('server_version_num')::int / 10000,"
            " current_setting('wal_level'), extract(epoch FROM clock_timestamp())::float8",
        )
        skew = abs(now - time())
        yield judged(
            "postgres", "version", version >= _MAJOR, version, f"use PostgreSQL {_MAJOR} or newer"
        )
        yield judged(
            "postgres", "wal_level", level == "logical", level, "set wal_level=logical, restart"
        )
        yield clock("postgres", skew)
        yield from _masks(settings, catalog)
        yield _role(cursor)
        yield _privileges(cursor, catalog)
        yield _slots(cursor, settings)
        faults = publications.faults(cursor, catalog)
        yield from _keys(cursor, catalog, faults)
        yield from _publication(cursor, settings.relay, catalog, faults)


def _masks(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    """Yield the lack of a key for hashed columns, and columns that look like secrets."""
    try:
        require_mask_key(settings.postgres, catalog.tables)
    except SluiceError as error:
        yield failed("postgres", "key of masked columns", error)
    if secret := candidates(catalog.tables):
        found = f"{named(secret)}: mask or exclude them if they are secrets (docs/masking.md)"
        yield judged("postgres", "columns named as secrets", True, found, "")


def _role(cursor: Any) -> Diagnosis:
    user, may = _row(
        cursor,
        "SELECT rolname::text, rolreplication OR rolsuper OR EXISTS ("
        "    SELECT FROM pg_roles AS granting WHERE granting.rolname = 'rds_replication'"
        "    AND pg_has_role(current_user, granting.oid, 'MEMBER')"
        ") FROM pg_roles WHERE rolname = current_user",
    )
    found = f"{user} may {'' if may else 'not '}replicate"
    remedy = "connect as a role with REPLICATION, or run: ALTER ROLE ... REPLICATION"
    return judged("postgres", "replication", may, found, remedy)


def _privileges(cursor: Any, catalog: Catalog) -> Diagnosis:
    """Check that the role may read every table, as snapshots, checks and resyncs do."""
    schemas = [table.schema for table in catalog.tables]
    relations = [table.relation for table in catalog.tables]
    cursor.execute(_UNREADABLE, [schemas, relations])
    unreadable = [name for (name,) in cursor.fetchall()]
    remedy = f"as their owner: GRANT SELECT ON {', '.join(unreadable)} TO the role; and USAGE"
    found = f"it cannot read {', '.join(unreadable)}" if unreadable else "it can read all tables"
    return judged("postgres", "privileges", not unreadable, found, f"{remedy} on their schemas")


def _slots(cursor: Any, settings: Settings) -> Diagnosis:
    relay = settings.relay
    free, ours, invalidation = _row(cursor, _SLOTS, [relay.slot, relay.slot])
    if invalidation:
        found = f"it was invalidated: {cause(invalidation)}"
        return judged("postgres", "slot", False, found, remedy(invalidation))
    # The relay's slot, and a temporary one for each snapshot: of a resync one for each reader.
    needed = 1 + settings.copy_readers
    more = "raise max_replication_slots, drop unused slots, or lower SLUICE_COPY_READERS"
    return judged("postgres", "slots", free + ours >= needed, f"{free} left", more)


def _keys(cursor: Any, catalog: Catalog, faults: Mapping[str, SluiceError]) -> Iterator[Diagnosis]:
    """Yield each table whose changes cannot be sent, or one check that all can."""
    for error in faults.values():
        yield failed("postgres", "tables and keys", error)
    if not faults:
        yield judged("postgres", "tables and keys", True, f"{len(catalog.tables)} tables", "")
    for text in relations.uncovered(cursor, catalog).values():
        yield judged("postgres", "inheritance", True, text, "")


def _publication(
    cursor: Any, relay: RelaySettings, catalog: Catalog, faults: Mapping[str, SluiceError]
) -> Iterator[Diagnosis]:
    """Yield whether the publication exists and sends every operation of every table.

    Args:
        faults: faults of the tables themselves, which `_keys` reports.
    """
    check, present = f"publication {relay.publication}", publications.find(cursor, relay, catalog)
    if present is None:
        yield judged("postgres", check, False, "it does not exist", "sluice init")
        return
    errors: list[SluiceError] = [e for name, e in present.faults.items() if name not in faults]
    if not present.complete:
        errors.append(publications.incomplete(relay, present))
    for error in errors:
        yield failed("postgres", check, error)
    if not errors:
        yield judged("postgres", check, True, "complete", "")


def _row(cursor: Any, query: str, values: list[Any] | None = None) -> tuple[Any, ...]:
    cursor.execute(query, values)
    row: tuple[Any, ...] = cursor.fetchone()
    return row
