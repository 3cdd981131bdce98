"""Creation of tables and views: which generated statements would change something.

`sluice init` runs these alone. It replaces no table or view that Sluice did not create.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import TableDiffers
from sluice.warehouse.present import Present, Relation, listed, unquoted

_CREATED = re.compile(
    r"^CREATE (?:OR REPLACE )?(?P<kind>(?:MATERIALIZED )?VIEW|TABLE) (?:IF NOT EXISTS )?"
    r"(?P<database>cdc|olap)\.(?P<name>`(?:\\.|[^`\\])+`|\w+)"
)
_WORDS = {"View": "a view", "MaterializedView": "a materialized view"}


def created(statements: Iterable[str]) -> set[str]:
    """Return the `database.name` of each table and view that the statements create."""
    return {_created(statement)[0] for statement in statements if _CREATED.match(statement)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """Compares statements of the generated DDL with the present state.

    Attributes:
        lacking: tables and views that another server of the cluster lacks, or has over other rows.
    """

    present: Present
    lacking: frozenset[str] = frozenset()

    def needed(self, statements: Iterable[str]) -> list[str]:
        """Return the statements that would change something on a server.

        Raises:
            TableDiffers: a table or view of that name is not Sluice's.
        """
        return [statement for statement in statements if not self._stands(statement)]

    def stands(self, place: str) -> bool:
        """Whether each server has the table or view `database.name`."""
        return place in self.present.relations and place not in self.lacking

    def require_own(self, statement: str) -> None:
        """Raise TableDiffers if the statement's table or view exists and is not Sluice's."""
        place, kind = _created(statement)
        relation = self.present.relations.get(place)
        if relation is not None and not _is_own(relation, place, kind):
            raise TableDiffers(
                f"{place} is {_described(relation)}, which Sluice did not create",
                remedy=f"rename or drop {place} in ClickHouse, then run: sluice init",
            )

    def _stands(self, statement: str) -> bool:
        self.require_own(statement)
        place, kind = _created(statement)
        relation = self.present.relations.get(place)
        if relation is None or place in self.lacking:
            return False
        if kind == "VIEW":
            return self._is_same_view(relation, place, statement)
        return kind != "Distributed" or self._is_same_distributed(relation, statement)

    def _is_same_view(self, view: Relation, place: str, statement: str) -> bool:
        """Whether the view has the statement's query, and the types that its table has now."""
        types = self.present.columns(place.partition(".")[2])
        query = statement.partition(" AS\n")[2]
        return _plain(view.query) == _plain(query) and view.columns == {
            name: types.get(name) for name in view.columns
        }

    def _is_same_distributed(self, relation: Relation, statement: str) -> bool:
        local = self.present.relations.get(f"cdc.{relation.over}")
        engine = statement.partition("ENGINE = ")[2]
        return (
            _plain(relation.full_engine) == _plain(engine)
            and local is not None
            and relation.columns == local.columns
        )


def make_creation(clickhouse: ClickHouse, present: Present) -> Creation:
    """Return the comparison with a state, for all servers of the cluster."""
    lacking: set[str] = set()
    for server in clickhouse.others():
        there = listed(server)
        lacking |= {
            place
            for place, relation in present.relations.items()
            if place not in there or there[place].over != relation.over
        }
    return Creation(present=present, lacking=frozenset(lacking))


def _created(statement: str) -> tuple[str, str]:
    """Return what a statement creates: `database.name`, and its kind."""
    match = _CREATED.match(statement)
    assert match, statement
    kind = "Distributed" if "\nENGINE = Distributed" in statement else match["kind"]
    return f"{match['database']}.{unquoted(match['name'])}", kind


def _is_own(relation: Relation, place: str, kind: str) -> bool:
    """Whether it may be Sluice's: it is of this kind, and a view is of the table of its name."""
    if kind == "TABLE":
        return relation.engine.endswith("MergeTree")
    if kind == "VIEW":
        return relation.engine == "View" and relation.over == place.partition(".")[2]
    return relation.engine == {"MATERIALIZED VIEW": "MaterializedView"}.get(kind, kind)


def _described(relation: Relation) -> str:
    return _WORDS.get(relation.engine, f"a table with the engine {relation.engine}")


def _plain(text: str) -> str:
    """Return SQL on one line without quotation of identifiers, as ClickHouse quotes other ones."""
    return " ".join(text.split()).replace("`", "")
