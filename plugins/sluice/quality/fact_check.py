"""Compares a fact and its rollups with their sources, as of the fact's last rebuild.

Drains and rebuilds run while a check reads. So keys that changes since the last rebuild may have
altered are left to the next rebuild, and so are groups that another rebuild has noted. Both are
looked up after the comparison, which therefore cannot have read a change that is missing among
them. Any other difference is wrong, however late drain or rebuild are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sluice.catalog import Fact, Rollup
from sluice.catalog.key_selection import key_text
from sluice.errors import Lagging
from sluice.generate.clickhouse import quoted
from sluice.generate.joins import select_all
from sluice.generate.rollups import differing_groups, noted_groups, replaces_all
from sluice.quality.differences import MOST_KEYS, FactFindings
from sluice.star.rebuild import Rebuild, Standing
from sluice.star.rollups import Seen

T = TypeVar("T")
_ATTEMPTS = 4
_SETTINGS = "SETTINGS join_use_nulls = 1, max_bytes_before_external_group_by = 2000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactCheck:
    """Compares one fact, and its rollups, in the session of its rebuild.

    Every comparison raises Lagging if rebuilds exchanged the fact during each attempt.
    """

    rebuild: Rebuild

    def rows(self) -> FactFindings:
        """Compare every column of every row with the fact's join."""
        return self._standing(self._rows)

    def missing(self) -> int:
        """Return the live rows of its table that the fact lacks, less those in excess."""
        return self._standing(self._missing)

    def rollup(self, rollup: Rollup) -> FactFindings:
        """Compare a rollup with the sums over the fact.

        Raises:
            Lagging: a rebuild is about to replace all sums.
        """
        return self._standing(lambda low: self._groups(rollup, low))

    def _standing(self, compare: Callable[[Standing], T]) -> T:
        """Return the result of a comparison during which the fact was not exchanged."""
        for _ in range(_ATTEMPTS):
            low = self.rebuild.standing()
            if low is None:
                raise Lagging(f"{self._fact.name} was never rebuilt")
            result = compare(low)
            now = self.rebuild.standing()
            if now is not None and now.storage == low.storage:
                return result
        raise Lagging(f"rebuilds exchanged {self._fact.name} each time it was compared")

    def _rows(self, low: Standing) -> FactFindings:
        fact = self._fact
        names = ", ".join(quoted(column.name) for column in fact.columns)
        row = f"cityHash64(formatRowNoNewline('TabSeparated', {names}))"
        joined, stored = select_all(fact), f"SELECT {names} FROM cdc.{quoted(fact.name)} FINAL"
        sums = [
            self._execute(f"SELECT count(), sum({row}) FROM (\n{rows}\n) {_SETTINGS}")[0]
            for rows in (joined, stored)
        ]
        expected, actual = (int(count) for count, _ in sums)
        if sums[0] == sums[1]:
            return FactFindings(expected=expected, actual=actual)
        key = _listed(self._key)
        differing = (
            f"SELECT {key} FROM (\n"
            f"    SELECT {key}, {row} AS row FROM (\n{joined}\n)\n    UNION ALL\n"
            f"    SELECT {key}, {row} FROM (\n{stored}\n)\n)\n"
            f"GROUP BY {key} HAVING count() != 2 OR min(row) != max(row)\n{_SETTINGS}"
        )
        with self._suspects(differing):
            self.rebuild.touch_since(low.last)
            keys, left = self._wrong(self._key, f"SELECT {key} FROM touched")
        return FactFindings(expected=expected, actual=actual, keys=keys, left=left)

    def _missing(self, low: Standing) -> int:
        """Compare the counts; if they differ, count the keys that are on one side only."""
        fact, key = self._fact, _listed(self._key)
        own = [column.column.name for column in fact.key]
        table = f"cdc.{quoted(fact.table.storage)}"
        settled, kept = (
            self._execute(text(fact, low.last.seen))[0][0] for text in (settled_rows, kept_rows)
        )
        if settled == kept:
            return 0
        named = ", ".join(
            f"{quoted(name)} AS {quoted(column.name)}"
            for name, column in zip(own, fact.key, strict=True)
        )
        alone = (
            f"SELECT {key}, any(side) AS side FROM (\n"
            f"    SELECT {named}, 1 AS side FROM {table} FINAL\n    UNION ALL\n"
            f"    SELECT {key}, -1 FROM cdc.{quoted(fact.name)} FINAL\n)\n"
            f"GROUP BY {key} HAVING count() = 1\n{_SETTINGS}"
        )
        with self._suspects(alone):
            self.rebuild.touch_since(low.last)
            rows = self._execute(
                f"SELECT sum(side) FROM suspects WHERE ({key}) NOT IN (SELECT {key} FROM touched)"
            )
        return int(rows[0][0])

    def _groups(self, rollup: Rollup, low: Standing) -> FactFindings:
        groups = [name for name, _ in rollup.by]
        settled = self.rebuild.settled_notes(low)
        with self._suspects(differing_groups(self._fact, rollup)):
            since: dict[str, Any] = {"since": low.last.version, "settled": settled}
            if self._execute(replaces_all(rollup), **since)[0][0]:
                raise Lagging(f"a rebuild is about to replace all sums of {rollup.name}")
            wrong, left = self._wrong(groups, noted_groups(rollup), **since)
        count = self.rebuild.live_rows(rollup.name)
        return FactFindings(expected=count, actual=count, keys=wrong, left=left)

    @contextmanager
    def _suspects(self, query: str) -> Iterator[None]:
        """Hold the rows of a query in the temporary table `suspects`."""
        drop = "DROP TEMPORARY TABLE IF EXISTS suspects, touched"
        self._execute(drop)
        self._execute(f"CREATE TEMPORARY TABLE suspects ENGINE = Memory AS\n{query}")
        try:
            yield
        finally:
            self._execute(drop)

    def _wrong(
        self, names: Sequence[str], later: str, **parameters: Any
    ) -> tuple[tuple[str, ...], int]:
        """Return the suspects not left to the next rebuild, and the number of those that are."""
        listed, null = _listed(names), "SETTINGS transform_null_in = 1"
        texts = ", ".join(f"ifNull(toString({quoted(name)}), 'NULL')" for name in names)
        wrong = self._execute(
            f"SELECT {texts} FROM suspects WHERE ({listed}) NOT IN (\n{later}\n)\n"
            f"ORDER BY {listed} LIMIT {MOST_KEYS} {null}",
            **parameters,
        )
        left = self._execute(
            f"SELECT count() FROM suspects WHERE ({listed}) IN (\n{later}\n) {null}", **parameters
        )
        return tuple(key_text(parts) for parts in wrong), int(left[0][0])

    @property
    def _fact(self) -> Fact:
        return self.rebuild.fact

    @property
    def _key(self) -> list[str]:
        return [column.name for column in self._fact.key]

    def _execute(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self.rebuild.clickhouse.execute(query, **parameters)


def settled_rows(fact: Fact, seen: Seen) -> str:
    """Return SQL of the number of live rows of a fact's own table that a rebuild had seen."""
    return (
        f"SELECT count() FROM cdc.{quoted(fact.table.storage)} FINAL"
        f" WHERE _seq <= {seen.get(fact.table.name, 0)}"
    )


def kept_rows(fact: Fact, seen: Seen) -> str:
    """Return SQL of the number of a fact's live rows without changes since such a rebuild."""
    own = _listed([column.column.name for column in fact.key])
    return (
        f"SELECT count() FROM cdc.{quoted(fact.name)} FINAL"
        f" WHERE ({_listed([column.name for column in fact.key])}) NOT IN (\n"
        f"    SELECT {own} FROM cdc.{quoted(fact.table.storage)}"
        f" WHERE _seq > {seen.get(fact.table.name, 0)}\n)"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))
