"""Checks expectations on columns in ClickHouse: one query per table, then one on suspect keys.

Tables are drained one after the other, so a row may briefly precede the row that it refers to. A
violation therefore counts only if a second query of its key confirms it as of a later point of the
WAL that all tables have passed. The check is unsettled while the drain is late, and while a table
of Redpanda Connect changes. Cost: one scan of the marked columns, with FINAL.
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
from sluice.quality.checks import Check, not_checked

_MOST_KEYS = 1000
_MOST_NAMED = 20


# Returns the FROM expression of a table's rows.
Rows = Callable[[Table], str]
# The number of rows that violate a rule, and some of their keys.
_Violations = tuple[int, list[tuple[str, ...]]]


def _live(table: Table) -> str:
    return f"cdc.{quoted(table.storage)} FINAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An expectation as SQL.

    Attributes:
        check: its name in results, such as `expect quantity range` or `orphans customer`.
        broken: a condition that is true for a row that violates it.
        wanted: the expectation as a phrase: "quantity is within 1..9".
        violation: what such a row has, as a phrase: "quantity outside 1..9".
    """

    check: str
    broken: str
    wanted: str
    violation: str
    severity: Status | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """Checks the tables of ClickHouse against the models' expectations.

    Attributes:
        pass_now: drains past the end of the WAL; returns it, and the tables behind it.
        version: returns the version below which a table's rows are as of a point, or None.
        drained: returns the highest drained `_seq` by table.
    """

    clickhouse: ClickHouse
    catalog: Catalog
    pass_now: Callable[[], tuple[int, Set[str]]]
    version: Callable[[Table, int], int | None]
    drained: Callable[[], Mapping[str, int]]

    def run(self, tables: Sequence[Table]) -> tuple[Check, ...]:
        """Return a check for each expectation and for each reference."""
        outcomes, checks = Outcomes(), list[Check]()
        for table in tables:
            rules = list(rules_of(self.catalog, table))
            if rules:
                with outcomes.of(table.name):
                    checks += self._table(table, rules)
            if table.name in outcomes.troubles:
                checks += self.not_checked([table], outcomes.troubles[table.name])
        return tuple(checks)

    def not_checked(self, tables: Sequence[Table], error: SluiceError) -> list[Check]:
        """Return the checks of these tables as prevented by an error."""
        return [
            not_checked(table.name, rule.check, error)
            for table in tables
            for rule in rules_of(self.catalog, table)
        ]

    def _table(self, table: Table, rules: Sequence[Rule]) -> Iterator[Check]:
        rows, violations = self._query(table, rules)
        settled = True
        if suspects := sorted({key for _, keys in violations for key in keys}):
            second = self._repeat(table, suspects)
            settled = second is not None
            pairs = zip(violations, second or violations, strict=True)
            violations = [_confirmed(*pair) for pair in pairs]
        for rule, (count, keys) in zip(rules, violations, strict=True):
            check = _check(table, rule, rows, count, [key_text(key) for key in keys])
            yield check if settled or not count else replace(check, status=Status.UNSETTLED)

    def _repeat(
        self, table: Table, suspects: Sequence[tuple[str, ...]]
    ) -> list[_Violations] | None:
        """Return the suspects that violate each rule as of a later point; None if unsettled."""
        drained = self.drained()
        point, behind = self.pass_now()
        versions = {table.name: self.version(table, point)}

        def rows(of: Table) -> str:
            versions[of.name] = self.version(of, point)
            return _rows_as_of(of, versions[of.name])

        rules = list(rules_of(self.catalog, table, rows))
        if behind & versions.keys():
            return None
        # A change that arrives during a query may hide a row, but in one of two queries at most.
        results = [self._query(table, rules, suspects, rows)[1] for _ in range(2)]
        if None in versions.values() and self.drained() != drained:
            return None
        return [_confirmed(*pair) for pair in zip(*results, strict=True)]

    def _query(
        self,
        table: Table,
        rules: Sequence[Rule],
        among: Sequence[tuple[str, ...]] = (),
        rows: Rows = _live,
    ) -> tuple[int, list[_Violations]]:
        """Return the number of rows, and the violations of each rule."""
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
    """Return the live rows of a table as of a version; for None, the current ones."""
    if version is None:
        return _live(table)
    return f"(\n{clickhouse_as_of(table)}\n)".replace("{fence:UInt128}", f"toUInt128('{version}')")


def rules_of(catalog: Catalog, table: Table, rows: Rows = _live) -> Iterator[Rule]:
    """Yield the rules of a table's marked expectations and of its references.

    Args:
        rows: returns the FROM expression of a table's rows.
    """
    for column in table.columns:
        for expectation in column.expectations:
            broken, wanted, violation = _broken(catalog, table, column, expectation, rows)
            yield Rule(
                check=f"expect {column.name} {expectation.kind}",
                broken=broken,
                wanted=f"{column.name} {wanted}",
                violation=violation,
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
            wanted=f"{', '.join(reference.columns)} matches a row of {target.name}",
            violation=f"no matching {reference.name}",
            severity=severity,
        )


def _broken(
    catalog: Catalog, table: Table, column: Column, expectation: Expectation, rows: Rows
) -> tuple[str, str, str]:
    """Return the condition of a violation, then the expectation and its violation as phrases."""
    name, argument = quoted(column.name), expectation.argument
    if expectation.kind == "not_null":
        return f"isNull({name})", "is not NULL", f"NULL in {column.name}"
    if expectation.kind == "range":
        ends = zip(("<", ">"), argument, strict=True)
        sides = [f"{name} {sign} {_cast(column, end)}" for sign, end in ends if end is not None]
        ends_text = "..".join("" if end is None else str(end) for end in argument)
        broken = _never_null(" OR ".join(sides))
        return broken, f"is within {ends_text}", f"{column.name} outside {ends_text}"
    if expectation.kind == "values":
        listed = ", ".join(_cast(column, value) for value in argument)
        allowed = ", ".join(map(str, argument))
        broken = _never_null(f"{name} NOT IN ({listed})")
        return broken, f"is one of {allowed}", f"{column.name} other than {allowed}"
    if expectation.kind == "unique":
        twice = (
            f"SELECT {name} FROM {rows(table)}"
            f" WHERE isNotNull({name}) GROUP BY {name} HAVING count() > 1"
        )
        return _never_null(f"{name} IN ({twice})"), "is unique", f"a duplicate {column.name}"
    target, place = catalog.expected_target(table, column, expectation), ".".join(argument)
    broken = _without([column.name], rows(target), [argument[1]])
    return broken, f"matches {place}", f"no {place} that matches {column.name}"


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
    """Return a value of the mark as a literal of the column's type."""
    return f"CAST({literal(str(value))} AS {column.type.clickhouse})"


def _confirmed(first: _Violations, second: _Violations) -> _Violations:
    """Return the violations in both; the second query was limited to the keys of the first."""
    count, keys = first
    confirmed = [key for key in keys if key in set(second[1])]
    return (count if count > _MOST_KEYS and confirmed else len(confirmed)), confirmed


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
        difference=f"{count:,} of {rows:,} {table.name} {'has' if count == 1 else 'have'}"
        f" {rule.violation} ({', '.join(column.name for column in table.key)} {named}{more})"
        if count
        else f"{rule.wanted} in all {rows:,} rows",
        repair="correct the rows in PostgreSQL, or the model's mark; if PostgreSQL is right, run:"
        f" sluice quality --deep {table.name}",
    )
