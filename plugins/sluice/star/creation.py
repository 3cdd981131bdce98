"""Creates one fact, its rollups and their views, as far as ClickHouse lacks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sluice.catalog import Fact
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.generate.rollups import noted
from sluice.generate.sql_files import PIPELINE, read_statements
from sluice.generate.statements import FactStatements
from sluice.star.fact_tables import FactStorage
from sluice.warehouse.creation import Creation, created
from sluice.warehouse.present import read_present
from sluice.warehouse.star_form import differs, kinds_of_facts, rollups_made


@dataclass(frozen=True, slots=True, kw_only=True)
class Star:
    """One fact with its rollups, and the state that ClickHouse had of them.

    Attributes:
        made: rollup -> whether it exists as in the models, or why ClickHouse refuses it.
        differs: whether the fact's table differs from the models, so that it has to be rebuilt.
    """

    fact: Fact
    statements: FactStatements
    creation: Creation
    made: Mapping[str, bool | SluiceError]
    differs: bool

    @property
    def name(self) -> str:
        """Return the fact's name."""
        return self.fact.name

    def read_again(self, clickhouse: ClickHouse) -> Star:
        """Return the star with the present state: another `sluice init` may have changed it."""
        names = {place.partition(".")[2] for place in created(self.statements.texts())}
        present = read_present(clickhouse, kinds_of_facts([self.fact]), names)
        return replace(
            self,
            creation=replace(self.creation, present=present),
            made=rollups_made(clickhouse, [self.fact], present),
            differs=differs(present, self.fact, clickhouse.newest()),
        )

    def is_unlike(self) -> bool:
        """Whether the fact has to be rebuilt, or a statement would change something.

        Raises:
            SluiceError: ClickHouse refuses a rollup, or a table or view is not Sluice's.
        """
        self.creation.require_own(self.statements.fact_distributed or self.statements.fact)
        missing = [any(self._missing(name)) for name in self.statements.rollups]
        return self.differs or not self._stands() or any(missing) or bool(self._missing_view())

    @property
    def existed(self) -> bool:
        """Return whether the fact had a table."""
        return f"cdc.{self.name}" in self.creation.present.relations

    @property
    def recreates(self) -> bool:
        """Return whether a rollup of an existing fact has to be recreated, and then summed."""
        return self.existed and not all(self.made[name] for name in self.statements.rollups)

    def create(self, clickhouse: ClickHouse) -> None:
        """Create what is missing; the view of a fact that differs is left to its rebuild."""
        if not self._stands():
            queries = read_statements(PIPELINE)
            tables = FactStorage(clickhouse=clickhouse, fact=self.fact, queries=queries)
            tables.create(self.fact.name)
            tables.follow()
        for name in self.statements.rollups:
            everywhere, here = self._missing(name)
            if not self.made[name]:
                self._drop_former(clickhouse, name)
            for statement in everywhere:
                clickhouse.everywhere(statement)
            for statement in here:
                clickhouse.execute(statement)
        if not self.differs:
            for statement in self._missing_view():
                clickhouse.everywhere(statement)

    def _drop_former(self, clickhouse: ClickHouse, name: str) -> None:
        """Drop a rollup of other models, of which another server may have a part."""
        cluster, relations = clickhouse.cluster, self.creation.present.relations
        if cluster.name or {f"cdc.{name}", f"cdc.{noted(name)}"} & relations.keys():
            drop_rollup(clickhouse, name)

    def _stands(self) -> bool:
        """Whether each server has the fact's table and that of its rows."""
        local = self.creation.present.local(self.name)
        return all(self.creation.stands(f"cdc.{table}") for table in (self.name, local))

    def _missing_view(self) -> list[str]:
        return self.creation.needed([self.statements.view])

    def _missing(self, name: str) -> tuple[list[str], list[str]]:
        """Return a rollup's statements to run on each server, and on this one alone."""
        is_made = self.made[name]
        if isinstance(is_made, SluiceError):
            raise is_made
        rollup = self.statements.rollups[name]
        everywhere = [text for text in (rollup.table, rollup.distributed, rollup.view) if text]
        missing = self.creation.needed(everywhere)
        here = replace(self.creation, lacking=frozenset()).needed([rollup.noted])
        if not is_made:
            return everywhere, [rollup.noted, rollup.noted_by]
        if "_rebuild" not in self.creation.present.columns(noted(name)):
            here.append(rollup.noted_by)
        return missing, here


def drop_rollup(clickhouse: ClickHouse, name: str) -> None:
    """Drop a rollup's tables, the rows last: their table marks that the rollup exists."""
    for table in (noted(name), clickhouse.cluster.local(name), name):
        clickhouse.drop(table)
