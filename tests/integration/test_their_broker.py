"""A broker that is not the stack's: what `sluice up` checks on a Kafka with users and rights."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from sluice.catalog import load_catalog
from sluice.cli.status import read_status
from sluice.cli.their_broker import require_broker
from sluice.clients.topics import EPOCH_TOPIC, Topics
from sluice.embedded.programs import programs
from sluice.embedded.stack import Stack
from sluice.errors import NeedsPerson, NotReady
from sluice.generate.files import topics
from sluice.operate.doctor import Diagnosis, examine_broker
from sluice.settings import KafkaSettings, Settings, read_settings
from store_api.demo import load
from tests.support.pipeline import checked, relaying
from tests.support.processes import SLUICE
from tests.support.services import (
    free,
    free_ports,
    initialise,
    stack_environment,
    started,
    temporary_home,
)
from tests.support.strangers import stranger
from tests.support.their_broker import Right, TheirBroker, login_of, their_broker

pytestmark = pytest.mark.services

CATALOG = load_catalog("models")
NAMES = [*topics(CATALOG), EPOCH_TOPIC]
NEEDED = {
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
}
GROUPS = Right(resource=ResourceType.GROUP, name="sluice-", operations=(AclOperation.READ,))
numbers = count()


@pytest.fixture(autouse=True)
def own_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of these tests have a broker of their own, or the one of the test."""
    monkeypatch.delenv("SLUICE_TEST_BROKER", raising=False)


@pytest.fixture(scope="module")
def broker() -> Iterator[TheirBroker]:
    with their_broker() as broker:
        yield broker


@pytest.fixture
def empty(broker: TheirBroker) -> Iterator[TheirBroker]:
    """The broker without topics of the pipeline."""
    delete(broker)
    yield broker
    delete(broker)


def delete(broker: TheirBroker) -> None:
    admin = broker.admin()
    present = [name for name in admin.list_topics(timeout=10).topics if name.startswith("cdc.")]
    for future in admin.delete_topics(present).values() if present else ():
        future.result()


def on_topics(*left_out: str) -> Right:
    """The rights that docs/services/kafka.md lists, without some."""
    operations = tuple(one for name, one in NEEDED.items() if name not in left_out)
    return Right(resource=ResourceType.TOPIC, name="cdc.", operations=operations)


def user(broker: TheirBroker, *rights: Right) -> KafkaSettings:
    """A new user with these rights."""
    options = broker.user(f"user-{next(numbers)}", rights)
    return KafkaSettings(bootstrap=broker.address, options=options)


def with_broker(kafka: KafkaSettings, home: Path) -> Settings:
    return replace(read_settings(stack_environment(home)), kafka=kafka)


def failed(kafka: KafkaSettings, home: Path) -> list[Diagnosis]:
    return [one for one in examine_broker(with_broker(kafka, home), CATALOG) if not one.ok]


