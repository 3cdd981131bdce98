"""Settings, read once at an entry point into frozen objects and passed down.

No other module reads the environment. `.env.example` lists every variable; a test compares it
with `VARIABLES`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from sluice.errors import WrongUsage
from sluice.person import system_person

PROJECT = Path(__file__).resolve().parents[2]
# The embedded ClickHouse's user of the pipeline, whose password is the secret `clickhouse`.
WRITER = "sluice"
# The Airflow pool of every task that reads or writes ClickHouse, and its slots here.
WAREHOUSE_POOL, WAREHOUSE_SLOTS = "sluice_warehouse", 4

# SCRAM proves that the server knows the password. Another server that listens on the port could ask
# for it in clear text.
OWN_POSTGRES = {"require_auth": "scram-sha-256"}

# Variable -> default and meaning. An empty default means "not set".
VARIABLES: dict[str, tuple[str, str]] = {
    "SLUICE_HOME": (".sluice", "state directory of the embedded stack"),
    "SLUICE_MODELS": ("models", "the module that holds the SQLAlchemy models"),
    "SLUICE_OUT": ("", "the folder below which `sluice generate` writes; the project's own"),
    "SLUICE_AIRFLOW_PORT": ("8080", "Airflow's UI and API"),
    "SLUICE_API_PORT": ("3002", "the store API"),
    "SLUICE_POSTGRES_HOST": ("127.0.0.1", "PostgreSQL's host"),
    "SLUICE_POSTGRES_PORT": ("5434", "PostgreSQL's port"),
    "SLUICE_POSTGRES_USER": ("postgres", "PostgreSQL's user"),
    "SLUICE_POSTGRES_PASSWORD": ("", "its password; the embedded stack generates one"),
    "SLUICE_POSTGRES_DATABASE": ("store", "the application's database"),
    "SLUICE_POSTGRES_OPTIONS": ("", 'libpq\'s options as JSON: {"sslmode": "verify-full", ...}'),
    "SLUICE_KAFKA_PORT": ("19092", "the port of the Kafka protocol on this machine"),
    "SLUICE_KAFKA_BOOTSTRAP": ("", "host:port,... of an external Kafka or Redpanda cluster"),
    "SLUICE_KAFKA_OPTIONS": (
        "",
        'librdkafka\'s options as JSON: {"security.protocol": "SASL_SSL", ...}',
    ),
    "SLUICE_CLICKHOUSE_HOST": ("", "ClickHouse's host; empty is this machine"),
    "SLUICE_CLICKHOUSE_PORT": ("9000", "ClickHouse's native port"),
    "SLUICE_CLICKHOUSE_HTTP_PORT": ("8123", "ClickHouse's HTTP port"),
    "SLUICE_CLICKHOUSE_USER": (
        "",
        "ClickHouse's user; of another server than the stack's own, default",
    ),
    "SLUICE_CLICKHOUSE_PASSWORD": ("", "its password"),
    "SLUICE_CLICKHOUSE_OPTIONS": (
        "",
        'clickhouse-driver\'s options as JSON: {"secure": true, ...}',
    ),
    "SLUICE_CLICKHOUSE_CLUSTER": ("", "a cluster of its remote_servers; empty is one server"),
    "SLUICE_CLICKHOUSE_ENGINES": (
        "plain",
        "of a cluster's tables: plain, or replicated where its servers have a Keeper",
    ),
    "SLUICE_SLOT": ("sluice", "the replication slot; the publication is pglog_stream_<slot>"),
    "SLUICE_RELAY_ACK": (
        "drained",
        "when Postgres may drop WAL: drained (into ClickHouse) or broker (it is durable)",
    ),
    "SLUICE_RELAY_METRICS": ("", "host:port where the relay serves /metrics and /ready"),
    "SLUICE_DRAIN_EVENTS": ("5000000", "most events a table's drain takes in one run"),
    "SLUICE_DRAIN_SECONDS": ("45", "most seconds a table's drain reads in one run"),
    "SLUICE_DRAIN_CHUNK": ("50000", "events that are validated and inserted at a time"),
    "SLUICE_DRAIN_CHUNK_BYTES": ("33554432", "bytes of them at a time, one event at least"),
    "SLUICE_REJECT_RATIO": ("0.5", "share of invalid events in a chunk that stops the drain"),
    "SLUICE_REJECT_RUN": ("1000", "most invalid events in a row; one more stops the drain"),
    "SLUICE_QUALITY_SECONDS": ("30", "how long a check waits for the drain to pass its fence"),
    "SLUICE_QUALITY_STATEMENT_SECONDS": (
        "900",
        "longest query of a check on PostgreSQL; it ends there, and the check says so",
    ),
    "SLUICE_QUALITY_LOAD": (
        "1",
        "share of the time that a deep check queries PostgreSQL, up to 1; the rest are pauses",
    ),
    "SLUICE_QUALITY_REPLICA": (
        "",
        "host:port of a hot standby that the deep check reads in PostgreSQL's place",
    ),
    "SLUICE_QUALITY_COUNT_ROWS": (
        "20000000",
        "larger tables, by PostgreSQL's estimate, are counted by the deep check alone",
    ),
    "SLUICE_QUALITY_REPAIR": (
        "suggest",
        "what a finding of rows brings: off (no command), suggest (the command), auto (it is run)",
    ),
    "SLUICE_ALERT_WEBHOOK": ("", "URL that findings and recoveries are posted to as JSON"),
    "SLUICE_ALERT_SLACK": ("", "URL of a Slack incoming webhook for the same"),
    "SLUICE_ALERT_SMTP": ("", "smtp://user:password@host:port (smtps:// for TLS at once) for mail"),
    "SLUICE_ALERT_FROM": ("", "the mail's sender"),
    "SLUICE_ALERT_TO": ("", "the mail's recipients, separated by commas"),
    "SLUICE_ALERT_LINK_LOCAL": (
        "refuse",
        "allow lets alerts go to link-local addresses, at which clouds serve credentials",
    ),
    "SLUICE_ALERT_PAGE": ("", "URL of the CDC page that alerts link to; Airflow's tasks know it"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """Connection settings of the source; `options` are libpq's (sslmode and the like)."""

    host: str
    port: int
    user: str
    password: SecretStr
    database: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Connection settings of the broker; `options` are librdkafka's (`security.protocol` ...)."""

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


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
    """Limits of one run of a table's drain.

    Attributes:
        events, seconds: most events read, and most seconds spent reading.
        chunk, chunk_bytes: events and bytes validated and inserted at a time; they bound memory.
        reject_ratio: share of invalid events in a chunk that stops the drain, 0 to 1.
        reject_run: most consecutive invalid events.
    """

    events: int
    seconds: float
    chunk: int
    chunk_bytes: int
    reject_ratio: float
    reject_run: int


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
        quality_seconds: how long a check waits for the drain to pass its fence.
        statement_seconds: longest query of a check on PostgreSQL.
        quality_load: share of the time that a deep check queries PostgreSQL, above 0 to 1.
        replica: host and port of a hot standby for the deep check; None for the primary.
        count_rows: larger tables are counted by the deep check alone.
        repair: `off`, `suggest` or `auto`.
    """

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
    replica: tuple[str, int] | None
    count_rows: int
    repair: str
    alerts: AlertSettings

    @property
    def compared(self) -> PostgresSettings:
        """Return the settings of the server that the deep check reads: replica or primary."""
        if self.replica is None:
            return self.postgres
        host, port = self.replica
        return replace(self.postgres, host=host, port=port)


def secrets_file(home: Path) -> Path:
    """Return the file of the embedded stack's generated passwords, readable by its owner only."""
    return home / "secrets.json"


