"""Source tables as frozen descriptors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sluice.catalog.quality_options import Expectation, QualityMarks
from sluice.data_types.mapping import ColumnType


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


def ordered_by(engine: Mapping[str, str]) -> list[str]:
    """The columns that `order_by` names; none where it is not set."""
    return [name.strip() for name in engine.get("order_by", "").split(",") if name.strip()]
