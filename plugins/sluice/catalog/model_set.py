"""The catalog of a module of models."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper, configure_mappers
from sqlalchemy.schema import sort_tables

from sluice.catalog.mappers import read_table
from sluice.catalog.quality_options import Expectation
from sluice.catalog.stars import Fact, make_fact
from sluice.catalog.tables import Column, Table
from sluice.data_types.mapping import LOSSLESS
from sluice.errors import WrongUsage

# Sluice's own tables in `cdc`; see sql/clickhouse/bookkeeping.sql.
BOOKKEEPING = frozenset(
    [
        "checkpoints",
        "drains",
        "rebuilds",
        "dead_letters",
        "dead_letter_dismissals",
        "quality_checks",
        "repairs",
        "resyncs",
        "resync_ranges",
        "parked",
    ]
)
_POSTGRES_BYTES = 63  # PostgreSQL truncates longer names without an error
# The limit of a table's name in `cdc` as a file name, in which a byte that is no letter, digit or _
# takes three.
_CLICKHOUSE_BYTES = 210
_PLAIN_BYTES = re.compile(rb"[A-Za-z0-9_]")
# The longest suffixes that a full rebuild and a cluster append to a name.
_FACT_SUFFIX, _ROLLUP_SUFFIX, _SUFFIX = (
    "__shadow_0123456789ab__local",
    "__touched__local",
    "__local",
)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Kafka allows


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """All tables, parents before children, and all stars of a model set."""

    models: str
    profile: str
    tables: tuple[Table, ...]
    facts: tuple[Fact, ...]
    _by_name: dict[str, Table] = field(init=False, default_factory=dict, repr=False, compare=False)

    @property
    def schemas(self) -> str:
        """Return the package of the generated schemas."""
        return schemas_package(self.models)

    def __post_init__(self) -> None:
        self._by_name.update((table.name, table) for table in self.tables)

    def table(self, name: str) -> Table:
        """Return the table of this name; WrongUsage, with the known names, without one."""
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(self._by_name)
            raise WrongUsage(f"no table {name!r} in the models (known: {known})") from None

    def expected_target(self, table: Table, column: Column, expectation: Expectation) -> Table:
        """Return the table that a relationship expectation names.

        Raises:
            WrongUsage: that table or column is not in the models.
        """
        name, wanted = expectation.argument
        for target in self.tables:
            if name in {target.name, f"{target.schema}.{target.relation}"}:
                known = [other.name for other in target.columns]
                if wanted in known:
                    return target
                break
        else:
            known = [other.name for other in self.tables]
        raise WrongUsage(
            f"quality mark of {table.name}.{column.name}: {name}.{wanted} is not in the models",
            remedy=f"use one of {', '.join(known)}",
        )

    def select(self, names: list[str] | tuple[str, ...]) -> tuple[Table, ...]:
        """Return the named tables, or all of them when none is named."""
        return tuple(self.table(name) for name in names) if names else self.tables


@lru_cache
def load_catalog(models: str, profile: str = "") -> Catalog:
    """Describe the declarative models of a module.

    Args:
        models: a module's dotted name, such as `models`.
        profile: `lossless` or `compact`. Default: that of the generated schemas.

    Raises:
        WrongUsage: the module cannot be imported, has no models, or a model cannot be mapped.
    """
    try:
        module = importlib.import_module(models)
    except ImportError as error:
        raise WrongUsage(f"cannot import models {models!r}: {error}") from error
    bases = {
        value.registry
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "registry") and hasattr(value, "metadata")
    }
    configure_mappers()
    mappers = [mapper for registry in bases for mapper in registry.mappers]
    if not mappers:
        raise WrongUsage(f"module {models!r} has no declarative SQLAlchemy models")
    catalog = describe(models, mappers, profile or _generated_profile(models))
    for table in catalog.tables:
        if not _TOPIC.fullmatch(table.topic):
            raise WrongUsage(
                f"table {table.name!r} has no topic: its name takes letters, digits and _ . -"
            )
    return catalog


def schemas_package(models: str) -> str:
    """Return the package of the models' schemas: inside their package, or beside their module."""
    module = sys.modules.get(models)
    return f"{models}.generated" if hasattr(module, "__path__") else f"{models}_generated"