def read_secrets(home: Path) -> dict[str, str]:
    """Read the embedded stack's passwords (`postgres`, `airflow`, ...); empty before its first run.

    Raises:
        WrongUsage: the file exists and cannot be read.
    """
    path = secrets_file(home)
    try:
        secrets: dict[str, str] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise WrongUsage(
            f"{path} cannot be read: {error}",
            remedy="run as its owner, or set SLUICE_HOME to a folder you own",
        ) from error
    return secrets


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from environment variables.

    Raises:
        WrongUsage: a variable has an invalid value.
    """
    values = {name: default for name, (default, _) in VARIABLES.items()}
    values.update((name, environment[name]) for name in VARIABLES if environment.get(name))
    home = (PROJECT / Path(values["SLUICE_HOME"]).expanduser()).resolve()
    secrets = read_secrets(home)
    password = values["SLUICE_POSTGRES_PASSWORD"] or secrets.get("postgres", "")
    user, warehouse_password = _warehouse_user(values, secrets)
    if values["SLUICE_RELAY_ACK"] not in {"drained", "broker"}:
        raise WrongUsage("SLUICE_RELAY_ACK must be drained or broker")
    if values["SLUICE_QUALITY_REPAIR"] not in {"off", "suggest", "auto"}:
        raise WrongUsage("SLUICE_QUALITY_REPAIR must be off, suggest or auto")
    return Settings(
        home=home,
        models=values["SLUICE_MODELS"],
        out=(PROJECT / Path(values["SLUICE_OUT"]).expanduser()).resolve(),
        airflow_port=_number(values, "SLUICE_AIRFLOW_PORT"),
        api_port=_number(values, "SLUICE_API_PORT"),
        postgres=PostgresSettings(
            host=values["SLUICE_POSTGRES_HOST"],
            port=_number(values, "SLUICE_POSTGRES_PORT"),
            user=values["SLUICE_POSTGRES_USER"],
            password=SecretStr(password),
            database=values["SLUICE_POSTGRES_DATABASE"],
            options={
                **(OWN_POSTGRES if _is_own_postgres(values, secrets) else {}),
                **_flat(values, "SLUICE_POSTGRES_OPTIONS"),
            },
        ),
        kafka=KafkaSettings(
            bootstrap=values["SLUICE_KAFKA_BOOTSTRAP"]
            or f"127.0.0.1:{_number(values, 'SLUICE_KAFKA_PORT')}",
            options=_flat(values, "SLUICE_KAFKA_OPTIONS"),
        ),
        clickhouse=ClickHouseSettings(
            host=values["SLUICE_CLICKHOUSE_HOST"] or "127.0.0.1",
            port=_number(values, "SLUICE_CLICKHOUSE_PORT"),
            http_port=_number(values, "SLUICE_CLICKHOUSE_HTTP_PORT"),
            user=user,
            password=SecretStr(warehouse_password),
            embedded=_embedded(values),
            account=_account(home) if _embedded(values) and secrets else None,
            options=_options(values, "SLUICE_CLICKHOUSE_OPTIONS"),
            cluster=_cluster(values),
        ),
        relay=RelaySettings(
            slot=_slot(values["SLUICE_SLOT"]),
            ack=values["SLUICE_RELAY_ACK"],
            metrics=_address(values, "SLUICE_RELAY_METRICS"),
        ),
        drain=DrainSettings(
            events=_number(values, "SLUICE_DRAIN_EVENTS"),
            seconds=_number(values, "SLUICE_DRAIN_SECONDS"),
            chunk=_number(values, "SLUICE_DRAIN_CHUNK"),
            chunk_bytes=_number(values, "SLUICE_DRAIN_CHUNK_BYTES"),
            reject_ratio=_ratio(values, "SLUICE_REJECT_RATIO"),
            reject_run=_number(values, "SLUICE_REJECT_RUN"),
        ),
        quality_seconds=_number(values, "SLUICE_QUALITY_SECONDS"),
        statement_seconds=_number(values, "SLUICE_QUALITY_STATEMENT_SECONDS"),
        quality_load=_ratio(values, "SLUICE_QUALITY_LOAD"),
        replica=_address(values, "SLUICE_QUALITY_REPLICA"),
        count_rows=_number(values, "SLUICE_QUALITY_COUNT_ROWS"),
        repair=values["SLUICE_QUALITY_REPAIR"],
        alerts=_alerts(values),
    )


def _is_own_postgres(values: Mapping[str, str], secrets: Mapping[str, str]) -> bool:
    """Whether the password is that of the embedded PostgreSQL."""
    host = values["SLUICE_POSTGRES_HOST"] == VARIABLES["SLUICE_POSTGRES_HOST"][0]
    return host and not values["SLUICE_POSTGRES_PASSWORD"] and "postgres" in secrets


def _account(home: Path) -> int:
    return secrets_file(home).stat().st_uid


def _embedded(values: Mapping[str, str]) -> bool:
    """Whether no setting names another ClickHouse or another user than the embedded one."""
    return not any(values[f"SLUICE_CLICKHOUSE_{name}"] for name in ("HOST", "USER", "PASSWORD"))


def _warehouse_user(values: Mapping[str, str], secrets: Mapping[str, str]) -> tuple[str, str]:
    """Return ClickHouse's user and password: as set, or else those of the embedded server."""
    if _embedded(values) and "clickhouse" in secrets:
        return WRITER, secrets["clickhouse"]
    return values["SLUICE_CLICKHOUSE_USER"] or "default", values["SLUICE_CLICKHOUSE_PASSWORD"]


