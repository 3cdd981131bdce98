"""Real services that tests start: PostgreSQL, the broker, ClickHouse, and Airflow's database."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from sluice import wiring
from sluice.capture import slot as slots
from sluice.clients.broker import Broker
from sluice.embedded.postgres import ensure_database
from sluice.embedded.programs import STORES
from sluice.embedded.stack import Stack
from sluice.errors import SluiceError
from sluice.settings import Settings, read_settings
from store_api.database import create_tables
from tests.support import crashes, tiers
from tests.support.outside_broker import forget, outside_variables
from tests.support.waiting import until

_MEMORY, _ROOM = Path("/dev/shm"), 12 << 30


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, each with a free neighbour.

    Below those that the system gives to clients, which would take a neighbour before it is used.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 30_000, 2)
        if port not in ports and free(port) and free(port + 1):
            ports.append(port)
    return ports


def free(port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def stack_environment(home: Path) -> dict[str, str]:
    """The variables of a stack of its own: its home and free ports.

    `SLUICE_TEST_BROKER` puts another broker in the embedded one's place.
    """
    names = ("POSTGRES", "KAFKA", "CLICKHOUSE", "CLICKHOUSE_HTTP", "API", "AIRFLOW")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    variables = {f"SLUICE_{name}_PORT": str(port) for name, port in ports.items()}
    # Ranges of a table are read one after the other, however many cores there are.
    variables["SLUICE_COPY_READERS"] = "1"
    return {**inherited(), **variables, **outside_variables(), "SLUICE_HOME": str(home)}


def inherited() -> dict[str, str]:
    """The environment of the tests without settings, and without a `.env` in the repository."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    return {**others, "SLUICE_ENV_FILE": os.devnull}


def in_memory() -> Path | None:
    """A folder whose files are in memory; None where there is no room for those of all workers.

    ClickHouse makes and deletes thousands of small files. On a file system such as ext4 without a
    journal that takes most of its time.
    """
    if not _MEMORY.is_dir():
        return None
    room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    return _MEMORY if room > _ROOM else None


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A stack's home. Not below pytest's own folder: every pytest that starts closes that to
    other users, and PostgreSQL runs as one where the tests run as root.
    """
    tiers.require("services", "e2e", "others")
    with TemporaryDirectory(
        prefix="sluice-test-", dir=in_memory(), ignore_cleanup_errors=True
    ) as folder:
        crashes.watch(Path(folder))
        try:
            yield Path(folder)
        finally:
            crashes.forget(Path(folder))


@contextmanager
def started(
    environment: Mapping[str, str], programs: Sequence[str] = STORES
) -> Iterator[tuple[Settings, Stack]]:
    """A stack with these of its programs, and its settings, which have the passwords it made.

    On another broker than the embedded one nothing of a former stack is left.
    """
    Stack(read_settings(environment)).launch()
    settings = read_settings(environment)
    stack = Stack(settings)
    try:
        if "broker" in programs and not settings.kafka.embedded:
            forget(settings.kafka)
        stack.start([name for name in programs if name in stack.programs], lambda _: None)
        if "postgres" in programs:
            ensure_database(settings.postgres, settings.postgres.database)
        yield settings, stack
    finally:
        stack.stop()


def initialise(settings: Settings) -> None:
    """Create the store's tables, and everything that `sluice init` makes."""
    create_tables(settings.postgres)
    wiring.initialise(settings)


@contextmanager
def running_services(home: Path) -> Iterator[Settings]:
    """PostgreSQL, broker and ClickHouse with everything that `sluice init` makes."""
    with started(stack_environment(home)) as (settings, _):
        initialise(settings)
        yield settings


@pytest.fixture(scope="module")
def own_services() -> Iterator[Settings]:
    """Services of a module that leaves them unlike it found them: `services = own_services`."""
    with temporary_home() as home, running_services(home) as settings:
        yield settings


def migrate(home: Path) -> None:
    """Create an Airflow's metadata database: airflow.db in its home."""
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    environment = {**os.environ, "AIRFLOW_HOME": str(home)}
    subprocess.run(command, env=environment, check=True, capture_output=True)


def drop_slot(settings: Settings) -> None:
    """Drop the slot of a relay that has stopped; its session in Postgres may end a little later."""
    name = settings.relay.slot
    with slots.session(settings.postgres) as cursor:

        def dropped() -> bool:
            cursor.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name = %s AND active_pid IS NULL",
                [name],
            )
            cursor.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [name])
            return cursor.fetchone() is None

        until(dropped, f"slot {name} is dropped")


def delete_topics(settings: Settings, names: set[str]) -> None:
    admin = AdminClient(Broker(settings.kafka).options)
    present = names & set(admin.list_topics(timeout=10).topics)
    for future in admin.delete_topics(list(present)).values() if present else ():
        future.result()


def clickhouse_answers(settings: Settings) -> bool:
    """Whether ClickHouse answers: the embedded one starts again after a wrong password."""
    try:
        wiring.query(settings, "SELECT 1")
    except SluiceError:
        return False
    return True
