"""The generated statements of a fact and its rollups.

A full rebuild binds `{fact:Identifier}` to a shadow table, an incremental one to the fact's table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupStatements:
    """The statements of one rollup.

    Attributes:
        table, distributed: create the table of the sums; a Distributed table only on a cluster.
        noted, noted_by: create the table of noted groups, and upgrade one of an older version.
        view: creates the view for queries.
        change: creates the temporary table of a rebuild's changes to each group.
        note, announce: note those groups, or that all groups are about to be summed.
        read: inserts the present sums beside the changes.
        unsettled: returns whether adding is unsafe.
        add: writes the sums with the changes added.
        sum_touched, sum_all, sum_filled: sum noted groups, all groups, and all of a shadow table.
    """

    table: str
    distributed: str | None
    noted: str
    noted_by: str
    view: str
    change: str
    note: str
    announce: str
    read: str
    unsettled: str
    add: str
    sum_touched: str
    sum_all: str
    sum_filled: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FactStatements:
    """The statements of one fact.

    Attributes:
        fact, fact_distributed: create the table of its rows; a Distributed table only on a cluster.
        view: creates the view for queries.
        touched: creates the temporary table of keys to recompute.
        touched_by_fact, touched_by, touched_by_date: fill it by changes of the fact's own table, of
            a dimension (by prefix), or by days; None without a date.
        all_ranges, touched_ranges: return the first key of each range of all or touched keys.
        stage_range, stage_touched, stage: stage a range's rows, its touched rows, and the rows of a
            dimension (by prefix) that they refer to.
        join, join_tombstones, insert_joined: join the staged rows, add delete markers of missing
            keys, and write both into the fact.
        insert_range: joins and writes a range of a shadow table.
        checksum_source, checksum_fact, checksum_filled: return row count and checksum of the fact's
            own table, of the fact, and of a shadow table.
        rollups: name -> statements.
    """

    fact: str
    fact_distributed: str | None
    view: str
    touched: str
    touched_by_fact: str
    touched_by: Mapping[str, str]
    touched_by_date: str | None
    all_ranges: str
    touched_ranges: str
    stage_range: str
    stage_touched: str
    stage: Mapping[str, str]
    join: str
    join_tombstones: str
    insert_joined: str
    insert_range: str
    checksum_source: str
    checksum_fact: str
    checksum_filled: str
    rollups: Mapping[str, RollupStatements]

    def named(self) -> Iterator[tuple[str, str]]:
        """Yield (display name, statement), in the order in which a rebuild runs them.

        A name may occur twice, where a dimension or a rollup is named like a step.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                yield field.name, value
            elif field.name == "rollups":
                for name, rollup in self.rollups.items():
                    yield from _named(
                        name, {f.name: getattr(rollup, f.name) for f in fields(rollup)}
                    )
            elif value is not None:
                yield from _named(field.name, value)

    def texts(self) -> list[str]:
        """Return all statements."""
        return [text for _, text in self.named()]


def _named(name: str, statements: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    return ((f"{name}_{part}", text) for part, text in statements.items() if text is not None)
