"""The tables that a module of models declares, whatever the mapping style."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm import Mapper, registry
from sqlalchemy.schema import sort_tables_and_constraints


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A table of the models.

    Attributes:
        source: the table.
        mappers: its mappers, that of the base class of a hierarchy first; none without a class.
    """

    source: sa.Table
    mappers: tuple[Mapper[Any], ...]

    @property
    def model(self) -> str:
        """Return the name of its class; empty without one."""
        return self.mappers[0].class_.__name__ if self.mappers else ""

    @property
    def module(self) -> str:
        """Return the module of its class; empty without one, or if SQLAlchemy made the class."""
        module = self.mappers[0].class_.__module__ if self.mappers else ""
        return "" if module.partition(".")[0] == "sqlalchemy" else module

    @property
    def doc(self) -> str:
        """Return the docstring of its class or the table's comment, without a dataclass's own."""
        doc = cleandoc(self.mappers[0].class_.__doc__ or "") if self.mappers else ""
        made = doc.startswith(f"{self.model}(")  # by the dataclasses module: the signature
        return doc if doc and not made else cleandoc(self.source.comment or "")

    def attribute(self, column: sa.Column[Any]) -> str:
        """Return the attribute of the class, or of a subclass, that holds a column."""
        for mapper in self.mappers:
            if mapper.columns.contains_column(column):
                return mapper.get_property_by_column(column).key
        return str(column.key)


def declared(
    mappers: Iterable[Mapper[Any]], tables: Iterable[sa.Table] = ()
) -> tuple[Declared, ...]:
    """Return the tables of mappers, and others, parents before children, without excluded ones."""
    by_table: dict[sa.Table, list[Mapper[Any]]] = {table: [] for table in tables}
    for mapper in sorted(mappers, key=_depth):
        if isinstance(mapper.local_table, sa.Table):
            by_table.setdefault(mapper.local_table, []).append(mapper)
    by_name = sorted(by_table, key=lambda table: table.fullname)
    listed: list[tuple[sa.Table | None, Any]] = sort_tables_and_constraints(  # type: ignore[no-untyped-call]
        by_name, filter_fn=_refers_nowhere
    )
    return tuple(
        Declared(source=table, mappers=tuple(by_table[table]))
        for table, _ in listed
        if table is not None and table in by_table and not table.info.get("exclude")
    )


def _depth(mapper: Mapper[Any]) -> tuple[bool, int, str, str]:
    """Return a sort key by which a table's most general class is first."""
    above = sum(1 for _ in mapper.iterate_to_root())
    return mapper.single, above, mapper.class_.__module__, mapper.class_.__qualname__


def _refers_nowhere(constraint: sa.ForeignKeyConstraint) -> bool | None:
    """Whether a foreign key refers to a table that is not there; None for SQLAlchemy's order."""
    try:
        return None if constraint.referred_table is not None else True
    except NoReferenceError:
        return True


def registries(module: ModuleType) -> list[registry]:
    """Return the registries of mapped classes in a module, or in the modules of a package."""
    found = {}
    for value in _values(module):
        if _is(value, registry):
            found[id(value)] = value
        elif _is(value, type):
            mapper = sa.inspect(value, raiseerr=False)
            own = mapper.registry if _is(mapper, Mapper) else getattr(value, "registry", None)
            if _is(own, registry):
                found[id(own)] = own
    return list(found.values())


def collections(module: ModuleType, mapped: Sequence[registry]) -> list[sa.MetaData]:
    """Return every MetaData of a module: its own, and those of its tables and mapped classes."""
    found: dict[sa.MetaData, None] = {}
    for value in _values(module):
        if _is(value, sa.MetaData):
            found[value] = None
        elif _is(value, sa.Table):
            found[value.metadata] = None
    for own in mapped:
        found[own.metadata] = None
        tables = (mapper.local_table for mapper in own.mappers)
        found.update((table.metadata, None) for table in tables if isinstance(table, sa.Table))
    return list(found)


def core_tables(module: ModuleType, mapped: Sequence[registry]) -> list[sa.Table]:
    """Return all tables beside those of mapped classes: of each MetaData, and single ones."""
    found = [own.tables.values() for own in collections(module, mapped)]
    return list(dict.fromkeys(table for tables in found for table in tables))


def _values(module: ModuleType) -> Iterator[Any]:
    """Yield what a module holds, and the imported modules of a package."""
    for name in sorted(sys.modules):
        if name == module.__name__ or name.startswith(f"{module.__name__}."):
            yield from list(vars(sys.modules[name]).values())


def _is(value: object, kind: type) -> bool:
    """Whether a value is of a type; unlike `isinstance` it asks no proxy."""
    return issubclass(type(value), kind)
