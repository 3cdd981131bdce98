"""Checks ClickHouse: version, grants, settings, cluster, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import closing
from functools import partial
from time import time

from sluice.catalog import Catalog, Fact, Table
from sluice.clients.clickhouse import LONG_LIMITS, LONG_STATEMENT, ClickHouse, release
from sluice.clients.mask_key import masked_as
from sluice.errors import NeedsPerson, Retryable, SluiceError
from sluice.generate.clickhouse import table_statements, view
from sluice.generate.row_text import clickhouse_checksum
from sluice.operate.doctor.diagnosis import Diagnosis, clock, failed, judged
from sluice.settings import ClickHouseSettings, Cluster, Settings
from sluice.star.create import relations_of_fact, state_tables
from sluice.warehouse.creation import Creation, created
from sluice.warehouse.evolution import Plan, plan_of
from sluice.warehouse.masked import difference, noted_masks, require_same_key
from sluice.warehouse.present import Present, kinds_of, read_present
from sluice.warehouse.star_form import Version, differs, kinds_of_facts

_LEAST = (25, 6)  # use_skip_indexes_if_final_exact_mode, which the views set
_INIT = "run: sluice init"
# CREATE and DROP by parts: the whole includes rights that cannot be granted on a database.
_DDL = tuple(f"{verb} {what}" for verb in ("CREATE", "DROP") for what in ("TABLE", "VIEW"))
_GRANTS = {
    "cdc.*": ("SELECT", "INSERT", "ALTER", *_DDL, "TRUNCATE", "OPTIMIZE"),
    "olap.*": ("SELECT", *_DDL),
    "system.*": ("SELECT",),
    "*.*": ("CREATE TEMPORARY TABLE",),
}
# Required values: with others, which a profile may set, rows are lost or differ.
_SETTINGS = {
    "readonly": "0",
    "wait_for_async_insert": "1",  # otherwise a checkpoint may survive the loss of its rows
    "do_not_merge_across_partitions_select_final": "0",
    "skip_unavailable_shards": "0",
    "join_use_nulls": "0",
    "transform_null_in": "0",
    "data_type_default_nullable": "0",
}
# With `break`, ClickHouse truncates results at a limit without an error.
_OVERFLOWS = "SELECT name, value FROM system.settings WHERE name LIKE '%overflow\\_mode%'"
_LIMITS = """
SELECT name, max, readonly FROM system.settings WHERE has({names:Array(String)}, name)
"""


def checks(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    """Yield every check of ClickHouse, from the server to the tables."""
    with closing(ClickHouse(settings.clickhouse)) as session:
        yield from _server(session, "clickhouse")
        yield _grants(session, settings.clickhouse)
        yield _settings(session)
        yield _long_statements(session, catalog)
        yield from _cluster(session)
        kinds = kinds_of(column for table in catalog.tables for column in table.columns)
        present = read_present(session, kinds | kinds_of_facts(catalog.facts))
        yield _state_tables(present)
        yield from _masks(session, settings, catalog)
        creation, newest = Creation(present=present), _newest(session)
        for table in catalog.tables:
            statements = table_statements(table, session.cluster).values()
            missing = created(statements) - present.relations.keys()
            unlike = partial(_table_differs, creation, table, statements, session.cluster)
            yield _relations(table.name, missing, unlike)
        for fact in catalog.facts:
            missing = relations_of_fact(fact, session.cluster) - present.relations.keys()
            yield _relations(fact.name, missing, partial(_fact_differs, creation, fact, newest))


def _server(session: ClickHouse, service: str) -> Iterator[Diagnosis]:
    ((version, now),) = session.execute("SELECT version(), toUnixTimestamp64Micro(now64(6)) / 1e6")
    skew = abs(now - time())
    recent = release(version) >= _LEAST
    yield judged(service, "version", recent, version, "use ClickHouse 25.6 or newer")
    yield clock(service, skew)


def _grants(session: ClickHouse, settings: ClickHouseSettings) -> Diagnosis:
    """Check that the user has the grants that drains, rebuilds and `sluice init` need."""
    missing = {
        place: [right for right in rights if not _granted(session, right, place)]
        for place, rights in _GRANTS.items()
    }
    wanted = [f"{', '.join(rights)} ON {place}" for place, rights in missing.items() if rights]
    user = "`" + settings.user.replace("\\", "\\\\").replace("`", "\\`") + "`"
    remedy = "; ".join(f"GRANT {right} TO {user}" for right in wanted)
    found = f"missing: {'; '.join(wanted)}" if wanted else "complete"
    return judged("clickhouse", "grants", not wanted, found, remedy)


def _granted(session: ClickHouse, right: str, place: str) -> bool:
    ((granted,),) = session.execute(f"CHECK GRANT {right} ON {place}")
    return bool(granted)


def _settings(session: ClickHouse) -> Diagnosis:
    """Check that the user's profile does not change settings on which results depend."""
    names = ", ".join(f"'{name}'" for name in _SETTINGS)
    query = f"SELECT name, value FROM system.settings WHERE name IN ({names})"
    values = dict(session.execute(query)) | dict(session.execute(_OVERFLOWS))
    wrong = sorted(name for name, value in values.items() if value != _SETTINGS.get(name, "throw"))
    found = ", ".join(f"{name}={values[name]}" for name in wrong) or "as required"
    wanted = ", ".join(f"{name}={_SETTINGS.get(name, 'throw')}" for name in wrong)
    return judged("clickhouse", "settings", not wrong, found, f"set in its profile: {wanted}")


