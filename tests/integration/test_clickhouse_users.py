"""docker/clickhouse/users.xml on a real server: its users do what they are granted, no more.

The embedded server reads it by `users_config`; only its removal of `default` is left out, as whom
that server runs the query that keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import httpx
import pytest
from pydantic import SecretStr

from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import NeedsPerson, SluiceError
from sluice.operate.doctor.clickhouse import checks
from sluice.settings import ONE_SERVER, PROJECT, Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.cluster.servers import Shard
from tests.support.oracle import facts, joined
from tests.support.pipeline import checked, relaying
from tests.support.services import free_ports, own_services

pytestmark = pytest.mark.services
services = own_services  # others leave invalid messages on their topics

USERS = PROJECT / "docker" / "clickhouse" / "users.xml"
# The image's own users.xml, which ours is merged into.
BASE = (
    "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default>"
    "<password/><networks><ip>::1</ip><ip>127.0.0.1</ip></networks><profile>default</profile>"
    "<quota>default</quota></default></users></clickhouse>"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    folder = tmp_path_factory.mktemp("users")
    tcp, http = free_ports(2)
    made = Shard(folder=folder / "server", port=tcp, http_port=http)
    (folder / "base.xml").write_text(BASE)
    (folder / "base.d").mkdir()
    removal = '<default remove="remove"/>'
    ours = USERS.read_text()
    assert ours.count(removal) == 1
    (folder / "base.d" / "sluice.xml").write_text(ours.replace(removal, ""))
    made.configuration.write_text(
        f"<clickhouse><users_config>{folder / 'base.xml'}</users_config>"
        "<mlock_executable>false</mlock_executable></clickhouse>"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLICKHOUSE_PASSWORD", "writes")
        patch.setenv("CLICKHOUSE_OLAP_PASSWORD", "reads")
        made.start()
    try:
        yield made
    finally:
        made.kill()


def by(server: Shard, settings: Settings, user: str, password: str) -> Settings:
    """The services with this server, as one of its users."""
    there = replace(server.settings(ONE_SERVER), user=user, password=SecretStr(password))
    return replace(settings, clickhouse=there)


@pytest.fixture(scope="module")
def writer(server: Shard, services: Settings) -> Settings:
    """The pipeline as `sluice`, set up by that user alone."""
    settings = by(server, services, "sluice", "writes")
    wiring.initialise(settings)
    return settings


@pytest.fixture
def reader(server: Shard, writer: Settings) -> Iterator[ClickHouse]:
    with closing(ClickHouse(by(server, writer, "olap", "reads").clickhouse)) as session:
        yield session


def test_the_whole_pipeline_runs_with_what_its_user_is_granted(writer: Settings) -> None:
    load(writer, customers=20, orders=40, seed=9)
    with relaying(writer):
        assert checked(writer).passed
        for table in load_catalog(writer.models).tables:
            wiring.resync(writer, table.name)
        assert wiring.rebuild(writer, "fact_order_item", full=True).rows > 0
        assert wiring.rollback(writer, "fact_order_item").mode == "rollback"
        assert wiring.maintain(writer).alarms == ()
        assert wiring.quality(writer, deep=True).passed
    engine = make_engine(writer.postgres)
    assert facts(writer) == joined(engine)
    engine.dispose()


def test_the_doctor_finds_nothing_to_mend(writer: Settings) -> None:
    found = list(checks(writer, load_catalog(writer.models)))
    assert [one.sentence() for one in found if not one.ok] == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE DATABASE other",
        "CREATE USER somebody",
        "DROP DATABASE default",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    ],
)
def test_the_pipelines_user_may_do_nothing_beside_it(writer: Settings, statement: str) -> None:
    with pytest.raises(NeedsPerson, match=r"Not enough privileges|ACCESS_DENIED"):
        wiring.query(writer, statement)


def test_a_reader_sees_the_views(reader: ClickHouse) -> None:
    names = [name for (name,) in reader.execute("SHOW TABLES FROM olap")]
    assert {"fact_order_item", "dim_customer", "revenue_by_day"} <= set(names)
    for name in names:
        assert reader.execute(f"SELECT count() FROM olap.{name}")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM cdc.checkpoints",
        "SELECT * FROM cdc.dead_letters",
        "SELECT * FROM cdc.history_orders",
        "INSERT INTO cdc.dim_order (id) VALUES (1)",
        "DROP VIEW olap.fact_order_item",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SET readonly = 0",
        "SET max_memory_usage = 0",
        "SET max_execution_time = 61",
        "SET max_result_rows = 0",
    ],
)
def test_a_reader_may_neither_write_nor_see_the_rest(reader: ClickHouse, statement: str) -> None:
    with pytest.raises(SluiceError):
        reader.execute(statement)


def test_a_readers_answers_are_bounded(reader: ClickHouse) -> None:
    with pytest.raises(SluiceError, match=r"Limit for result exceeded|max rows"):
        reader.execute("SELECT number FROM numbers(1000001)")


@pytest.mark.parametrize(("user", "most"), [("sluice", 2_000_000_000), ("olap", 1_000_000_000)])
def test_a_user_has_no_more_memory_and_time_than_its_profile(
    server: Shard, writer: Settings, user: str, most: int
) -> None:
    password = "writes" if user == "sluice" else "reads"
    with closing(ClickHouse(by(server, writer, user, password).clickhouse)) as session:
        held = "SELECT getSetting('max_memory_usage'), toUInt32(getSetting('max_execution_time'))"
        assert session.execute(held) == [(most, 600 if user == "sluice" else 60)]
        with pytest.raises(SluiceError, match="memory limit exceeded"):
            session.execute(f"SELECT length(groupArray(number)) FROM numbers({most // 4})")


def test_nobody_comes_in_with_a_wrong_password(server: Shard) -> None:
    for user, password in (("sluice", ""), ("sluice", "reads"), ("olap", "writes")):
        answer = httpx.get(
            f"http://127.0.0.1:{server.http_port}/",
            params={"query": "SELECT 1", "user": user, "password": password},
        )
        assert "AUTHENTICATION_FAILED" in answer.text