def _options(values: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return a client's own options; errors never contain them, as some are passwords."""
    try:
        options = json.loads(values[name] or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise WrongUsage(f'{name} must be a JSON object like {{"option": "value"}}')
    return options


def _flat(values: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the options of a client written in C, which takes no lists, objects or null."""
    options = _options(values, name)
    for option, value in options.items():
        if not isinstance(value, str | int | float):
            raise WrongUsage(f"{name}: {option} must be a text, a number, true or false")
    return options


def _slot(name: str) -> str:
    """Return the slot's name; with its prefix it has to be valid for a publication too."""
    if not re.fullmatch(r"[a-z0-9_]{1,50}", name):
        raise WrongUsage("SLUICE_SLOT takes up to 50 lower-case letters, digits and _")
    return name


def _address(values: Mapping[str, str], name: str) -> tuple[str, int] | None:
    value = values[name]
    if not value:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= 65535:
        raise WrongUsage(f"{name} must be host:port, not {value!r}")
    return host, int(port)


def _cluster(values: Mapping[str, str]) -> Cluster:
    name, engines = values["SLUICE_CLICKHOUSE_CLUSTER"], values["SLUICE_CLICKHOUSE_ENGINES"]
    if not re.fullmatch(r"[\w.-]*", name):
        raise WrongUsage("SLUICE_CLICKHOUSE_CLUSTER takes letters, digits and _ . -")
    if engines not in {"plain", "replicated"}:
        raise WrongUsage("SLUICE_CLICKHOUSE_ENGINES must be plain or replicated")
    if engines == "replicated" and not name:
        raise WrongUsage("SLUICE_CLICKHOUSE_ENGINES=replicated needs SLUICE_CLICKHOUSE_CLUSTER")
    return Cluster(name=name, replicated=engines == "replicated")


def _alerts(values: Mapping[str, str]) -> AlertSettings:
    """Return where alerts go; errors never contain the address."""
    schemes = {
        "SLUICE_ALERT_WEBHOOK": ("http", "https"),
        "SLUICE_ALERT_SLACK": ("http", "https"),
        "SLUICE_ALERT_PAGE": ("http", "https"),
        "SLUICE_ALERT_SMTP": ("smtp", "smtps"),
    }
    for name, known in schemes.items():
        if values[name] and not _is_address(values[name], known):
            raise WrongUsage(f"{name} must be an address with {' or '.join(known)}://")
    if values["SLUICE_ALERT_LINK_LOCAL"] not in {"refuse", "allow"}:
        raise WrongUsage("SLUICE_ALERT_LINK_LOCAL must be refuse or allow")
    recipients = tuple(part.strip() for part in values["SLUICE_ALERT_TO"].split(",") if part)
    if values["SLUICE_ALERT_SMTP"] and not (values["SLUICE_ALERT_FROM"] and recipients):
        raise WrongUsage("SLUICE_ALERT_SMTP needs SLUICE_ALERT_FROM and SLUICE_ALERT_TO")
    return AlertSettings(
        webhook=SecretStr(values["SLUICE_ALERT_WEBHOOK"]),
        slack=SecretStr(values["SLUICE_ALERT_SLACK"]),
        smtp=SecretStr(values["SLUICE_ALERT_SMTP"]),
        sender=values["SLUICE_ALERT_FROM"],
        recipients=recipients,
        link_local=values["SLUICE_ALERT_LINK_LOCAL"] == "allow",
        page=values["SLUICE_ALERT_PAGE"],
    )


def _is_address(value: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _number(values: Mapping[str, str], name: str) -> int:
    try:
        number = int(values[name])
    except ValueError:
        raise WrongUsage(f"{name} must be a whole number, not {values[name]!r}") from None
    if number <= 0 or (name.endswith("_PORT") and number > 65535):
        raise WrongUsage(f"{name} is out of range: {number}")
    return number


def _ratio(values: Mapping[str, str], name: str) -> float:
    try:
        ratio = float(values[name])
    except ValueError:
        raise WrongUsage(f"{name} must be a number, not {values[name]!r}") from None
    if not 0 < ratio <= 1:
        raise WrongUsage(f"{name} must be above 0 and at most 1, not {ratio}")
    return ratio