def up(address: str, options: dict[str, str], home: Path) -> tuple[int, list[str], dict[str, str]]:
    """Run `sluice up`; return its exit code, the lines of its error, and the variables."""
    variables = {
        **stack_environment(home),
        "SLUICE_KAFKA_BOOTSTRAP": address,
        "SLUICE_KAFKA_OPTIONS": json.dumps(options),
    }
    done = subprocess.run(
        [SLUICE, "up", "--detach"], env=variables, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr.splitlines(), variables


def require_nothing_begun(home: Path, variables: dict[str, str]) -> None:
    assert not (home / "run").exists()
    assert free(int(variables["SLUICE_KAFKA_PORT"]))


@pytest.mark.parametrize("login", [("owner", "wrong-password"), ("nobody", "nobody")])
def test_up_stops_at_a_login_that_is_refused(
    broker: TheirBroker, tmp_path: Path, login: tuple[str, str]
) -> None:
    code, lines, variables = up(broker.address, login_of(*login), tmp_path)
    assert code == 3
    error, remedy = lines
    assert f"broker {broker.address} refuses the login" in error
    assert "sasl.password in SLUICE_KAFKA_OPTIONS" in remedy
    require_nothing_begun(tmp_path, variables)


def test_up_stops_where_nothing_listens(tmp_path: Path) -> None:
    addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    code, lines, variables = up(addresses, {}, tmp_path)
    assert code == 3
    error, remedy = lines
    assert f"broker {addresses} does not answer" in error
    assert "SLUICE_KAFKA_BOOTSTRAP" in remedy
    assert "sluice logs" not in remedy
    require_nothing_begun(tmp_path, variables)


@pytest.mark.parametrize("kind", ["another HTTP server", "greets as SSH"])
def test_up_stops_at_a_server_of_another_kind(tmp_path: Path, kind: str) -> None:
    with stranger(kind) as port:
        code, lines, variables = up(f"127.0.0.1:{port}", {}, tmp_path)
    assert code == 3
    error, remedy = lines
    assert "gives no answer of Kafka's protocol" in error
    assert "SLUICE_KAFKA_BOOTSTRAP" in remedy
    require_nothing_begun(tmp_path, variables)


def test_up_stops_at_a_user_without_rights(broker: TheirBroker, tmp_path: Path) -> None:
    kafka = user(broker)
    code, lines, variables = up(kafka.bootstrap, dict(kafka.options), tmp_path)
    assert code == 4
    error, remedy = lines
    assert "the user lacks Create, Describe, DescribeConfigs, Read, Write on cdc." in error
    assert "docs/services/kafka.md" in remedy
    require_nothing_begun(tmp_path, variables)


def test_the_status_lists_it_with_whether_it_answers_and_why_not(
    broker: TheirBroker, tmp_path: Path
) -> None:
    def listed(kafka: KafkaSettings) -> dict[str, object]:
        return dict(read_status(with_broker(kafka, tmp_path))["services"]["broker"])

    kafka = KafkaSettings(bootstrap=broker.address, options=broker.options)
    answers = {"state": "answers", "error": ""}
    assert listed(kafka) == {"pid": None, "address": broker.address, "external": True, **answers}
    refused = listed(replace(kafka, options=login_of("owner", "wrong-password")))
    assert refused["state"] == "does not answer"
    error, remedy = str(refused["error"]).split("\n")
    assert f"broker {broker.address} refuses the login" in error
    assert "sasl.password in SLUICE_KAFKA_OPTIONS" in remedy


def test_the_listed_rights_are_enough_and_the_checks_change_nothing(
    empty: TheirBroker, tmp_path: Path
) -> None:
    kafka = user(empty, on_topics(), GROUPS)
    found = failed(kafka, tmp_path)
    assert {one.check for one in found} == set(topics(CATALOG))
    assert {one.remedy for one in found} == {"sluice init"}
    admin = empty.admin()
    present = admin.list_topics(timeout=10).topics
    assert [name for name in present if name.startswith("cdc.")] == []
    assert admin.list_consumer_groups().result().valid == []
    assert not require_broker(with_broker(kafka, tmp_path), print)


@pytest.mark.parametrize("right", NEEDED)
def test_a_right_that_is_missing_is_named(empty: TheirBroker, tmp_path: Path, right: str) -> None:
    """Create where the topics are missing, the others where they exist."""
    if right != "Create":
        Topics(KafkaSettings(bootstrap=empty.address, options=empty.options)).ensure(NAMES[:-1])
    # Kafka lets those describe a topic who may read or write it.
    implied = ("Read", "Write", "DescribeConfigs") if right == "Describe" else ()
    found = failed(user(empty, on_topics(right, *implied), GROUPS), tmp_path)
    (lacked,) = [one for one in found if one.check == "rights on topics"]
    words = ", ".join(name for name in NEEDED if name == right or name in implied)
    others = len(NAMES) - 3
    assert f"the user lacks {words} on {', '.join(NAMES[:3])} and {others} more" == lacked.found
    assert words in lacked.remedy
    assert lacked.warning == (right == "DescribeConfigs")


def test_to_keep_dead_letters_for_some_days_needs_one_more_right(
    empty: TheirBroker, tmp_path: Path
) -> None:
    kafka = user(empty, on_topics(), GROUPS)
    Topics(kafka).ensure(NAMES[:-1])
    settings = replace(with_broker(kafka, tmp_path), letters_kept=timedelta(days=30))
    found = [one for one in examine_broker(settings, CATALOG) if not (one.ok or one.warning)]
    assert [one.found for one in found] == ["the user lacks AlterConfigs on cdc.dead_letter"]


def test_read_is_missed_before_the_topics_exist(empty: TheirBroker, tmp_path: Path) -> None:
    found = failed(user(empty, on_topics("Read"), GROUPS), tmp_path)
    (lacked,) = [one for one in found if one.check == "rights on topics"]
    assert lacked.found.startswith("the user lacks Read on ")


@pytest.mark.parametrize("operations", [(), (AclOperation.DESCRIBE,)])
def test_groups_for_which_the_user_may_not_commit_are_named(
    empty: TheirBroker, tmp_path: Path, operations: tuple[AclOperation, ...]
) -> None:
    groups = replace(GROUPS, operations=operations)
    drains = replace(GROUPS, name="sluice-drain")
    kafka = user(empty, on_topics(), groups, drains)
    (lacked,) = [one for one in failed(kafka, tmp_path) if one.check == "rights on groups"]
    assert lacked.found == "the user lacks Read on sluice-relay-sluice, sluice-published-sluice"
    with pytest.raises(NeedsPerson, match="lacks Read on sluice-relay-sluice"):
        require_broker(with_broker(kafka, tmp_path), print)


def test_topics_that_the_broker_would_not_create_are_named(tmp_path: Path) -> None:
    with their_broker({"default.replication.factor": "3"}) as broker:
        kafka = KafkaSettings(bootstrap=broker.address, options=broker.options)
        (refused,) = [one for one in failed(kafka, tmp_path) if one.check == "topics to create"]
    assert "replication factor" in refused.found


def test_one_dead_address_of_two_is_no_fault(empty: TheirBroker, tmp_path: Path) -> None:
    (closed,) = free_ports(1)
    kafka = user(empty, on_topics(), GROUPS)
    kafka = replace(kafka, bootstrap=f"127.0.0.1:{closed},{empty.address}")
    assert not require_broker(with_broker(kafka, tmp_path), print)


def alter(broker: TheirBroker, name: str, option: str, value: int) -> None:
    entry = ConfigEntry(option, str(value), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
    admin = broker.admin()
    admin.incremental_alter_configs([resource])[resource].result()


def test_what_is_short_or_small_is_told_with_numbers(
    empty: TheirBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = user(empty, on_topics(), GROUPS)
    Topics(kafka).ensure(NAMES[:-1])
    name = NAMES[0]
    alter(empty, name, "retention.ms", 3_600_000)
    short, large = failed(kafka, tmp_path)[:2]
    assert short.found == "1:00:00, less than the 3 days that a drain may be stopped"
    assert short.remedy == f"set retention.ms=259200000 or more on {name}"
    assert large.found == (
        "max.message.bytes=1048588: a row that is larger compressed becomes a dead letter;"
        " the relay sends up to 67108864"
    )
    assert "set max.message.bytes=68157440 on the topic" in large.remedy
    assert require_broker(with_broker(kafka, tmp_path), print)
    printed = capsys.readouterr().out
    assert f"warn broker: retention of {name}: 1:00:00" in printed
    assert f"warn broker: message size of {name}: max.message.bytes=1048588" in printed

    accepted = replace(kafka, options={**kafka.options, "message.max.bytes": "1048588"})
    assert [one.check for one in failed(accepted, tmp_path)] == [f"retention of {name}"]

    alter(empty, name, "max.message.bytes", 500_000)
    (stops,) = [one for one in failed(accepted, tmp_path) if not one.warning]
    assert stops.check == f"message size of {name}"
    assert "the relay's batches have up to 1000000 bytes" in stops.found
    with pytest.raises(NeedsPerson, match="bytes=500000"):
        require_broker(with_broker(accepted, tmp_path), print)


def test_the_pipeline_runs_by_the_listed_rights_beside_a_server_on_the_own_brokers_port(
    empty: TheirBroker,
) -> None:
    kafka = user(empty, on_topics(), GROUPS)
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home())
        variables = {
            **stack_environment(home),
            "SLUICE_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "SLUICE_KAFKA_OPTIONS": json.dumps(dict(kafka.options)),
        }
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        variables["SLUICE_KAFKA_PORT"] = str(taken.getsockname()[1])
        running = started(variables, ("postgres", "clickhouse"))
        settings, own = stack.enter_context(running)
        assert "broker" not in own.states()
        initialise(settings)
        load(settings, customers=20, orders=50, seed=5)
        with relaying(settings):
            assert not checked(settings).failures
        wrong = [one for one in examine_broker(settings, CATALOG) if not one.ok]
        assert {one.check.partition(" of ")[0] for one in wrong} == {"message size"}
        asked = subprocess.run(
            [SLUICE, "logs", "broker"], env=variables, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 2
        assert f"the broker at {kafka.bootstrap} is not of this stack" in asked.stderr
        printed = subprocess.run(
            [SLUICE, "status"], env=variables, capture_output=True, text=True, check=False
        )
        assert re.search(rf"broker +│ answers +│ +│ {kafka.bootstrap} ", printed.stdout)
        del variables["SLUICE_KAFKA_BOOTSTRAP"], variables["SLUICE_KAFKA_OPTIONS"]
        with pytest.raises(NotReady, match="without a broker of its own"):
            Stack(read_settings(variables)).launch()


def test_an_own_broker_that_runs_is_not_left_beside_theirs(broker: TheirBroker) -> None:
    with temporary_home() as home:
        variables = stack_environment(home)
        with started(variables, ()):
            theirs = read_settings({**variables, "SLUICE_KAFKA_BOOTSTRAP": broker.address})
            assert "broker" not in programs(theirs)
            with pytest.raises(NotReady, match="with a broker of its own") as raised:
                Stack(theirs).launch()
    assert raised.value.remedy == "run: sluice down, then: sluice up"
