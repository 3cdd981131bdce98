"""Settings as frozen objects, passed down from an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sluice.person import system_person

# The embedded ClickHouse's user of the pipeline, whose password is the secret `clickhouse`.
WRITER = "sluice"
# The Airflow pool of every task that reads or writes ClickHouse, and its slots here.
WAREHOUSE_POOL, WAREHOUSE_SLOTS = "sluice_warehouse", 4

METADATA_PORT = 2  # offset from Airflow's own port; see Settings.metadata

# SCRAM proves that the server knows the password. Another server that listens on the port could ask
# for it in clear text.
OWN_POSTGRES = {"require_auth": "scram-sha-256"}

# An external PostgreSQL's name among the services: the stack's own, with the metadata, is postgres.
SOURCE = "postgres-source"
BROKER_USER = "sluice"  # of the embedded broker, whose password is the secret `kafka`


def own_broker(password: str) -> dict[str, str]:
    """Return librdkafka's options that log in to the embedded broker; none without a password."""
    if not password:
        return {}
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "SCRAM-SHA-256",
        "sasl.username": BROKER_USER,
        "sasl.password": password,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """Connection settings of the source.

    Attributes:
        options: libpq's (sslmode and the like).
        embedded: whether it is the embedded stack's server: no other host or password is set.
        mask_key: the secret with which values of masked columns are hashed; empty without one.
    """

    host: str
    port: int
    user: str
    password: SecretStr
    database: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    embedded: bool = False
    mask_key: SecretStr = field(default=SecretStr(""))

    @property
    def address(self) -> str:
        """Return host:port."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Connection settings of the broker.

    Attributes:
        bootstrap: its addresses, host:port,...
        options: librdkafka's (`security.protocol` ...).
        embedded: whether it is the embedded stack's broker: no other address is set.
    """

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    embedded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The ClickHouse servers that hold the tables; without a name a single server.

    Attributes:
        name: the cluster's name in ClickHouse's remote_servers.
        replicated: whether Keeper replicates tables and distributes DDL. Default: false.
    """

    name: str = ""
    replicated: bool = False

    def local(self, table: str) -> str:
        """Return the name of the table in `cdc` that holds a server's own rows of a table."""
        return f"{table}__local" if self.name else table


ONE_SERVER = Cluster()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickHouseSettings:
    """Connection settings of the warehouse.

    Attributes:
        options: clickhouse-driver's options (secure and the like).
        embedded: whether it is the embedded stack's server: no other is set.
        account: id of the system account that runs the embedded server; None without a password.
        person: who is recorded for resyncs, repairs, rebuilds and dismissals.
    """

    host: str
    port: int
    http_port: int
    user: str
    password: SecretStr
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cluster: Cluster = ONE_SERVER
    embedded: bool = False
    account: int | None = None
    person: str = field(default_factory=system_person)

    @property
    def address(self) -> str:
        """Return host:port of the native protocol."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """Settings of the relay; `ack` is `drained` or `broker`.

    Attributes:
        metrics: host and port where it serves metrics. Default: None, for nowhere.
    """

    slot: str
    ack: str
    metrics: tuple[str, int] | None = None

    @property
    def publication(self) -> str:
        """Return the publication's name, the same as Redpanda Connect's."""
        return f"pglog_stream_{self.slot}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSettings:
    """Limits of a run of drains.

    Attributes:
        events, seconds: most events read of a table, and most seconds spent reading.
        chunk, chunk_bytes: events and bytes validated and inserted at a time; they bound memory.
        reject_ratio: share of invalid events in a chunk that stops the drain, 0 to 1.
        reject_run: most consecutive invalid events.
        threads: most tables drained at a time by a process, which share the bytes. Default: 1.
        processes: most tasks of Airflow that share a large backlog. Default: 1.
    """

    events: int
    seconds: float
    chunk: int
    chunk_bytes: int
    reject_ratio: float
    reject_run: int
    threads: int = 1
    processes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """Where findings and recoveries are sent; a channel without an address is off.

    Attributes:
        link_local: whether alerts may go to link-local addresses.
        page: URL of the CDC page, to which alerts link; empty without one.
    """

    webhook: SecretStr
    slack: SecretStr
    smtp: SecretStr
    sender: str
    recipients: tuple[str, ...]
    link_local: bool
    page: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a run.

    Attributes:
        project: the project's folder: of sluice.toml, the models and the DAGs.
        quality_seconds: how long a check waits for the drain to pass its fence.
        statement_seconds: longest query of a check on PostgreSQL.
        quality_load: share of the time that a deep check queries PostgreSQL, above 0 to 1.
        copy_load: the same of rows that are copied in bulk.
        copy_readers: the most ranges of a table that a resync reads at a time; 1 with a copy_load
            below 1, so that it bounds the whole.
        copy_verify: whether it compares the checksums of each range afterwards.
        replica: host and port of a hot standby for the deep check; None for the primary.
        count_rows: larger tables are counted by the deep check alone.
        carry_seconds: how long the count of a large table without changes is carried forward.
        letters_kept: how long dead letters are kept; None for ever.
        repair: `off`, `suggest` or `auto`.
        metadata_password: of the embedded PostgreSQL; empty before its first run.
        maven: the Maven repository of the embedded broker's files, a URL or a folder.
        asked: value and origin of the settings that decide which services, slot and tables a
            command asks, by variable; secrets are hidden.
    """

    project: Path
    home: Path
    models: str
    out: Path
    airflow_port: int
    api_port: int
    postgres: PostgresSettings
    kafka: KafkaSettings
    clickhouse: ClickHouseSettings
    relay: RelaySettings
    drain: DrainSettings
    quality_seconds: float
    statement_seconds: int
    quality_load: float
    copy_load: float
    copy_readers: int
    copy_verify: bool
    replica: tuple[str, int] | None
    count_rows: int
    carry_seconds: int
    letters_kept: timedelta | None
    repair: str
    alerts: AlertSettings
    metadata_password: SecretStr = field(default=SecretStr(""))
    maven: str = ""
    asked: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def metadata(self) -> PostgresSettings:
        """Return the settings of the embedded server with the metadata of the stack's Airflow.

        It is the source's server, or another one beside a source that is not embedded. The
        password is a secret of the stack.
        """
        if self.postgres.embedded:
            return self.postgres
        return PostgresSettings(
            host="127.0.0.1",
            port=self.airflow_port + METADATA_PORT,
            user="postgres",
            password=self.metadata_password,
            database="airflow",
            options=OWN_POSTGRES,
            embedded=True,
        )

    @property
    def external(self) -> dict[str, str]:
        """Return service -> address, of the services that are not this stack's."""
        services = {
            SOURCE: (self.postgres.embedded, self.postgres.address),
            "broker": (self.kafka.embedded, self.kafka.bootstrap),
            "clickhouse": (self.clickhouse.embedded, self.clickhouse.address),
        }
        return {name: address for name, (own, address) in services.items() if not own}

    @property
    def compared(self) -> PostgresSettings:
        """Return the settings of the server that the deep check reads: replica or primary."""
        if self.replica is None:
            return self.postgres
        host, port = self.replica
        return replace(self.postgres, host=host, port=port)
