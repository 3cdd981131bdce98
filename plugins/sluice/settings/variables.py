"""The environment variables of Sluice; `.env.example` lists every one, a test compares both."""

from __future__ import annotations

import re

_SECRET = re.compile("PASSWORD|OPTIONS|SMTP|WEBHOOK|SLACK|MASK_KEY")

# Variable -> default and meaning. An empty default means "not set".
VARIABLES: dict[str, tuple[str, str]] = {
    "SLUICE_PROJECT": (
        "",
        "the project's folder; the nearest one above with a sluice.toml, or the repository's",
    ),
    "SLUICE_ENV_FILE": (
        ".env",
        "a file of settings below the project; the environment wins over it",
    ),
    "SLUICE_HOME": (".sluice", "state directory of the embedded stack, below the project"),
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
    "SLUICE_MASK_KEY": (
        "",
        "the secret of masked columns, 16 characters or more; the embedded stack generates one",
    ),
    "SLUICE_KAFKA_PORT": ("19092", "the port of the Kafka protocol on this machine"),
    "SLUICE_KAFKA_BOOTSTRAP": ("", "host:port,... of an external Kafka or Redpanda cluster"),
    "SLUICE_KAFKA_OPTIONS": (
        "",
        'librdkafka\'s options as JSON: {"security.protocol": "SASL_SSL", ...}',
    ),
    "SLUICE_MAVEN_REPOSITORY": (
        "https://repo.maven.apache.org/maven2",
        "a Maven repository with the embedded Kafka's files: a URL, or a folder; if set, mvn is"
        " not used",
    ),
    "SLUICE_CLICKHOUSE_HOST": ("", "ClickHouse's host; empty is this machine"),
    "SLUICE_CLICKHOUSE_PORT": ("9000", "ClickHouse's native port"),
    "SLUICE_CLICKHOUSE_HTTP_PORT": ("8123", "ClickHouse's HTTP port"),
    "SLUICE_CLICKHOUSE_USER": (
        "",
        "ClickHouse's user; `default`, unless it is the stack's own server",
    ),
    "SLUICE_CLICKHOUSE_PASSWORD": ("", "its password"),
    "SLUICE_CLICKHOUSE_OPTIONS": (
        "",
        'clickhouse-driver\'s options as JSON: {"secure": true, ...}',
    ),
    "SLUICE_CLICKHOUSE_CLUSTER": ("", "a cluster of its remote_servers; empty is one server"),
    "SLUICE_CLICKHOUSE_ENGINES": (
        "plain",
        "engines of a cluster's tables: plain, or replicated where its servers have a Keeper",
    ),
    "SLUICE_SLOT": ("sluice", "the replication slot; the publication is pglog_stream_<slot>"),
    "SLUICE_RELAY_ACK": (
        "drained",
        "when PostgreSQL may drop WAL: drained (in ClickHouse) or broker (durable on the broker)",
    ),
    "SLUICE_RELAY_METRICS": ("", "host:port where the relay serves /metrics and /ready"),
    "SLUICE_DRAIN_EVENTS": ("5000000", "most events that a table's drain reads in one run"),
    "SLUICE_DRAIN_SECONDS": ("45", "most seconds that drains read in one run"),
    "SLUICE_DRAIN_CHUNK": ("50000", "events that are validated and inserted at a time"),
    "SLUICE_DRAIN_CHUNK_BYTES": (
        "33554432",
        "most bytes of them at a time in a process, but at least one event of a table",
    ),
    "SLUICE_DRAIN_THREADS": ("4", "tables that are drained at a time by one process"),
    "SLUICE_DRAIN_PROCESSES": (
        "",
        "tasks of Airflow that share a large backlog; empty is one for two cores",
    ),
    "SLUICE_REJECT_RATIO": ("0.5", "share of invalid events in a chunk that stops the drain"),
    "SLUICE_REJECT_RUN": ("1000", "most consecutive invalid events; one more stops the drain"),
    "SLUICE_DEAD_LETTER_DAYS": (
        "",
        "days after which rejected events are deleted, of open ones key and value; empty: never",
    ),
    "SLUICE_QUALITY_SECONDS": ("30", "how long a check waits for the drain to pass its fence"),
    "SLUICE_QUALITY_STATEMENT_SECONDS": (
        "900",
        "longest query of a check on PostgreSQL; a longer one is cancelled and reported",
    ),
    "SLUICE_COPY_LOAD": (
        "1",
        "share of the time that rows are copied in bulk, up to 1; the rest are pauses",
    ),
    "SLUICE_COPY_READERS": (
        "",
        "ranges that a resync reads at a time, one if SLUICE_COPY_LOAD is below 1; empty is one for"
        " two cores, up to 4",
    ),
    "SLUICE_COPY_VERIFY": (
        "off",
        "on compares the checksums of both sides of each range that a resync has read",
    ),
    "SLUICE_QUALITY_LOAD": (
        "1",
        "share of the time that a deep check queries PostgreSQL, up to 1; the rest are pauses",
    ),
    "SLUICE_QUALITY_REPLICA": (
        "",
        "host:port of a hot standby that the deep check reads instead of the primary",
    ),
    "SLUICE_QUALITY_COUNT_ROWS": (
        "20000000",
        "larger tables, by PostgreSQL's estimate, are counted by the deep check alone",
    ),
    "SLUICE_QUALITY_CARRY_SECONDS": (
        "3600",
        "how long the count of a table without changes is carried forward; 0 counts every minute",
    ),
    "SLUICE_QUALITY_REPAIR": (
        "suggest",
        "repair of rows that differ: off, suggest (show the command) or auto (run it)",
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
    "SLUICE_ALERT_PAGE": ("", "URL of the CDC page that alerts link to; set by Airflow's tasks"),
}


def shown(name: str, value: str) -> str:
    """Return a setting's value as people may see it: a secret is hidden."""
    return "(hidden)" if value and _SECRET.search(name) else value
