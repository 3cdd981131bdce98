"""Expectations on columns, run in ClickHouse: one query a table, then one on the keys it found.

Tables are drained one after the other, so for a moment a row may be there before the row that it
refers to. So what a first look finds counts only if, once the drain has gone on, a second look at
the same keys finds it again. Cost: one scan of the table's marked columns, with FINAL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.adapters.clickhouse import ClickHouse, external_table
from sluice.catalog import Catalog, Column, Table
from sluice.comparison import clickhouse_key
from sluice.generate.clickhouse import literal, quoted
from sluice.marks import FAIL, OFF, WARN, Expectation
from sluice.outcomes import Outcomes
from sluice.quality import PASS, Check, unmade
from sluice.selection import key_text

_MOST_KEYS = 1000
_MOST_NAMED = 20


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
    severity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """Holds the tables of ClickHouse against what the models expect of them.

    Attributes:
        catch_up: lets the drain go on.
    """

    clickhouse: ClickHouse
    catalog: Catalog
    catch_up: Callable[[], None]

    def run(self, tables: Sequence[Table]) -> tuple[Check, ...]:
        """A check for each expectation, and for each reference whether its rows are there."""
        outcomes, checks = Outcomes(), list[Check]()
        for table in tables:
            rules = list(rules_of(self.catalog, table))
            if rules:
                with outcomes.of(table.name):
                    checks += self._table(table, rules)
            if table.name in outcomes.troubles:
                error = outcomes.troubles[table.name]
                checks += [unmade(table.name, rule.check, error) for rule in rules]
        return tuple(checks)

    def _table(self, table: Table, rules: Sequence[Rule]) -> Iterator[Check]:
        rows, found = self._look(table, rules)
        if any(keys for _, keys in found):
            self.catch_up()
            suspects = {key for _, keys in found for key in keys}
            again = self._look(table, rules, sorted(suspects))[1]
            found = [_confirmed(first, second) for first, second in zip(found, again, strict=True)]
        for rule, (count, keys) in zip(rules, found, strict=True):
            yield _check(table, rule, rows, count, [key_text(key) for key in keys])

    def _look(
        self, table: Table, rules: Sequence[Rule], among: Sequence[tuple[str, ...]] = ()
    ) -> tuple[int, list[tuple[int, list[tuple[str, ...]]]]]:
        """How many rows there are, and how many break each rule, with keys."""
        texts = clickhouse_key(table.key)
        parts = ", ".join(
            f"countIf({rule.broken}), groupArrayIf({_MOST_KEYS})(tuple({texts}), {rule.broken})"
            for rule in rules
        )
        query = f"SELECT count(), {parts} FROM cdc.{quoted(table.storage)} FINAL"
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


def rules_of(catalog: Catalog, table: Table) -> Iterator[Rule]:
    """The marked expectations of a table, and that the rows it refers to are there."""
    for column in table.columns:
        for expectation in column.expectations:
            broken, wanted = _broken(catalog, table, column, expectation)
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
        if target is None or severity == OFF:
            continue
        yield Rule(
            check=f"orphans {reference.name}",
            broken=_without(reference.columns, target, reference.target_columns),
            wanted=f"{', '.join(reference.columns)} leads to a row of {target.name}",
            severity=severity,
        )


def _broken(
    catalog: Catalog, table: Table, column: Column, expectation: Expectation
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
            f"SELECT {name} FROM cdc.{quoted(table.storage)} FINAL"
            f" WHERE isNotNull({name}) GROUP BY {name} HAVING count() > 1"
        )
        return _never_null(f"{name} IN ({twice})"), "is unique"
    target = catalog.expected_target(table, column, expectation)
    return _without([column.name], target, [argument[1]]), f"is a {'.'.join(argument)}"


def _without(columns: Sequence[str], target: Table, keys: Sequence[str]) -> str:
    own = [quoted(name) for name in columns]
    there = ", ".join(f"assumeNotNull({quoted(name)})" for name in keys)
    present = " AND ".join(f"isNotNull({name})" for name in own)
    values = ", ".join(f"assumeNotNull({name})" for name in own)
    known = f"SELECT {there} FROM cdc.{quoted(target.storage)} FINAL"
    return f"({present} AND ({values}) NOT IN ({known}))"


def _never_null(condition: str) -> str:
    return f"ifNull({condition}, false)"


def _cast(column: Column, value: object) -> str:
    """A value of the mark as a literal of the column's type."""
    return f"CAST({literal(str(value))} AS {column.type.clickhouse})"


def _confirmed(
    first: tuple[int, list[tuple[str, ...]]], second: tuple[int, list[tuple[str, ...]]]
) -> tuple[int, list[tuple[str, ...]]]:
    """What both looks found; the second saw only the keys that the first could name."""
    count, keys = first
    lasting = [key for key in keys if key in set(second[1])]
    return (count if count > _MOST_KEYS and lasting else len(lasting)), lasting


def _check(table: Table, rule: Rule, rows: int, count: int, keys: Sequence[str]) -> Check:
    named = ", ".join(keys[:_MOST_NAMED])
    more = f" and {count - _MOST_NAMED} others" if count > _MOST_NAMED else ""
    status = {WARN: WARN, FAIL: FAIL}.get(rule.severity, PASS) if count else PASS
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
