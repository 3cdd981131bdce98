"""Expectations on columns, run in ClickHouse: one query a table, then one on the keys it found.

Tables are drained one after the other, so for a moment a row may be there before the row that it
refers to. So what a first look finds counts only if a second look at the same keys finds it again
as of a point of the WAL that all tables have passed since. Where the drain is late, or a table's
positions are no points of the WAL and it does not rest, the check is unsettled. Cost: one scan of
the table's marked columns, with FINAL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from sluice.catalog import Catalog, Column, Table
from sluice.catalog.key_selection import key_text
from sluice.catalog.quality_options import Expectation, Status
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.execution.outcomes import Outcomes
from sluice.generate.clickhouse import external_table, literal, quoted
from sluice.generate.row_text import clickhouse_as_of, clickhouse_key
from sluice.quality.checks import Check, unmade

_MOST_KEYS = 1000
_MOST_NAMED = 20


# Where a table's rows are read, as FROM takes it.
Rows = Callable[[Table], str]
# How many rows break a rule, and keys of them.
_Found = tuple[int, list[tuple[str, ...]]]


def _live(table: Table) -> str:
    return f"cdc.{quoted(table.storage)} FINAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An expectation as SQL.

    Attributes:
        check: its name in results, `expect quantity range`, or `orphans customer`.
        broken: true of a row that breaks it.
        wanted: the expectation in words.
    """

    check: str
    broken: str
    wanted: str
    severity: Status | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """Holds the tables of ClickHouse against what the models expect of them.

    Attributes:
        pass_now: lets the drain pass the present point of the WAL; the point, and the tables that
            are behind it.
        version: the version below which a table's rows are those of a point, or None.
        drained: how far each table is drained.
    """

    clickhouse: ClickHouse
    catalog: Catalog
    pass_now: Callable[[], tuple[int, Set[str]]]
    version: Callable[[Table, int], int | None]
    drained: Callable[[], Mapping[str, int]]

    def run(self, tables: Sequence[Table]) -> tuple[Check, ...]:
        """A check for each expectation, and for each reference whether its rows are there."""
        outcomes, checks = Outcomes(), list[Check]()
        for table in tables:
            rules = list(rules_of(self.catalog, table))
            if rules:
                with outcomes.of(table.name):
                    checks += self._table(table, rules)
            if table.name in outcomes.troubles:
                checks += self.unmade([table], outcomes.troubles[table.name])
        return tuple(checks)

    def unmade(self, tables: Sequence[Table], error: SluiceError) -> list[Check]:
        """Each of the checks as one that an error kept from being made."""
        return [
            unmade(table.name, rule.check, error)
            for table in tables
            for rule in rules_of(self.catalog, table)
        ]

    def _table(self, table: Table, rules: Sequence[Rule]) -> Iterator[Check]:
        rows, found = self._look(table, rules)
        settled = True
        if suspects := sorted({key for _, keys in found for key in keys}):
            again = self._again(table, suspects)
            settled = again is not None
            found = [_confirmed(*both) for both in zip(found, again or found, strict=True)]
        for rule, (count, keys) in zip(rules, found, strict=True):
            check = _check(table, rule, rows, count, [key_text(key) for key in keys])
            yield check if settled or not count else replace(check, status=Status.UNSETTLED)

    def _again(self, table: Table, suspects: Sequence[tuple[str, ...]]) -> list[_Found] | None:
        """The suspects that break each rule as of a later point; None where that is not known."""
        drained = self.drained()
        point, behind = self.pass_now()
        versions = {table.name: self.version(table, point)}

        def rows(of: Table) -> str:
            versions[of.name] = self.version(of, point)
            return _rows_as_of(of, versions[of.name])

        rules = list(rules_of(self.catalog, table, rows))
        if behind & versions.keys():
            return None
        # A change that comes while they are read may hide a row, in one reading at most.
        looks = [self._look(table, rules, suspects, rows)[1] for _ in range(2)]
        if None in versions.values() and self.drained() != drained:
            return None
        return [_confirmed(*both) for both in zip(*looks, strict=True)]

    def _look(
        self,
        table: Table,
        rules: Sequence[Rule],
        among: Sequence[tuple[str, ...]] = (),
        rows: Rows = _live,
    ) -> tuple[int, list[_Found]]:
        """How many rows there are, and how many break each rule, with keys."""
        texts = clickhouse_key(table.key)
        parts = ", ".join(
            f"countIf({rule.broken}), groupArrayIf({_MOST_KEYS})(tuple({texts}), {rule.broken})"
            for rule in rules
        )
        query = f"SELECT count(), {parts} FROM {rows(table)}"
        external: list[Any] = []
        if among:
            query += f" WHERE ({texts}) IN (SELECT * FROM suspects)"
            structure = [(f"part{at}", "String") for at, _ in enumerate(table.key)]
            external = [external_table("suspects", structure, among)]
        query += " SETTINGS max_bytes_before_external_group_by = 2000000000"
        (row,) = self.clickhouse.execute(query, external=external)
        counts, keys = row[1::2], row[2::2]
        return int(row[0]), [
            (int(count), sorted(some)) for count, some in zip(counts, keys, strict=True)
        ]


