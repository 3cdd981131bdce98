"""Finds which findings follow from wrong rows of a table, and end when that table is repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sluice.catalog import Catalog
from sluice.catalog.quality_options import Status
from sluice.quality.checks import COLUMNS, ROWS, Check

_ROW_COUNT = "row_count"
_DERIVED = frozenset({"fact_row_count", "fact_rows", "rollup_rows"})


class Finding(Protocol):
    """The result of a check, of this run or an earlier one."""

    @property
    def table(self) -> str: ...  # noqa: D102
    @property
    def check(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> Status: ...  # noqa: D102
    @property
    def postgres(self) -> int: ...  # noqa: D102
    @property
    def clickhouse(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Causes:
    """What checks read besides their own table.

    Attributes:
        derived: fact or rollup -> the tables that it is derived from.
        referred: (table, check of orphans) -> the table whose rows it looks for.
    """

    derived: Mapping[str, tuple[str, ...]]
    referred: Mapping[tuple[str, str], str]

    def find(self, findings: Sequence[Finding]) -> dict[tuple[str, str], tuple[str, ...]]:
        """Return (table, check) -> the tables whose wrong rows cause the finding.

        Only findings that have a cause are in it. A row count follows from its own table where
        the comparison of all rows has named as many missing or surplus rows. A check that an error
        prevented, which counts no rows, causes nothing and follows from nothing.
        """
        wrong = set(differing(findings))
        excess = {one.table: _excess(one) for one in _failed(findings) if one.check == COLUMNS}
        causes: dict[tuple[str, str], tuple[str, ...]] = {}
        for one in filter(_counted, findings):
            place = (one.table, one.check)
            if one.status in {Status.PASS, Status.UNSETTLED}:
                continue
            if one.check in _DERIVED:
                causes[place] = tuple(t for t in self.derived.get(one.table, ()) if t in wrong)
            elif place in self.referred:
                causes[place] = tuple(wrong & {self.referred[place]})
            elif one.check == _ROW_COUNT and excess.get(one.table) == _excess(one):
                causes[place] = (one.table,)
        return {place: tables for place, tables in causes.items() if tables}

    def name(self, checks: Sequence[Check]) -> tuple[Check, ...]:
        """Return the checks, each with the tables that it follows from."""
        causes = self.find(checks)
        return tuple(
            replace(check, follows=causes.get((check.table, check.check), ())) for check in checks
        )


NO_CAUSES = Causes(derived={}, referred={})


def causes_in(catalog: Catalog) -> Causes:
    """Return the causes that findings of a catalog's tables and facts may have."""
    derived: dict[str, tuple[str, ...]] = {}
    for fact in catalog.facts:
        tables = tuple(table.name for table in fact.tables)
        derived[fact.name] = tables
        derived |= {rollup.name: tables for rollup in fact.table.rollups}
    places = {(table.schema, table.relation): table.name for table in catalog.tables}
    referred = {
        (table.name, f"orphans {reference.name}"): places[reference.target]
        for table in catalog.tables
        for reference in table.references
        if reference.target in places
    }
    return Causes(derived=derived, referred=referred)


def differing(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return the tables of which rows were found to be wrong, in the order of the findings."""
    return tuple(dict.fromkeys(one.table for one in _failed(findings)))


def _failed(findings: Sequence[Finding]) -> list[Finding]:
    """Return the failed comparisons of rows, without those that an error prevented."""
    return [
        one for one in findings if one.status == Status.FAIL and one.check in ROWS and _counted(one)
    ]


def _counted(one: Finding) -> bool:
    """Whether the check counted rows; one that an error prevented did not."""
    return bool(one.postgres or one.clickhouse)


def _excess(one: Finding) -> int:
    return one.postgres - one.clickhouse
