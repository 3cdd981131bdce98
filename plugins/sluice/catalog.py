"""The models as frozen descriptors: the one description that every other module reads.

`load_catalog("models")` imports the models and describes their tables and stars. Generators,
the pipeline and the DAGs know tables only through this module.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapper, configure_mappers
from sqlalchemy.orm.interfaces import MANYTOONE
from sqlalchemy.schema import sort_tables

from sluice.errors import WrongUsage
from sluice.marks import Expectation, QualityMarks, expectations, quality_marks
from sluice.type_map import LOSSLESS, ColumnType, column_type

# What `info` of a table may say of its ClickHouse tables.
ENGINE_MARKS = ("order_by", "partition_by", "settings", "history")
_PUBLIC = "public"
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Kafka allows
_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]
Place = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a source table.

    Attributes:
        attribute: the model's name for it.
        computed: whether Postgres alone gives its value: a key that is GENERATED ALWAYS, or an
            expression.
        generated: whether it is an expression, which PostgreSQL sends only when told to.
        in_star: whether facts carry it.
        is_date: whether a fact's rows belong to its day, for backfills.
        codec: its ClickHouse codec, or empty.
        postgres_type: the type the model gives it in PostgreSQL.
        expectations: what it is expected to hold; see docs/quality.md.
    """

    name: str
    attribute: str
    type: ColumnType
    nullable: bool
    primary_key: bool
    has_default: bool
    computed: bool
    generated: bool
    low_cardinality: bool
    in_star: bool
    is_date: bool
    codec: str
    postgres_type: str
    expectations: tuple[Expectation, ...] = ()

    @property
    def filled_with_null(self) -> bool:
        """Whether Postgres fills it with NULL in the rows that are there when it is added."""
        return self.nullable and self.type.nullable and not self.has_default

    @property
    def clickhouse_type(self) -> str:
        """The full ClickHouse type: dictionary and NULL included."""
        return clickhouse_type(self, nullable=self.nullable)

    @property
    def wire_type(self) -> str:
        """The ClickHouse type that the driver sends its values as."""
        plain = self.type.wire or self.type.clickhouse
        return f"Nullable({plain})" if self.nullable and self.type.nullable else plain


