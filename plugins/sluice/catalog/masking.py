"""What the mark `mask` is not possible on; each error names the class and the column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from sluice.catalog.declared import Declared
from sluice.catalog.stars import Fact
from sluice.catalog.tables import Column, Table
from sluice.data_types.masks import HASH, MASKS
from sluice.errors import WrongUsage

# Names of columns that may hold secrets, or by which a person is known everywhere.
_SECRET = re.compile(
    r"passw|token|secret|api_?key|private_key|salt$|credit_?card|card_?number|passport"
    r"|(^|_)(ssn|iban|cvv|cvc)($|_)",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"(^|_)tokens(_|$)", re.IGNORECASE)
_NUMBERS = frozenset(["smallint", "integer", "bigint", "numeric", "real", "float"])
_FEW_VALUES = frozenset(["boolean", "enum"])
_OF_VALUES = frozenset(["range", "values"])  # expectations of the values themselves
_HIDE = 'leave it out instead: "exclude": True'


def looks_secret(name: str, *, number: bool) -> bool:
    """Whether a column of this name may hold secrets, so that a person should decide.

    Args:
        number: whether its values are numbers; of `input_tokens` they are counts.
    """
    return _SECRET.search(_TOKENS.sub("", name) if number else name) is not None


def candidates(tables: Iterable[Table]) -> list[str]:
    """Return the columns that look like secrets and are not masked, as `table.column`."""
    return [
        f"{table.name}.{column.name}"
        for table in tables
        for column in table.columns
        if looks_secret(column.name, number=column.declared.kind in _NUMBERS)
        and not column.mask
        and not column.primary_key
    ]


def require_maskable(table: Table, declared: Declared) -> None:
    """Require that the masks of a table's columns are possible.

    Raises:
        WrongUsage: one is not.
    """
    for column in declared.source.columns:
        mask = column.info.get("mask")
        if mask in (None, False) or column.info.get("exclude"):
            continue
        if mask not in MASKS:
            raise _wrong(
                table, column.name, f"{mask!r} is no mask", f"write one of: {', '.join(MASKS)}"
            )
        if str(column.name) in table.excluded:
            continue
        for reason, remedy in _reasons(table, table.column(str(column.name)), column):
            raise _wrong(table, column.name, reason, remedy)
    for column in declared.source.columns:
        if column.computed is not None and str(column.name) not in _hidden(table):
            _require_own_source(table, column)


def _reasons(table: Table, column: Column, source: sa.Column[Any]) -> Iterator[tuple[str, str]]:
    """Yield why a column cannot be masked, each with a remedy."""
    referring = {name for reference in table.references for name in reference.columns}
    if column.primary_key:
        yield "it is part of the primary key", "exclude the whole table, or mask other columns"
    if source.foreign_keys or column.name in referring:
        yield "it refers to another table", "mask the columns of that table"
    if column.is_date:
        yield "it is the date of a fact", 'remove the mark "star": "date", or the mask'
    if column.declared.clickhouse:
        yield "its masked values are texts", "remove the mark clickhouse_type"
    if column.mask == HASH and column.declared.kind in _FEW_VALUES:
        yield "so few values can be told by how often each occurs", 'write "redact"'
    if any(expectation.kind in _OF_VALUES for expectation in column.expectations):
        yield "its values are expected to be of a range or list", "remove that expectation"


def _require_own_source(table: Table, column: sa.Column[Any]) -> None:
    """Require that a computed column is not computed from a masked one."""
    assert column.computed is not None
    text = str(column.computed.sqltext)
    for masked in table.masked:
        if _mentions(text, masked.name):
            raise _wrong(
                table,
                column.name,
                f"it is computed from {masked.name}",
                f"mask it too, or {_HIDE}",
                what="has to be masked",
            )


def require_unreferred(tables: Mapping[str, Table], declared: Iterable[Declared]) -> None:
    """Require that no foreign key refers to a masked column, whose values it would have.

    Args:
        tables: by full name of the table in the models.

    Raises:
        WrongUsage: one does.
    """
    masked = {
        f"{name}.{c.name}": (table, c) for name, table in tables.items() for c in table.masked
    }
    for own in declared:
        for key in own.source.foreign_keys:
            if key.target_fullname in masked and not key.parent.info.get("exclude"):
                table, column = masked[key.target_fullname]
                by = f"{own.source.fullname}.{key.parent.name}"
                raise _wrong(table, column.name, f"{by} refers to it", _HIDE)


def require_unused(facts: Sequence[Fact]) -> None:
    """Require that rollups neither sum nor convert masked columns.

    Raises:
        WrongUsage: one does.
    """
    for fact in facts:
        masked = [column for column in fact.columns if column.column.mask]
        for rollup in fact.table.rollups:
            used = [*rollup.sums, *((n, text) for n, text in rollup.by if not _is_name(text))]
            for column in masked:
                for _, text in used:
                    if _mentions(text, column.name):
                        raise WrongUsage(
                            f"rollup {rollup.name} of class {fact.table.model} computes with"
                            f" {column.name}, which is masked",
                            remedy="group by the column as it is, or remove its mask",
                        )


def require_same_mask(table: Table, column: Column, target: Table, wanted: Column) -> None:
    """Require that columns whose values are expected to be equal are masked alike.

    Raises:
        WrongUsage: they are not.
    """
    if column.mask != wanted.mask:
        raise _wrong(
            table,
            column.name,
            f"its values are expected in {target.name}.{wanted.name}",
            "mask both columns in the same way, or remove the expectation",
            what="is masked in another way" if column.mask else "is not masked",
        )


def _hidden(table: Table) -> set[str]:
    return {*table.excluded, *(column.name for column in table.masked)}


def _is_name(text: str) -> bool:
    return re.fullmatch(r"\w+|`[^`]+`|\"[^\"]+\"", text.strip()) is not None


def _mentions(text: str, name: str) -> bool:
    """Whether an expression has the name as a word."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _wrong(
    table: Table, column: object, reason: str, remedy: str, *, what: str = "cannot be masked"
) -> WrongUsage:
    return WrongUsage(f"class {table.model}: column {column} {what}: {reason}", remedy=remedy)