def _generated_profile(models: str) -> str:
    """Read the profile from the generated schemas."""
    try:
        generated = importlib.import_module(schemas_package(models))
    except ImportError:
        return LOSSLESS
    return str(getattr(generated, "PROFILE", LOSSLESS))


def describe(models: str, mappers: Sequence[Mapper[Any]], profile: str = LOSSLESS) -> Catalog:
    """Describe these mappers as a catalog; see load_catalog."""
    by_table: dict[sa.Table, Mapper[Any]] = {}
    for mapper in mappers:  # with single-table inheritance the base class
        if isinstance(mapper.local_table, sa.Table) and not mapper.single:
            by_table[mapper.local_table] = mapper
    by_name: list[sa.Table] = sorted(by_table, key=lambda table: table.fullname)
    listed = sort_tables(by_name)
    tables = tuple(read_table(by_table[table], profile) for table in listed)
    for what in ("name", "storage", "model"):
        _require_distinct(what, [str(getattr(table, what)) for table in tables])
    by_place = {(table.schema, table.relation): table for table in tables}
    facts = tuple(make_fact(table, by_place) for table in tables if table.is_fact)
    _require_own_names(tables, facts)
    for table in tables:
        _require_short_names(table)
    catalog = Catalog(models=models, profile=profile, tables=tables, facts=facts)
    for table in tables:
        for column in table.columns:
            for expectation in column.expectations:
                if expectation.kind == "relationship":
                    catalog.expected_target(table, column, expectation)
    return catalog


def _require_own_names(tables: Sequence[Table], facts: Sequence[Fact]) -> None:
    """Require that no rollup has the name of another table in ClickHouse.

    Reserved as well are the histories' feeds, and a table's name followed by `__`.
    """
    taken = {table.storage for table in tables} | {table.history for table in tables}
    taken |= {fact.name for fact in facts} | BOOKKEEPING
    taken |= {f"{table.history}_feed" for table in tables}
    names = taken | {rollup.name for fact in facts for rollup in fact.table.rollups}
    for fact in facts:
        for rollup in fact.table.rollups:
            if rollup.name in taken or any(rollup.name.startswith(f"{n}__") for n in names):
                raise WrongUsage(
                    f"rollup {rollup.name!r} of {fact.table.name}: the name is taken in ClickHouse",
                    remedy="give the rollup another name",
                )
            taken.add(rollup.name)


def _require_short_names(table: Table) -> None:
    """Require names that PostgreSQL does not truncate and that ClickHouse's limit allows."""
    for name in (table.schema, table.relation, *(column.name for column in table.columns)):
        length = len(name.encode())
        if length > _POSTGRES_BYTES:
            raise WrongUsage(
                f"table {table.name}: the name {name!r} has {length} bytes; PostgreSQL truncates it"
                f" to {_POSTGRES_BYTES}",
                remedy="write the truncated name in the model",
            )
    entity = f"fact_{table.entity}{_FACT_SUFFIX}" if table.is_fact else table.storage + _SUFFIX
    names = {
        f"class {table.model}": entity,
        f"table {table.name}": table.history + _SUFFIX,
        **{f"rollup {rollup.name}": rollup.name + _ROLLUP_SUFFIX for rollup in table.rollups},
    }
    for of, name in names.items():
        length = sum(1 if _PLAIN_BYTES.match(bytes([byte])) else 3 for byte in name.encode())
        if length > _CLICKHOUSE_BYTES:
            raise WrongUsage(
                f"the name of {of} is too long: ClickHouse's {name} would have {length} bytes,"
                f" counting three for each byte that is no letter, digit or _; at most"
                f" {_CLICKHOUSE_BYTES} are possible",
                remedy="choose a shorter name",
            )


def _require_distinct(what: str, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise WrongUsage(
            f"two tables of the models have the {what} {twice[0]!r}",
            remedy="rename one of the models or tables",
        )
