"""Source tables as frozen descriptors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sluice.catalog.quality_options import Expectation, QualityMarks
from sluice.data_types.mapping import ColumnType, DeclaredType, column_type

# Names of columns that Sluice adds to its tables in ClickHouse.
OWN_COLUMNS = frozenset(["_version", "_is_deleted", "_seq", "_committed_at", "_ingested_at"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a source table.

    Attributes:
        attribute: its attribute in the model.
        declared: its type in the model, from which `type` is derived.
        computed: whether only PostgreSQL sets it: a GENERATED ALWAYS key or an expression.
        generated: whether it is an expression, which a publication sends only by an option.
        in_star: whether facts contain it.
        is_date: whether it is the date of a fact's rows, for backfills.
        codec: its ClickHouse codec, or empty.
        postgres_type: its type in PostgreSQL according to the model.
        expectations: expectations of its values; see docs/quality.md. Default: none.
        comment: its description, `comment` or `doc` in the model. Default: empty.
    """

    name: str
    attribute: str
    declared: DeclaredType
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
    comment: str = ""

    @property
    def type(self) -> ColumnType:
        """Return its type at each stage of the pipeline."""
        return column_type(self.declared, nullable=self.nullable)

    @property
    def mask(self) -> str:
        """Return how its values are masked, `hash` or `redact`; empty where they are not."""
        return self.declared.mask

    @property
    def filled_with_null(self) -> bool:
        """Whether PostgreSQL fills existing rows with NULL when the column is added."""
        return self.nullable and self.type.nullable and not self.has_default

    @property
    def clickhouse_type(self) -> str:
        """Return the full ClickHouse type, with dictionary and NULL."""
        return clickhouse_type(self, nullable=self.nullable)

    @property
    def wire_type(self) -> str:
        """Return the ClickHouse type in which the driver sends its values."""
        plain = self.type.wire or self.type.clickhouse
        return f"Nullable({plain})" if self.nullable and self.type.nullable else plain


def clickhouse_type(column: Column, *, nullable: bool) -> str:
    """Return the column's ClickHouse type with or without NULL; an Array is never NULL."""
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
        by: (name, expression over the fact's columns) of each grouping column.
        sums: (name, expression) of each summed column.
    """

    name: str
    by: tuple[tuple[str, str], ...]
    sums: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A source table, its topic and its tables in ClickHouse.

    Attributes:
        name: name in topics, checkpoints and commands: that of the table in PostgreSQL,
            `order_items`, prefixed with a schema other than `public`: `crm_people`; see naming.py.
        schema, relation: schema and name in PostgreSQL.
        model: the model's class name, `OrderItem`; for a table without a class, or whose class
            has the name of another's, made from `name`.
        entity: the same in snake case, `order_item`, as in ClickHouse's names.
        is_fact: whether the table is the grain of a fact.
        in_star: whether it can be a dimension of facts.
        engine: options of its ClickHouse tables, such as `partition_by`.
        rollups: the rollups of its fact.
        quality: limits and severities of its checks.
        excluded: columns of the model that are not followed. The relay does not send them.
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
    excluded: tuple[str, ...] = ()

    @cached_property
    def key(self) -> tuple[Column, ...]:
        """Return the primary key's columns, in the key's order."""
        return tuple(column for column in self.columns if column.primary_key)

    @property
    def topic(self) -> str:
        """Return the topic that carries this table's changes."""
        return f"cdc.{self.name}"

    @property
    def storage(self) -> str:
        """Return the current-state table in database `cdc`."""
        return f"src_{self.entity}" if self.is_fact else f"dim_{self.entity}"

    @property
    def history(self) -> str:
        """Return the table of every version, in database `cdc`."""
        return f"history_{self.name}"

    def sends(self, name: str) -> bool:
        """Whether the relay sends PostgreSQL's column of this name.

        A column that the model lacks is sent, except by a table with columns that are masked or
        excluded: one of those may have been renamed in PostgreSQL.
        """
        hides = bool(self.masked or self.excluded)
        known = not hides or any(column.name == name for column in self.columns)
        return known and name not in self.excluded

    @cached_property
    def masked(self) -> tuple[Column, ...]:
        """Return the columns whose values are masked before they leave PostgreSQL's side."""
        return tuple(column for column in self.columns if column.mask)

    def column(self, name: str) -> Column:
        """Return the column of this name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A table or column of the models that cannot be followed.

    Attributes:
        table: its name, as in Table.
        column: its name; empty for the whole table.
    """

    table: str
    column: str = ""
    reason: str
    remedy: str

    def __str__(self) -> str:
        """Return one line: which, why, and what to write."""
        of = f"column {self.table}.{self.column}" if self.column else f"table {self.table}"
        return f"{of} is left out: it {self.reason}; {self.remedy}"


def ordered_by(engine: Mapping[str, str]) -> list[str]:
    """Return the columns that `order_by` names; none where it is not set."""
    return [name.strip() for name in engine.get("order_by", "").split(",") if name.strip()]