def _long_statements(session: ClickHouse, catalog: Catalog) -> Diagnosis:
    """Check that the user may raise the limits of statements as far as wide tables need."""
    wide = [
        table.name
        for table in catalog.tables
        if len(clickhouse_checksum(table.columns).encode()) > LONG_STATEMENT // 2
    ]
    fixed = [
        f"{name} up to {LONG_LIMITS[name]}"
        for name, most, readonly in session.execute(_LIMITS, names=list(LONG_LIMITS))
        if readonly or (most is not None and int(most) < LONG_LIMITS[name])
    ]
    found = f"its profile fixes the limits that {', '.join(wide)} need" if wide else "not needed"
    remedy = f"let its profile's constraints allow: {', '.join(fixed)}"
    ok = not (wide and fixed)
    return judged("clickhouse", "long statements", ok, "possible" if wide and ok else found, remedy)


def _cluster(session: ClickHouse) -> Iterator[Diagnosis]:
    """Yield checks of the cluster's other servers, and of the Keeper for replicated tables."""
    cluster = session.cluster
    if not cluster.name:
        return
    name, count = f"cluster {cluster.name}", 1
    try:
        for server in session.others():
            count += 1
            yield from _server(server, server.where)
    except SluiceError as error:
        yield failed("clickhouse", name, error, reached=not isinstance(error, Retryable))
        return
    yield judged("clickhouse", name, True, f"{count} servers answer", "")
    if cluster.replicated:
        yield _keeper(session)


def _keeper(session: ClickHouse) -> Diagnosis:
    """Check that the server has the Keeper and macros that replicated tables need."""
    tables = session.execute(
        "SELECT name FROM system.tables WHERE database = 'system' AND name = 'zookeeper'"
    )
    macros = {name for (name,) in session.execute("SELECT macro FROM system.macros")}
    missing = [] if tables else ["a Keeper"]
    missing += [f"the macro {name}" for name in ("shard", "replica") if name not in macros]
    found = f"missing: {', '.join(missing)}" if missing else "Keeper and macros are configured"
    remedy = "configure <keeper_server> or <zookeeper>, and <macros>, on every server"
    return judged("clickhouse", "replication", not missing, found, remedy)


def _state_tables(present: Present) -> Diagnosis:
    """Check that the pipeline's state tables exist, with all columns of this version."""
    wanted = state_tables()
    missing = sorted(name for name in wanted if f"cdc.{name}" not in present.relations)
    missing += sorted(
        f"{name}.{column}"
        for name, added in wanted.items()
        for column in added
        if name not in missing and column not in present.relations[f"cdc.{name}"].columns
    )
    found = f"missing: {', '.join(missing)}" if missing else "complete"
    return judged("clickhouse", "state tables", not missing, found, _INIT)


def _masks(session: ClickHouse, settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    """Yield a wrong key, or each table whose rows are masked otherwise than models and key say."""
    try:
        require_same_key(session, settings.postgres, catalog.tables)
    except NeedsPerson as error:  # it says what to do; each table would say something else
        yield failed("clickhouse", "key of masked columns", error)
        return
    noted, masked = noted_masks(session), 0
    for table in catalog.tables:
        wanted, present = masked_as(settings.postgres, table), noted.get(table.name, "")
        masked += bool(wanted)
        if wanted != present:
            found, remedy = difference(table, present, wanted, session.cluster)
            yield judged("clickhouse", f"masks of {table.name}", False, found, remedy)
    if masked:
        yield judged("clickhouse", "masks", True, f"{masked} tables have masked columns", "")


def _newest(session: ClickHouse) -> Version | SluiceError:
    """Return the newest release among the servers, or the error of one that does not answer."""
    try:
        return session.newest()
    except SluiceError as error:
        return error


def _table_differs(
    creation: Creation, table: Table, statements: Iterable[str], cluster: Cluster
) -> bool:
    """Whether `sluice init` would change the table, or leave it to a person."""
    plan = plan_of(creation.present, table, cluster)
    return plan != Plan() or bool(creation.needed(statements))


def _fact_differs(creation: Creation, fact: Fact, newest: Version | SluiceError) -> bool:
    """Whether `sluice init` would rebuild the fact or replace its view."""
    if isinstance(newest, SluiceError):
        raise newest
    columns = [column.name for column in fact.columns]
    return differs(creation.present, fact, newest) or bool(
        creation.needed([view(fact.name, columns)])
    )


def _relations(name: str, missing: Set[str], differs: Callable[[], bool]) -> Diagnosis:
    """Check that the tables and views of a table or fact exist and match the models."""
    if missing:
        return judged("clickhouse", name, False, f"missing: {', '.join(sorted(missing))}", _INIT)
    try:
        same = not differs()
    except SluiceError as error:
        return failed("clickhouse", name, error, reached=not isinstance(error, Retryable))
    found = "matches the models" if same else "differs from the models"
    return judged("clickhouse", name, same, found, _INIT)
