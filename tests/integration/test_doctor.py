"""`sluice doctor` on real services with planted faults."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from sluice.capture import slot as slots
from sluice.catalog import Catalog, load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.topics import EPOCH_TOPIC, Topics
from sluice.embedded.stack import Stack
from sluice.generate.clickhouse import table_statements
from sluice.operate.doctor import Diagnosis, broker, examine
from sluice.operate.doctor.clickhouse import checks as clickhouse_checks
from sluice.settings import Cluster, RelaySettings, Settings
from sluice.star import create as warehouse
from sluice.star.create import state_tables
from sluice.warehouse.creation import created
from tests.support.processes import command_environment
from tests.support.services import free_ports
from tests.support.strangers import stranger

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog("models")


def wrong(settings: Settings, catalog: Catalog) -> list[Diagnosis]:
    return [diagnosis for diagnosis in examine(settings, catalog) if not diagnosis.ok]


@contextmanager
def lacking(settings: Settings, table: str) -> Iterator[None]:
    with closing(ClickHouse(settings.clickhouse)) as clickhouse:
        clickhouse.execute(f"RENAME TABLE cdc.{table} TO cdc.hidden")
        try:
            yield
        finally:
            clickhouse.execute(f"RENAME TABLE cdc.hidden TO cdc.{table}")


def test_nothing_is_to_mend_after_init(services: Settings, catalog: Catalog) -> None:
    assert wrong(services, catalog) == []


def test_a_missing_state_table_is_named(services: Settings, catalog: Catalog) -> None:
    with lacking(services, "drains"):
        (found,) = wrong(services, catalog)
    assert (found.check, found.found) == ("state tables", "missing: drains")
    assert found.remedy == "run: sluice init"


def relations(services: Settings, catalog: Catalog) -> set[str]:
    """The tables and views in ClickHouse that the models have."""
    found: set[str] = set()
    for table in catalog.tables:
        found |= created(table_statements(table).values())
    for fact in catalog.facts:
        found |= warehouse.relations_of_fact(fact, services.clickhouse.cluster)
    return found


def test_everything_that_init_makes_is_looked_for(services: Settings, catalog: Catalog) -> None:
    looked_for = {f"cdc.{name}" for name in warehouse.state_tables()}
    looked_for |= relations(services, catalog)
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        warehouse.create_warehouse(clickhouse, catalog)
        present = "SELECT concat(database, '.', name) FROM system.tables"
        kept = "AND name NOT LIKE '%\\_\\_shadow\\_%' AND name NOT LIKE '%\\_\\_before%'"
        kept += " AND name NOT LIKE '%\\_\\_kept'"
        made = clickhouse.execute(f"{present} WHERE database IN ('cdc', 'olap') {kept}")
    named = re.compile("customer|product|order|item|revenue")
    of_models = {place for (place,) in made if named.search(place)}
    assert of_models == {place for place in looked_for if named.search(place)}
    assert looked_for <= {place for (place,) in made}
    assert {"cdc.repairs", "cdc.resync_ranges"} <= looked_for


def test_before_init_every_table_and_fact_of_the_models_is_missing(services: Settings) -> None:
    catalog = load_catalog("tests.generate.badges")
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        for place in sorted(relations(services, catalog), reverse=True):  # views first
            clickhouse.execute(f"DROP TABLE IF EXISTS {place} SYNC")  # of other modules
    found = {one.check: one for one in clickhouse_checks(services, catalog)}
    assert "olap.fact_visit" in found["fact_visit"].found
    for name in ("crm_guests", "visits", "fact_visit"):
        assert not found[name].ok
        assert found[name].found.startswith("missing: cdc.")
        assert found[name].remedy == "run: sluice init"


@pytest.mark.parametrize("table", [name for name, columns in state_tables().items() if columns])
def test_a_state_table_of_an_earlier_version_is_named_with_what_it_lacks(
    services: Settings, catalog: Catalog, table: str
) -> None:
    columns = state_tables()[table]
    with closing(ClickHouse(services.clickhouse)) as clickhouse:
        for column in reversed(columns):  # one may be made of those before it
            clickhouse.execute(f"ALTER TABLE cdc.{table} DROP COLUMN {column}")
        found = [one for one in clickhouse_checks(services, catalog) if not one.ok]
        warehouse.create_warehouse(clickhouse, catalog)
    lacking = ", ".join(f"{table}.{column}" for column in sorted(columns))
    assert [one.found for one in found] == [f"missing: {lacking}"]
    assert [one for one in clickhouse_checks(services, catalog) if not one.ok] == []


@contextmanager
def full(_: Settings) -> Iterator[int]:
    """A port whose server takes no connection: packets to it are dropped."""
    with socket.socket() as server, ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _number in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextmanager
def closed(_: Settings) -> Iterator[int]:
    yield free_ports(1)[0]


@contextmanager
def silent(_: Settings) -> Iterator[int]:
    with stranger("says nothing") as port:
        yield port


@contextmanager
def stopped(services: Settings) -> Iterator[int]:
    """The services themselves, as SIGSTOP leaves them."""
    states = Stack(services).states()
    held = [states[name].pid or 0 for name in ("postgres", "broker", "clickhouse")]
    held += [child.pid for pid in held for child in psutil.Process(pid).children(recursive=True)]
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield 0
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.clickhouse_may_crash
@pytest.mark.parametrize("way", [stopped, closed, silent, full], ids=lambda way: way.__name__)
def test_services_that_are_down_are_waited_for_at_once_and_not_for_long(
    services: Settings, catalog: Catalog, way: Any
) -> None:
    with way(services) as port:
        down = services
        if port:
            down = replace(
                services,
                postgres=replace(services.postgres, port=port),
                kafka=replace(services.kafka, bootstrap=f"127.0.0.1:{port}"),
                clickhouse=replace(services.clickhouse, port=port),
            )
        found = examine(down, catalog)
    assert [one.service for one in found] == ["postgres", "broker", "clickhouse"]
    assert not any(one.ok or one.reached for one in found)
    assert all("answer" in one.found and one.remedy for one in found)
    if way is closed:
        assert all("refused" in one.found for one in found)


@pytest.mark.parametrize("command", ["status", "doctor", "down", "up --detach"])
def test_a_supervisor_that_hangs_is_named_by_each_command_that_asks_it(
    services: Settings, command: str
) -> None:
    pid = int((services.home / "run" / "supervisord.pid").read_text())
    environment = command_environment(services)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = subprocess.run(
            [Path(sys.executable).parent / "sluice", *command.split()],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    told = done.stdout + done.stderr
    assert done.returncode == 3, told
    assert f"the supervisor (process {pid}) did not answer" in told
    assert f"kill -CONT {pid}" in told
    assert "Traceback" not in told
    if command == "doctor":
        assert "ok   clickhouse: state tables" in told
    elif command == "status":
        assert "orders" in told
    assert Stack(services).running()


def test_a_publication_that_is_not_there_is_named(services: Settings, catalog: Catalog) -> None:
    other = replace(services, relay=RelaySettings(slot="unpublished", ack="broker"))
    (found,) = wrong(other, catalog)
    assert found.check == "publication pglog_stream_unpublished"


def test_a_role_that_may_neither_replicate_nor_read_is_named(
    services: Settings, catalog: Catalog
) -> None:
    with slots.session(services.postgres) as cursor:
        cursor.execute("CREATE ROLE plain_reader LOGIN PASSWORD 'plain'")
    plain = replace(services.postgres, user="plain_reader", password=SecretStr("plain"))
    try:
        found = {one.check: one for one in wrong(replace(services, postgres=plain), catalog)}
    finally:
        with slots.session(services.postgres) as cursor:
            cursor.execute("DROP ROLE plain_reader")
    assert set(found) == {"replication", "privileges"}
    assert "GRANT SELECT ON public.customers, public.order_items" in found["privileges"].remedy


def test_a_role_that_replicates_by_amazons_grant_may_replicate(
    services: Settings, catalog: Catalog
) -> None:
    """RDS gives nobody the attribute REPLICATION; membership of rds_replication stands for it."""
    with slots.session(services.postgres) as cursor:
        cursor.execute("CREATE ROLE rds_replication")
        cursor.execute("CREATE ROLE hosted LOGIN PASSWORD 'plain' IN ROLE rds_replication")
    hosted = replace(services.postgres, user="hosted", password=SecretStr("plain"))
    try:
        found = {one.check for one in wrong(replace(services, postgres=hosted), catalog)}
    finally:
        with slots.session(services.postgres) as cursor:
            cursor.execute("DROP ROLE hosted, rds_replication")
    assert found == {"privileges"}


@contextmanager
def topic(
    settings: Settings, catalog: Catalog, options: dict[str, str], partitions: int = 1
) -> Iterator[tuple[str, list[Diagnosis]]]:
    """A topic of one more table, and what is told of the broker then."""
    table = replace(catalog.tables[0], name="another")
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap, **settings.kafka.options})
    made = admin.create_topics([NewTopic(table.topic, partitions, 1, config=options)])
    made[table.topic].result(10)
    Topics(settings.kafka).ensure([table.topic])  # waits until the broker leads it
    try:
        found = examine(settings, replace(catalog, tables=(*catalog.tables, table)))
        yield table.topic, [diagnosis for diagnosis in found if diagnosis.service == "broker"]
    finally:
        admin.delete_topics([table.topic])[table.topic].result(10)


def test_a_topic_with_two_partitions_is_named(services: Settings, catalog: Catalog) -> None:
    with topic(services, catalog, {}, partitions=2) as (name, found):
        (parted,) = [diagnosis for diagnosis in found if not diagnosis.ok]
    assert (parted.check, parted.found) == (name, "2 partitions")


def test_a_topic_whose_messages_go_before_a_weekend_is_over_is_named(
    services: Settings, catalog: Catalog
) -> None:
    with topic(services, catalog, {"retention.ms": "172800000"}) as (name, found):
        (short,) = [diagnosis for diagnosis in found if not diagnosis.ok]
    kept = "2 days, 0:00:00, less than the 3 days that a drain may be stopped"
    assert (short.check, short.found, short.warning) == (f"retention of {name}", kept, True)
    assert short.remedy == f"set retention.ms=259200000 or more on {name}"


def test_a_topic_that_is_compacted_is_named(services: Settings, catalog: Catalog) -> None:
    with topic(services, catalog, {"cleanup.policy": "compact,delete"}) as (name, found):
        (compacted,) = [diagnosis for diagnosis in found if not diagnosis.ok]
    assert (compacted.check, compacted.found) == (
        f"retention of {name}",
        "cleanup.policy=compact,delete",
    )


@pytest.mark.parametrize(
    ("kept", "found"),
    [("259200000", "3 days, 0:00:00, at most 1000 bytes"), ("-1", "for ever, at most 1000 bytes")],
)
def test_a_topic_that_keeps_its_messages_long_enough_is_told_with_its_limit(
    services: Settings, catalog: Catalog, kept: str, found: str
) -> None:
    options = {"retention.ms": kept, "retention.bytes": "1000"}
    with topic(services, catalog, options) as (name, diagnoses):
        (told,) = [one for one in diagnoses if one.check == f"retention of {name}"]
    assert (told.ok, told.found) == (True, found)


def test_a_broker_that_does_not_tell_its_retention_is_no_fault() -> None:
    """It does not where the user may not describe the topic's configuration."""
    untold = broker._retention("cdc.another", {})
    assert (untold.ok, untold.found) == (True, "unknown: the broker does not report it")


