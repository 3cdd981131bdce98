"""Creates, alters and drops the tables that hold a fact's rows, on one server or a cluster.

On a cluster a fact is a Distributed table over one table on each server. A full rebuild exchanges
the Distributed tables atomically on the server that Sluice is connected to, and records itself
under their ids. The other servers then follow, so no reader sees a partial fact.
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
    """Manages the tables of one fact.

    Attributes:
        queries: the statements of sql/pipeline.sql.
    """

    clickhouse: ClickHouse
    fact: Fact
    queries: Mapping[str, str]

    def local(self, name: str) -> str:
        """Return the name of the table that holds a table's rows on each server."""
        rows = self.clickhouse.execute(self.queries["local"], table=name)
        return str(rows[0][0]) if rows else name

    def create(self, name: str) -> None:
        """Create an empty table of the fact if it does not exist."""
        cluster, local = self.clickhouse.cluster, self.local(name)
        present = local != name
        if not present:
            local = cluster.local(name)
        self.clickhouse.everywhere(fact_table(self.fact, local, self.clickhouse.newest()))
        if cluster.name and not present:
            self.clickhouse.execute(distributed_fact(self.fact, cluster, name, local))

    def hold_merges(self, name: str) -> None:
        """Delay merges of a table until `let_merge`.

        Fifty parts are still merged, since ClickHouse refuses inserts when there are too many.
        """
        self._alter(name, "MODIFY SETTING min_parts_to_merge_at_once = 50")

    def let_merge(self, name: str) -> None:
        """Restore the default merges of a table."""
        self._alter(name, "RESET SETTING min_parts_to_merge_at_once")

    def _alter(self, name: str, change: str) -> None:
        self.clickhouse.everywhere(f"ALTER TABLE cdc.{quoted(self.local(name))} {change}")

    def drop(self, name: str) -> None:
        """Drop a table and its rows if it exists."""
        for table in dict.fromkeys((name, self.local(name))):
            self.clickhouse.drop(table)

    def follow(self) -> None:
        """Point the fact of the cluster's other servers at the rows that this server reads."""
        cluster = self.clickhouse.cluster
        if not cluster.name:
            return
        if (local := self.local(self.fact.name)) != self.fact.name:
            self.clickhouse.elsewhere(distributed_fact(self.fact, cluster, self.fact.name, local))

    def catch_strays(self) -> None:
        """Call `follow` if a rebuild was killed before it did."""
        cluster = self.clickhouse.cluster
        if cluster.name and self.clickhouse.execute(
            self.queries["strays"],
            cluster=cluster.name,
            fact=self.fact.name,
            local=self.local(self.fact.name),
        ):
            self.follow()
