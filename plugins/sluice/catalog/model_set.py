"""A model set: all tables and stars."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property

from sluice.catalog.disk import INIT, Disk
from sluice.catalog.quality_options import Expectation
from sluice.catalog.sources import Sources
from sluice.catalog.stars import Fact
from sluice.catalog.tables import Column, LeftOut, Table
from sluice.errors import WrongUsage
from sluice.printable import named

# Sluice's own tables in `cdc`; see sql/bookkeeping.sql.
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
        "masks",
        "erasures",
    ]
)


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """All tables, parents before children, and all stars of a model set.

    Attributes:
        left_out: tables and columns of the models that cannot be followed.
        sources: the sources of the models; None if they alone do not decide what the models are,
            and in a catalog that is not read from models.
    """

    models: str
    profile: str
    tables: tuple[Table, ...]
    facts: tuple[Fact, ...]
    left_out: tuple[LeftOut, ...] = ()
    sources: Sources | None = field(init=False, default=None, repr=False, compare=False)
    _by_name: dict[str, Table] = field(init=False, default_factory=dict, repr=False, compare=False)

    @cached_property
    def schemas(self) -> str:
        """The package of the generated schemas: inside the models' package or beside the module."""
        path = Disk().located(self.models)
        package = hasattr(sys.modules.get(self.models), "__path__")
        if package or (path is not None and path.name == INIT):
            return f"{self.models}.generated"
        return f"{self.models}_generated"

    def __post_init__(self) -> None:
        self._by_name.update((table.name, table) for table in self.tables)

    def read_from(self, sources: Sources | None) -> Catalog:
        """Note the sources that the catalog was read from; return it."""
        object.__setattr__(self, "sources", sources)
        return self

    def table(self, name: str) -> Table:
        """Return the table of this name; WrongUsage, with the known names, without one."""
        try:
            return self._by_name[name]
        except KeyError:
            known = named(self._by_name)
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