def clickhouse_type(column: Column, *, nullable: bool) -> str:
    """The ClickHouse type of the column where NULL is allowed or not; an Array is never NULL."""
    plain = column.type.clickhouse
    inner = f"Nullable({plain})" if nullable and column.type.nullable else plain
    return f"LowCardinality({inner})" if column.low_cardinality else inner


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A many-to-one relationship: `columns` of this table hold the key of `target`.

    Attributes:
        target: schema and relation.
    """

    name: str
    columns: tuple[str, ...]
    target: tuple[str, str]
    target_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollup:
    """Sums of a fact by groups, kept current with it.

    Attributes:
        name: its view in `olap` and its table in `cdc`.
        by: (name, expression over the fact's columns) of what groups are made of.
        sums: the same of what is summed.
    """

    name: str
    by: tuple[tuple[str, str], ...]
    sums: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A source table and what becomes of it.

    Attributes:
        name: what topics, checkpoints and commands call it: the table in Postgres,
            `order_items`, behind its schema where that is not `public`: `crm_people`.
        schema, relation: its place in Postgres.
        model: the model's class name, `OrderItem`.
        entity: the model's name in snake case, `order_item`; ClickHouse names are made of it.
        is_fact: whether the table is the grain of a fact.
        in_star: whether facts take it as a dimension.
        engine: what the models say of its ClickHouse tables, such as `partition_by`.
        rollups: what is summed from its fact.
        quality: limits and severities of its checks.
    """

    name: str
    schema: str
    relation: str
    model: str
    module: str
    entity: str
    doc: str
    columns: tuple[Column, ...]
    references: tuple[Reference, ...]
    is_fact: bool
    in_star: bool
    engine: Mapping[str, str]
    rollups: tuple[Rollup, ...]
    quality: QualityMarks

    @cached_property
    def key(self) -> tuple[Column, ...]:
        """The primary key's columns, in the key's order."""
        return tuple(column for column in self.columns if column.primary_key)

    @property
    def topic(self) -> str:
        """The topic that carries this table's changes."""
        return f"cdc.{self.name}"

    @property
    def storage(self) -> str:
        """The current-state table in database `cdc`."""
        return f"src_{self.entity}" if self.is_fact else f"dim_{self.entity}"

    @property
    def history(self) -> str:
        """The table of every version, in database `cdc`."""
        return f"history_{self.name}"

    def column(self, name: str) -> Column:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A table that a fact reaches over many-to-one relationships.

    Attributes:
        prefix: what its columns' names begin with in the fact.
        parent: the prefix of the dimension that refers to it; None for the fact's own reference.
        reference: the relationship by which `parent` refers to it.
    """

    prefix: str
    table: Table
    parent: str | None
    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class FactColumn:
    """A column of the fact and where its value comes from.

    Attributes:
        source: a dimension's prefix, or None for the fact's own table.
    """

    name: str
    source: str | None
    column: Column

    @property
    def clickhouse_type(self) -> str:
        """A dimension's attribute is NULL while the dimension's row is not there."""
        return clickhouse_type(
            self.column, nullable=self.column.nullable or self.source is not None
        )


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A star: the fact's own table, its dimensions (parents first) and its columns."""

    table: Table
    dimensions: tuple[Dimension, ...]
    columns: tuple[FactColumn, ...]

    @property
    def name(self) -> str:
        """The fact's name in `olap` and `cdc`, `fact_order_item`."""
        return f"fact_{self.table.entity}"

    @cached_property
    def key(self) -> tuple[FactColumn, ...]:
        """The columns that hold the fact's primary key."""
        return tuple(
            column for column in self.columns if column.source is None and column.column.primary_key
        )

    @cached_property
    def date(self) -> FactColumn | None:
        """The column whose day a row belongs to; None where the models mark none."""
        return next((column for column in self.columns if column.column.is_date), None)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Every source table of the star, the fact's own first."""
        distinct = {self.table.name: self.table}
        distinct.update((dimension.table.name, dimension.table) for dimension in self.dimensions)
        return tuple(distinct.values())

    def fact_column(self, source: str | None, column: str) -> str:
        """The name in the fact of a source's column, or of a referred key."""
        for candidate in self.columns:
            if candidate.source == source and candidate.column.name == column:
                return candidate.name
        dimension = next(d for d in self.dimensions if d.prefix == source)
        at = dimension.reference.target_columns.index(column)
        return self.fact_column(dimension.parent, dimension.reference.columns[at])


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """All tables, parents before children, and all stars of a model set."""

    models: str
    profile: str
    tables: tuple[Table, ...]
    facts: tuple[Fact, ...]
    _by_name: dict[str, Table] = field(default_factory=dict, repr=False, compare=False)

    @property
    def schemas(self) -> str:
        """The package of the generated schemas."""
        return schemas_package(self.models)

    def __post_init__(self) -> None:
        self._by_name.update((table.name, table) for table in self.tables)

    def table(self, name: str) -> Table:
        """The table of this name; WrongUsage, naming the known ones, when there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(self._by_name)
            raise WrongUsage(f"no table {name!r} in the models (known: {known})") from None

    def expected_target(self, table: Table, column: Column, expectation: Expectation) -> Table:
        """The table that a relationship expectation names.

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
        """The named tables, or all of them when none is named."""
        return tuple(self.table(name) for name in names) if names else self.tables


@lru_cache
def load_catalog(models: str, profile: str = "") -> Catalog:
    """Describe the declarative models of a module.

    Args:
        models: a module's dotted name, such as `models`.
        profile: `lossless` or `compact`; the one that was generated with, when empty.

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
    """Where the schemas of a module of models are: in it, or beside it where it is one file."""
    module = sys.modules.get(models)
    return f"{models}.generated" if hasattr(module, "__path__") else f"{models}_generated"


def _generated_profile(models: str) -> str:
    """The profile that stands in the generated schemas."""
    try:
        generated = importlib.import_module(schemas_package(models))
    except ImportError:
        return LOSSLESS
    return str(getattr(generated, "PROFILE", LOSSLESS))


def describe(models: str, mappers: Sequence[Mapper[Any]], profile: str = LOSSLESS) -> Catalog:
    """The catalog of these mappers; see load_catalog."""
    by_table: dict[sa.Table, Mapper[Any]] = {}
    for mapper in mappers:  # of a single table's classes the one they derive from
        if isinstance(mapper.local_table, sa.Table) and not mapper.single:
            by_table[mapper.local_table] = mapper
    by_name: list[sa.Table] = sorted(by_table, key=lambda table: table.fullname)
    listed = sort_tables(by_name)
    tables = tuple(_table(by_table[table], profile) for table in listed)
    for what in ("name", "storage", "model"):
        _require_distinct(what, [str(getattr(table, what)) for table in tables])
    by_place = {(table.schema, table.relation): table for table in tables}
    facts = tuple(_fact(table, by_place) for table in tables if table.is_fact)
    catalog = Catalog(models=models, profile=profile, tables=tables, facts=facts)
    for table in tables:
        for column in table.columns:
            for expectation in column.expectations:
                if expectation.kind == "relationship":
                    catalog.expected_target(table, column, expectation)
    return catalog


def _require_distinct(what: str, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise WrongUsage(
            f"two tables of the models have the {what} {twice[0]!r}",
            remedy="rename one of the models or tables",
        )


def _engine(source: sa.Table) -> dict[str, str]:
    """What the marks say of a table's storage; its order is the key's columns in some order."""
    engine = {name: str(source.info[name]) for name in ENGINE_MARKS if name in source.info}
    key = sorted(str(column.name) for column in source.primary_key.columns)
    if sorted(ordered_by(engine) or key) != key:
        raise WrongUsage(
            f"table {source.fullname}: order_by is {engine['order_by']!r}, not the key's columns",
            remedy=f"name each of {', '.join(key)} once, in the order you want",
        )
    return engine


def ordered_by(engine: Mapping[str, str]) -> list[str]:
    """The columns that `order_by` names; none where it is not set."""
    return [name.strip() for name in engine.get("order_by", "").split(",") if name.strip()]


def _table(mapper: Mapper[Any], profile: str) -> Table:
    source = mapper.local_table
    assert isinstance(source, sa.Table)
    if not source.primary_key.columns:
        raise WrongUsage(f"table {source.fullname} has no primary key; changes need one")
    schema = str(source.schema or _PUBLIC)
    relation = str(source.name)  # SQLAlchemy's names are a subclass of str; ours travel as JSON
    return Table(
        name=relation if schema == _PUBLIC else f"{schema}_{relation}",
        schema=schema,
        relation=relation,
        model=mapper.class_.__name__,
        module=mapper.class_.__module__,
        entity=_snake_case(mapper.class_.__name__),
        doc=(mapper.class_.__doc__ or "").strip(),
        columns=tuple(_columns(mapper, source, profile)),
        references=tuple(_references(mapper)),
        is_fact=source.info.get("star") == "fact",
        in_star=source.info.get("star") != "skip",
        engine=_engine(source),
        rollups=tuple(_rollups(source)),
        quality=quality_marks(source.fullname, source.info.get("quality", {})),
    )


def _rollups(source: sa.Table) -> Iterator[Rollup]:
    for name, mark in source.info.get("rollups", {}).items():
        try:
            by, sums = tuple(mark["by"].items()), tuple(mark["sum"].items())
        except (AttributeError, KeyError, TypeError):
            by, sums = (), ()
        if not by or not sums:
            raise WrongUsage(
                f"rollup {name!r} of {source.fullname} does not say what is summed by what",
                remedy='mark it as {"by": {name: expression}, "sum": {name: expression}}',
            )
        yield Rollup(name=str(name), by=by, sums=sums)


def _columns(mapper: Mapper[Any], source: sa.Table, profile: str) -> Iterator[Column]:
    for column in source.columns:
        serial = column.primary_key and column is source.autoincrement_column
        given = column.default is not None or column.server_default is not None
        mapped = column_type(column, profile)
        always = column.identity is not None and bool(column.identity.always)
        if column.computed is not None and column.computed.persisted is not True:
            raise WrongUsage(
                f"column {source.fullname}.{column.name} is computed when it is read;"
                " PostgreSQL does not send it",
                remedy="make it Computed(..., persisted=True), or leave it out of the model",
            )
        yield Column(
            name=str(column.name),
            attribute=mapper.get_property_by_column(column).key,
            type=mapped,
            nullable=bool(column.nullable),
            primary_key=column.primary_key,
            has_default=serial or given or column.identity is not None,
            computed=column.computed is not None or always,
            generated=column.computed is not None,
            low_cardinality=bool(column.info.get("low_cardinality", mapped.dictionary)),
            in_star=column.info.get("star") != "skip",
            is_date=column.info.get("star") == "date",
            codec=str(column.info.get("codec", "")),
            postgres_type=column.type.compile(dialect=_POSTGRES),
            expectations=tuple(
                expectations(f"{source.fullname}.{column.name}", column.info.get("expect", {}))
            ),
        )


def _references(mapper: Mapper[Any]) -> Iterator[Reference]:
    for relationship in mapper.relationships:
        target = relationship.mapper.local_table
        if relationship.direction is not MANYTOONE or not isinstance(target, sa.Table):
            continue
        pairs = relationship.local_remote_pairs or []
        keys = {remote for _, remote in pairs}
        if keys != set(target.primary_key.columns):
            continue  # it does not lead to one row by its key
        yield Reference(
            name=relationship.key,
            columns=tuple(str(local.name) for local, _ in pairs),
            target=(str(target.schema or _PUBLIC), str(target.name)),
            target_columns=tuple(str(remote.name) for _, remote in pairs),
        )


def _fact(table: Table, tables: Mapping[Place, Table]) -> Fact:
    dimensions = tuple(_dimensions(table, tables))
    columns = tuple(_fact_columns(table, dimensions))
    twice = [name for name, count in Counter(c.name for c in columns).items() if count > 1]
    if twice:
        raise WrongUsage(
            f"fact of {table.name}: two columns would be named {twice[0]!r}",
            remedy="rename one of the columns or relationships they come from",
        )
    return Fact(table=table, dimensions=dimensions, columns=columns)


def _dimensions(table: Table, tables: Mapping[Place, Table]) -> Iterator[Dimension]:
    paths = list(_paths(table, tables, ()))
    reached = Counter(path[-1].target for path in paths)
    prefixes: dict[tuple[Reference, ...], str] = {}
    for path in paths:
        target = tables[path[-1].target]
        alone = reached[path[-1].target] == 1 and target is not table
        prefix = target.entity if alone else "_".join(reference.name for reference in path)
        prefixes[path] = prefix
        yield Dimension(
            prefix=prefix,
            table=target,
            parent=prefixes.get(path[:-1]),
            reference=path[-1],
        )


def _paths(
    table: Table, tables: Mapping[Place, Table], path: tuple[Reference, ...]
) -> Iterator[tuple[Reference, ...]]:
    """Every way out of the table over many-to-one relationships, parents first.

    A way ends where it would take the same relationship twice (a manager's manager).
    """
    for reference in table.references:
        target = tables.get(reference.target)
        if target is not None and target.in_star and reference not in path:
            longer = (*path, reference)
            yield longer
            yield from _paths(target, tables, longer)


def _fact_columns(table: Table, dimensions: tuple[Dimension, ...]) -> Iterator[FactColumn]:
    """Keys first, then the fact's own columns, then each dimension's."""
    own_references = {name for reference in table.references for name in reference.columns}
    for column in table.columns:
        if column.primary_key:
            yield _fact_column(table.entity, None, column)
    for column in table.columns:
        if column.name in own_references and not column.primary_key:
            yield FactColumn(name=column.name, source=None, column=column)
    for dimension in dimensions:
        if dimension.parent is not None:
            yield from _referring_columns(dimension, dimensions)
    for column in table.columns:
        if not column.primary_key and column.name not in own_references and column.in_star:
            yield FactColumn(name=column.name, source=None, column=column)
    for dimension in dimensions:
        referring = {name for r in dimension.table.references for name in r.columns}
        for column in dimension.table.columns:
            if column.name not in referring and not column.primary_key and column.in_star:
                yield _fact_column(dimension.prefix, dimension.prefix, column)


def _referring_columns(
    dimension: Dimension, dimensions: tuple[Dimension, ...]
) -> Iterator[FactColumn]:
    """The parent's columns that hold this dimension's key, named as that key."""
    parent = next(d for d in dimensions if d.prefix == dimension.parent)
    reference = dimension.reference
    for name, target in zip(reference.columns, reference.target_columns, strict=True):
        named = _prefixed(dimension.prefix, target)
        yield FactColumn(name=named, source=parent.prefix, column=parent.table.column(name))


def _fact_column(prefix: str, source: str | None, column: Column) -> FactColumn:
    return FactColumn(name=_prefixed(prefix, column.name), source=source, column=column)


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith(f"{prefix}_") else f"{prefix}_{name}"


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
