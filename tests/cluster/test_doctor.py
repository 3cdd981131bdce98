"""`sluice doctor` on a cluster of two servers, with one of them gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sluice.catalog import load_catalog
from sluice.operate.doctor.clickhouse import checks
from sluice.operate.doctor.diagnosis import Diagnosis
from sluice.settings import Cluster, Settings, read_settings
from tests.cluster.servers import NAME, Servers

pytestmark = pytest.mark.services

CATALOG = load_catalog("models")


def examined(servers: Servers, cluster: Cluster) -> dict[str, Diagnosis]:
    """Check -> what was found, on the server that Sluice uses; the other's have its address."""
    there = replace(servers.settings(), cluster=cluster)
    settings: Settings = replace(read_settings({}), clickhouse=there)
    found: Iterator[Diagnosis] = checks(settings, CATALOG)
    return {f"{one.service} {one.check}": one for one in found}


def test_the_other_server_is_examined_too_and_its_end_is_named(servers: Servers) -> None:
    other = servers.shards[1]
    found = examined(servers, servers.cluster)
    assert found[f"ClickHouse 127.0.0.1:{other.port} version"].ok
    assert found[f"ClickHouse 127.0.0.1:{other.port} clock"].ok
    assert found[f"clickhouse cluster {NAME}"].found == "2 servers answer"
    other.kill()
    try:
        lost = examined(servers, servers.cluster)[f"clickhouse cluster {NAME}"]
    finally:
        other.start()
    assert (lost.ok, lost.reached) == (False, False)
    assert f"127.0.0.1:{other.port} does not answer" in lost.found


def test_replicated_tables_without_a_keeper_are_named(servers: Servers) -> None:
    found = examined(servers, Cluster(name=NAME, replicated=True))["clickhouse replication"]
    assert found.found == "missing: a Keeper, the macro shard, the macro replica"
    assert "<keeper_server>" in found.remedy
