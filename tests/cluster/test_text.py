"""The text of a cluster with a Keeper: ClickHouse parses it; see docs/scale.md for what ran."""

from __future__ import annotations

from contextlib import closing

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.generate.clickhouse import on_cluster, table_statements
from sluice.generate.sql_files import read_statements
from sluice.generate.star import star_statements
from sluice.settings import PROJECT, Cluster
from tests.cluster.servers import Servers
from tests.support.pipeline import CATALOG

KEEPER = Cluster(name="two", replicated=True)


def test_with_a_keeper_every_table_goes_on_cluster_and_is_replicated_once() -> None:
    for table in CATALOG.tables:
        for text in table_statements(table, KEEPER).values():
            assert text.count(" ON CLUSTER two") == 1
            assert ("MergeTree" in text) == ("ENGINE = Replicated" in text)
            assert on_cluster(text, KEEPER).count("Replicated") == text.count("Replicated")


@pytest.mark.parametrize("dropped", ["TABLE IF EXISTS cdc.x SYNC", "VIEW IF EXISTS olap.x"])
def test_with_a_keeper_a_drop_is_carried_to_every_server(dropped: str) -> None:
    assert " ON CLUSTER two" in on_cluster(f"DROP {dropped}", KEEPER)


@pytest.mark.services
def test_clickhouse_parses_every_statement_of_a_cluster_with_a_keeper(servers: Servers) -> None:
    bookkeeping = read_statements(PROJECT / "plugins/sluice/sql/bookkeeping.sql").values()
    texts = [on_cluster(text, KEEPER) for text in bookkeeping]
    for table in CATALOG.tables:
        texts += table_statements(table, KEEPER).values()
    for fact in CATALOG.facts:
        star = star_statements(fact, KEEPER)
        texts += [text for text in star.texts() if "ON CLUSTER" in text]
    assert len(texts) > 20
    with closing(ClickHouse(servers.settings())) as clickhouse:
        for text in texts:
            ((parsed,),) = clickhouse.execute("SELECT formatQuery({text:String})", text=text)
            assert " ON CLUSTER " in parsed
