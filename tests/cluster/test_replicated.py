"""Replicated engines on two replicas that meet at a Keeper, as far as the embedded server goes.

It makes replicated tables and registers their replicas at a ZooKeeper. It carries no DDL (ON
CLUSTER), has no Keeper of its own and opens no port for other replicas whatever its configuration
says, so the tables stay read-only: see docs/scale.md. The test of that turns red with the first
build that can do more; then rows can be written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NeedsPerson, Refused
from sluice.generate.clickhouse import on_cluster, table_statements
from sluice.generate.sql_files import read_statements
from sluice.generate.star import fact_table, star_statements
from sluice.settings import ONE_SERVER, PROJECT, Cluster
from tests.cluster.keeper import INSTALLED, keeper
from tests.cluster.servers import NAME, Servers, Shard
from tests.support.pipeline import CATALOG
from tests.support.services import free, free_ports

pytestmark = pytest.mark.services

KEEPER = Cluster(name=NAME, replicated=True)
ON_CLUSTER = f" ON CLUSTER {NAME}"
CONFIGURED = """<clickhouse>
    <interserver_http_host>127.0.0.1</interserver_http_host>
    <interserver_http_port>{replicas}</interserver_http_port>
    <keeper_server>
        <tcp_port>{clients}</tcp_port>
        <server_id>1</server_id>
        <log_storage_path>{tmp_path}/log</log_storage_path>
        <snapshot_storage_path>{tmp_path}/snapshots</snapshot_storage_path>
        <raft_configuration>
            <server><id>1</id><hostname>127.0.0.1</hostname><port>{raft}</port></server>
        </raft_configuration>
    </keeper_server>
    <mlock_executable>false</mlock_executable>
</clickhouse>"""


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ClickHouse]]:
    """Two servers that are to hold the same, with all tables and views of the models."""
    if not INSTALLED:
        pytest.skip("ZooKeeper is not installed")
    folder = tmp_path_factory.mktemp("replicas")
    with keeper(folder) as port, ExitStack() as sessions:
        servers = Servers(folder, port)
        try:
            servers.start()
            made = [ClickHouse(servers.settings(at)) for at in range(2)]
            for one in made:
                sessions.enter_context(closing(one))
            for statement in statements():
                assert ON_CLUSTER in statement
                for one in made:  # as the queue of ON CLUSTER carries it
                    one.execute(statement.replace(ON_CLUSTER, "", 1))
            yield made
        finally:
            servers.kill()


def statements() -> list[str]:
    """Everything that `sluice init` makes there, but changes of tables, which need a replica."""
    bookkeeping = read_statements(PROJECT / "plugins/sluice/sql/bookkeeping.sql").values()
    texts = [on_cluster(text, KEEPER) for text in bookkeeping if not text.startswith("ALTER")]
    for table in CATALOG.tables:
        texts += table_statements(table, KEEPER).values()
    for fact in CATALOG.facts:
        star = star_statements(fact, KEEPER)
        texts.append(on_cluster(fact_table(fact, KEEPER.local(fact.name)), KEEPER))
        texts += [text for text in star.texts() if ON_CLUSTER in text and "CREATE" in text]
    return list(dict.fromkeys(texts))


def test_every_table_is_replicated_and_both_servers_are_its_replicas(
    replicas: list[ClickHouse],
) -> None:
    query = (
        "SELECT table, total_replicas, zookeeper_path FROM system.replicas WHERE database = 'cdc'"
        " ORDER BY table"
    )
    ours, theirs = (one.execute(query) for one in replicas)
    assert ours == theirs
    assert {count for _, count, _ in ours} == {2}
    stored = "SELECT name FROM system.tables WHERE database = 'cdc' AND engine LIKE '%MergeTree'"
    for one in replicas:
        names = {name for (name,) in one.execute(stored)}
        assert names == {name for name, _, _ in ours}
        assert {"src_order_item__local", "fact_order_item__local", "checkpoints"} <= names


def test_views_of_both_servers_read_over_the_cluster(replicas: list[ClickHouse]) -> None:
    for one in replicas:
        views = one.execute("SELECT name FROM system.tables WHERE database = 'olap'")
        assert len(views) > 4
        for (view,) in views:
            assert one.execute(f"SELECT count() FROM olap.{view}") == [(0,)]


def test_the_embedded_server_neither_carries_ddl_nor_takes_rows(replicas: list[ClickHouse]) -> None:
    one = replicas[0]
    with pytest.raises(NeedsPerson, match="DDL queries are disabled"):
        one.everywhere("CREATE TABLE IF NOT EXISTS cdc.x (id Int32) ORDER BY id")
    with pytest.raises((Refused, NeedsPerson), match=r"readonly mode|requested quorum"):
        one.execute("INSERT INTO cdc.dim_order__local (id) VALUES (1)")
    ((said,),) = one.execute(
        "SELECT last_error_message FROM system.errors WHERE name = 'NO_ELEMENTS_IN_CONFIG'"
    )
    assert "interserver_http" in said


def test_the_embedded_server_opens_no_port_for_replicas_and_no_keeper(tmp_path: Path) -> None:
    tcp, http, replicas, clients, raft = free_ports(5)
    server = Shard(folder=tmp_path / "server", port=tcp, http_port=http)
    server.configuration.write_text(
        CONFIGURED.format(replicas=replicas, clients=clients, raft=raft, tmp_path=tmp_path)
    )
    server.start()
    try:
        with closing(ClickHouse(server.settings(ONE_SERVER))) as session:
            told = "SELECT value FROM system.server_settings WHERE name = 'interserver_http_port'"
            assert session.execute(told) == [(str(replicas),)]
            with pytest.raises(NeedsPerson, match="supports only TCP and HTTP listeners"):
                session.execute("SYSTEM START LISTEN INTERSERVER HTTP")
        assert not free(tcp)
        assert all(free(port) for port in (replicas, clients, raft))
    finally:
        server.kill()