def _rows_as_of(table: Table, version: int | None) -> str:
    """The live rows of a table below a version; of none, those that live now."""
    if version is None:
        return _live(table)
    return f"(\n{clickhouse_as_of(table)}\n)".replace("{fence:UInt128}", f"toUInt128('{version}')")


def rules_of(catalog: Catalog, table: Table, rows: Rows = _live) -> Iterator[Rule]:
    """The marked expectations of a table, and that the rows it refers to are there.

    Args:
        rows: where the rows of a table are read.
    """
    for column in table.columns:
        for expectation in column.expectations:
            broken, wanted = _broken(catalog, table, column, expectation, rows)
            yield Rule(
                check=f"expect {column.name} {expectation.kind}",
                broken=broken,
                wanted=f"{column.name} {wanted}",
                severity=expectation.severity,
            )
    places = {(other.schema, other.relation): other for other in catalog.tables}
    for reference in table.references:
        target = places.get(reference.target)
        severity = table.quality.severity("orphans")
        if target is None or severity is None:
            continue
        yield Rule(
            check=f"orphans {reference.name}",
            broken=_without(reference.columns, rows(target), reference.target_columns),
            wanted=f"{', '.join(reference.columns)} leads to a row of {target.name}",
            severity=severity,
        )


def _broken(
    catalog: Catalog, table: Table, column: Column, expectation: Expectation, rows: Rows
) -> tuple[str, str]:
    """A condition that is true of a row that breaks the expectation, and what is expected."""
    name, argument = quoted(column.name), expectation.argument
    if expectation.kind == "not_null":
        return f"isNull({name})", "is not NULL"
    if expectation.kind == "range":
        ends = zip(("<", ">"), argument, strict=True)
        sides = [f"{name} {sign} {_cast(column, end)}" for sign, end in ends if end is not None]
        least, most = ("" if end is None else str(end) for end in argument)
        return _never_null(" OR ".join(sides)), f"is within {least}..{most}"
    if expectation.kind == "values":
        listed = ", ".join(_cast(column, value) for value in argument)
        return _never_null(
            f"{name} NOT IN ({listed})"
        ), f"is one of {', '.join(map(str, argument))}"
    if expectation.kind == "unique":
        twice = (
            f"SELECT {name} FROM {rows(table)}"
            f" WHERE isNotNull({name}) GROUP BY {name} HAVING count() > 1"
        )
        return _never_null(f"{name} IN ({twice})"), "is unique"
    target = catalog.expected_target(table, column, expectation)
    return _without([column.name], rows(target), [argument[1]]), f"is a {'.'.join(argument)}"


def _without(columns: Sequence[str], target: str, keys: Sequence[str]) -> str:
    own = [quoted(name) for name in columns]
    there = ", ".join(f"assumeNotNull({quoted(name)})" for name in keys)
    present = " AND ".join(f"isNotNull({name})" for name in own)
    values = ", ".join(f"assumeNotNull({name})" for name in own)
    known = f"SELECT {there} FROM {target}"
    return f"({present} AND ({values}) NOT IN ({known}))"


def _never_null(condition: str) -> str:
    return f"ifNull({condition}, false)"


def _cast(column: Column, value: object) -> str:
    """A value of the mark as a literal of the column's type."""
    return f"CAST({literal(str(value))} AS {column.type.clickhouse})"


def _confirmed(first: _Found, second: _Found) -> _Found:
    """What both looks found; the second saw only the keys that the first could name."""
    count, keys = first
    lasting = [key for key in keys if key in set(second[1])]
    return (count if count > _MOST_KEYS and lasting else len(lasting)), lasting


def _check(table: Table, rule: Rule, rows: int, count: int, keys: Sequence[str]) -> Check:
    named = ", ".join(keys[:_MOST_NAMED])
    more = f" and {count - _MOST_NAMED} others" if count > _MOST_NAMED else ""
    status = (rule.severity or Status.PASS) if count else Status.PASS
    return Check(
        table=table.name,
        check=rule.check,
        status=status,
        postgres=0,
        clickhouse=count,
        keys=tuple(keys),
        difference=f"{rule.wanted}: not so in {count} of {rows} rows: {named}{more}"
        if count
        else f"{rule.wanted}: in {rows} rows",
        repair="mend the rows in PostgreSQL, or the model's mark; where PostgreSQL is right:"
        f" sluice quality --deep {table.name}",
    )
