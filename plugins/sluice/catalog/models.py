"""The catalog of a module of models, from the imported models."""

from __future__ import annotations

import importlib
import logging
import os
import re
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapper

from sluice.catalog.declared import collections, core_tables, declared, registries
from sluice.catalog.mappers import place, read_table
from sluice.catalog.masking import (
    require_maskable,
    require_same_mask,
    require_unreferred,
    require_unused,
)
from sluice.catalog.mentions import Doubt
from sluice.catalog.model_set import BOOKKEEPING, Catalog
from sluice.catalog.naming import named
from sluice.catalog.outside import mark_tables, require_matches
from sluice.catalog.sources import Sources, read_sources
from sluice.catalog.stars import Fact, make_fact
from sluice.catalog.stored import generated_profile
from sluice.catalog.tables import LeftOut, Table
from sluice.data_types.mapping import LOSSLESS
from sluice.errors import WrongUsage
from sluice.settings import project_marks, require_project

log = logging.getLogger(__name__)

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
_LIBRARIES = {"site-packages", "dist-packages", "importlib"}


def read_models(models: str, profile: str = "") -> Catalog:
    """Import the models of a module and describe them, whatever is stored; see load_catalog."""
    require_project(os.environ, models)
    sources = _sources(models)  # before the import: a file that changes now has another hash
    module = imported(models)
    mapped = registries(module)
    try:
        for registry in mapped:
            registry.configure(cascade=True)
        mappers = [mapper for registry in mapped for mapper in registry.mappers]
        others = core_tables(module, mapped)
        require_matches(_tables(mappers, others), project_marks())
        catalog = describe(models, mappers, profile or generated_profile(models), others)
    except SQLAlchemyError as error:
        raise WrongUsage(f"models {models!r}: {_line(error)}") from error
    if not catalog.tables and not catalog.left_out:
        raise WrongUsage(
            f"module {models!r} has no SQLAlchemy models",
            remedy="name a module that defines or imports them, such as the one with their Base",
        )
    if not catalog.tables:
        raise WrongUsage(
            f"no table of {models!r} can be followed: {catalog.left_out[0].reason}",
            remedy="\n".join(map(str, catalog.left_out)),
        )
    beyond = [
        table.module for table in catalog.tables if sources and not sources.hold(table.module)
    ]
    if beyond:
        log.info("the catalog of %s is not stored: %s was imported, too", models, beyond[0])
    return catalog.read_from(None if beyond else sources)


def collections_of(models: str) -> list[sa.MetaData]:
    """Import the models of a module; return every MetaData that has their tables."""
    module = imported(models)
    return collections(module, registries(module))


def imported(models: str) -> ModuleType:
    """Import a module of models; WrongUsage, in a line, whatever it raises."""
    try:
        return importlib.import_module(models)
    except ImportError as error:
        raise WrongUsage(f"cannot import models {models!r}: {_line(error)}") from error
    except (Exception, SystemExit) as error:  # the module is a person's own and can raise anything
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not _LIBRARIES & set(Path(frame.filename).parts)]
        where = (own or frames)[-1]
        raise WrongUsage(
            f"cannot import models {models!r}: {type(error).__name__}: {_line(error)}"
            f" ({where.filename}, line {where.lineno})"
        ) from error


def _line(error: BaseException) -> str:
    """Return an error's message as one line, without SQLAlchemy's link."""
    return " ".join(str(error).partition("(Background on this error")[0].split())


def _sources(models: str) -> Sources | None:
    """Return the sources of models; None, with a line in the log, where they are not enough."""
    try:
        return read_sources(models)
    except Doubt as doubt:
        log.info("the catalog of %s is not stored: %s", models, doubt)
        return None


def describe(
    models: str,
    mappers: Sequence[Mapper[Any]],
    profile: str = LOSSLESS,
    others: Sequence[sa.Table] = (),
) -> Catalog:
    """Describe the tables of these mappers, and other tables, as a catalog; see read_models."""
    mark_tables(_tables(mappers, others), project_marks())
    found = declared(mappers, others)
    places = [place(own.source) for own in found]
    names = named(places, [own.model for own in found])
    tables: list[Table] = []
    left_out: list[LeftOut] = []
    for own, called in zip(found, names, strict=True):
        table, lacking = read_table(own, called, models, profile)
        left_out += lacking
        if table is not None:
            require_maskable(table, own)
            tables.append(table)
    by_place = {(table.schema, table.relation): table for table in tables}
    facts = tuple(make_fact(table, by_place) for table in tables if table.is_fact)
    require_own_places(places)
    require_unreferred(
        {
            own.source.fullname: by_place[place]
            for own, place in zip(found, places, strict=True)
            if place in by_place
        },
        found,
    )
    require_unused(facts)
    _require_own_names(tables, facts)
    for table in tables:
        _require_short_names(table)
    catalog = Catalog(
        models=models,
        profile=profile,
        tables=tuple(tables),
        facts=facts,
        left_out=tuple(left_out),
    )
    for table in tables:
        for column in table.columns:
            for expectation in column.expectations:
                if expectation.kind == "relationship":
                    target = catalog.expected_target(table, column, expectation)
                    wanted = target.column(expectation.argument[1])
                    require_same_mask(table, column, target, wanted)
    return catalog


def _tables(mappers: Sequence[Mapper[Any]], others: Sequence[sa.Table]) -> list[sa.Table]:
    """Return the tables of mappers, and others."""
    local = [mapper.local_table for mapper in mappers]
    return [*(table for table in local if isinstance(table, sa.Table)), *others]


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


def require_own_places(places: Iterable[tuple[str, str]]) -> None:
    """Require that no two tables of the models are one in PostgreSQL: of several MetaData."""
    twice = [place for place, count in Counter(places).items() if count > 1]
    if twice:
        raise WrongUsage(
            f"the models declare table {'.'.join(twice[0])} twice, in different MetaData",
            remedy="remove one of them, or name a module that has only one",
        )