def test_the_brokers_epoch_is_kept_for_ever(services: Settings, catalog: Catalog) -> None:
    (kept,) = [one for one in examine(services, catalog) if EPOCH_TOPIC in one.check]
    assert (kept.ok, kept.found) == (True, "for ever")


def with_options(settings: Settings, **chosen: object) -> Settings:
    """The same services, by a session whose profile sets these."""
    return replace(settings, clickhouse=replace(settings.clickhouse, options={"settings": chosen}))


def test_grants_that_are_missing_are_named_with_the_statements_that_give_them(
    services: Settings, catalog: Catalog
) -> None:
    """The embedded server has no other users; a profile that only reads takes the same rights."""
    found = {one.check: one for one in wrong(with_options(services, readonly=1), catalog)}
    assert set(found) == {"grants", "settings"}
    assert "GRANT INSERT, ALTER, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW" in (
        found["grants"].remedy
    )
    assert "CREATE TEMPORARY TABLE ON *.*" in found["grants"].found
    assert found["settings"].found == "readonly=1"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("wait_for_async_insert", 0, "1"),
        ("do_not_merge_across_partitions_select_final", 1, "0"),
        ("skip_unavailable_shards", 1, "0"),
        ("join_use_nulls", 1, "0"),
        ("transform_null_in", 1, "0"),
        ("data_type_default_nullable", 1, "0"),
        ("result_overflow_mode", "break", "throw"),
    ],
)
def test_a_setting_that_loses_or_changes_rows_is_named(
    services: Settings, catalog: Catalog, name: str, value: object, wanted: str
) -> None:
    changed = with_options(services, **{name: value})
    (found,) = [one for one in wrong(changed, catalog) if one.check == "settings"]
    assert found.found == f"{name}={value}"
    assert found.remedy == f"set in its profile: {name}={wanted}"


