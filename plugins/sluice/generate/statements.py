"""The generated statements of a fact and of its rollups.

A full rebuild fills in `{fact:Identifier}` with a shadow table, any other with the fact's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupStatements:
    """The statements of one rollup.

    Attributes:
        table, distributed: create what holds the sums; a Distributed table on a cluster alone.
        noted, noted_by: create the table of noted groups, and alter one of an older form.
        change: creates the session's own table of what a rebuild changes in each group.
        note, announce: note those groups, or that all of them are about to be summed.
        read: adds the sums that are there to what changes.
        unsettled: whether adding could go wrong.
        add: writes the sums with what changes in them.
        sum_touched, sum_all, sum_filled: sum noted groups, all, and all of rows without versions.
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
        fact, fact_distributed: create what holds its rows; a Distributed table on a cluster alone.
        touched: creates the session's own table of keys to be recomputed.
        touched_by_fact, touched_by, touched_by_date: fill it by changes of the fact's own table, of
            a dimension's, by its prefix, or by days; None for days where the fact has no date.
        all_ranges, touched_ranges: the first key of each range of all keys, or of touched ones.
        stage_range, stage_touched, stage: stage a range's rows, of them the touched ones, and the
            rows of a dimension that they lead to, by its prefix.
        join, join_tombstones, insert_joined: join what is staged, add the keys that are gone, and
            write it into the fact.
        insert_range: joins and writes a range of a shadow table at once.
        checksum_source, checksum_fact, checksum_filled: rows and checksum of the fact's own table,
            of the fact, and of a fact without versions.
        rollups: by name.
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
        """Each statement with a name for people, in the order in which a rebuild runs them.

        Two may have one name, where a dimension or a rollup is called like a step.
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
        """Every statement."""
        return [text for _, text in self.named()]


def _named(name: str, statements: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    return ((f"{name}_{part}", text) for part, text in statements.items() if text is not None)
