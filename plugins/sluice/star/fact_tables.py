"""Where a fact's rows lie: a table that a full rebuild exchanges for another.

On a cluster that is a Distributed table over one on each server. A full rebuild exchanges the
Distributed tables of the server that Sluice is connected to, at once, and keeps its marks by them;
those of the other servers follow, so that no reader of any server sees a half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluice.catalog import Fact
from sluice.clients.clickhouse import ClickHouse
from sluice.generate.clickhouse import quoted
from sluice.generate.star import distributed_fact, fact_table


@dataclass(frozen=True, slots=True, kw_only=True)
class FactStorage:
    """The tables of one fact.

    Attributes:
        queries: the statements of sql/clickhouse/pipeline.sql.
    """

    clickhouse: ClickHouse
    fact: Fact
    queries: Mapping[str, str]

    def local(self, name: str) -> str:
        """The table that holds the rows of this one on each server."""
        rows = self.clickhouse.execute(self.queries["local"], table=name)
        return str(rows[0][0]) if rows else name

    def create(self, name: str) -> None:
        """Make an empty table of the fact, where it is not there yet."""
        cluster, local = self.clickhouse.cluster, self.local(name)
        present = local != name
        if not present:
            local = cluster.local(name)
        self.clickhouse.everywhere(fact_table(self.fact, local, self.clickhouse.newest()))
        if cluster.name and not present:
            self.clickhouse.execute(distributed_fact(self.fact, cluster, name, local))

    def hold_merges(self, name: str) -> None:
        """Leave the parts of a table as they are written, until it may merge again.

        Fifty are merged all the same, so that ClickHouse does not come to refuse inserts.
        """
        self._alter(name, "MODIFY SETTING min_parts_to_merge_at_once = 50")

    def let_merge(self, name: str) -> None:
        """Let ClickHouse merge the parts of a table as it does of any."""
        self._alter(name, "RESET SETTING min_parts_to_merge_at_once")

    def _alter(self, name: str, change: str) -> None:
        self.clickhouse.everywhere(f"ALTER TABLE cdc.{quoted(self.local(name))} {change}")

    def drop(self, name: str) -> None:
        """Drop a table and its rows, if it is there."""
        for gone in dict.fromkeys((name, self.local(name))):
            self.clickhouse.everywhere(f"DROP TABLE IF EXISTS cdc.{quoted(gone)} SYNC")

    def follow(self) -> None:
        """Let the cluster's other servers read the rows that this one reads."""
        cluster = self.clickhouse.cluster
        if not cluster.name:
            return
        if (local := self.local(self.fact.name)) != self.fact.name:
            self.clickhouse.elsewhere(distributed_fact(self.fact, cluster, self.fact.name, local))

    def catch_strays(self) -> None:
        """Do that where a rebuild was killed between its exchange and the others' following."""
        cluster = self.clickhouse.cluster
        if cluster.name and self.clickhouse.execute(
            self.queries["strays"],
            cluster=cluster.name,
            fact=self.fact.name,
            local=self.local(self.fact.name),
        ):
            self.follow()