def test_a_profile_that_fixes_the_limits_which_a_wide_table_needs_is_named(
    services: Settings, catalog: Catalog
) -> None:
    table = catalog.table("customers")
    many = tuple(replace(table.columns[1], name=f"column_{at}") for at in range(1590))
    wide = replace(catalog, tables=(replace(table, columns=(*table.columns, *many)),))
    for models, fixed, wanted in ((catalog, 1, []), (wide, 0, []), (wide, 1, ["customers"])):
        found = wrong(with_options(services, readonly=fixed), models)
        named = [one for one in found if one.check == "long statements"]
        assert ["customers" for one in named if "customers" in one.found] == wanted
        assert all("max_query_size up to" in one.remedy for one in named)


def test_a_cluster_that_the_server_does_not_know_is_named(
    services: Settings, catalog: Catalog
) -> None:
    elsewhere = replace(services.clickhouse, cluster=Cluster(name="absent"))
    found = {one.check: one for one in wrong(replace(services, clickhouse=elsewhere), catalog)}
    assert "no cluster 'absent' among its remote_servers" in found["cluster absent"].found
    assert "SLUICE_CLICKHOUSE_CLUSTER" in found["cluster absent"].remedy


def test_a_clock_that_is_wrong_is_named(
    services: Settings, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both servers share this machine's clock: it is the doctor's that is moved."""
    for module in ("postgres", "clickhouse"):
        monkeypatch.setattr(f"sluice.operate.doctor.{module}.time", lambda: time.time() - 60)
    found = wrong(services, catalog)
    assert [(one.service, one.check) for one in found] == [
        ("postgres", "clock"),
        ("clickhouse", "clock"),
    ]
    assert float(found[0].found.split()[0]) == pytest.approx(60, abs=5)


def test_the_command_tells_what_does_not_answer_from_what_is_wrong(services: Settings) -> None:
    (free,) = free_ports(1)
    there = command_environment(services)
    cases: tuple[tuple[dict[str, str], int], ...] = (
        ({}, 0),
        ({"SLUICE_SLOT": "elsewhere"}, 1),
        ({"SLUICE_POSTGRES_PORT": str(free)}, 3),
    )
    for changed, code in cases:
        done = doctor({**there, **changed}, "--json")
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout)["healthy"] == (code == 0)
        assert "Traceback" not in done.stderr
    assert re.search(
        r"^All \d+ checks of the services passed\.", doctor(there).stdout, re.MULTILINE
    )


def doctor(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """What `sluice doctor` says in an environment."""
    command = [sys.executable, "-c", "from sluice.cli import main; main()", "doctor", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
