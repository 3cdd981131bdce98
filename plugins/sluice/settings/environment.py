"""Settings from the environment and files, read once at an entry point and nowhere else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from sluice.errors import WrongUsage
from sluice.settings.environment_file import env_file_name, env_file_values
from sluice.settings.project import FILE, file_values, find_project, make_importable
from sluice.settings.started import ASKED, ENVIRONMENT, PORTS, Values, read_started
from sluice.settings.values import (
    OWN_POSTGRES,
    WRITER,
    AlertSettings,
    ClickHouseSettings,
    Cluster,
    DrainSettings,
    KafkaSettings,
    PostgresSettings,
    RelaySettings,
    Settings,
    own_broker,
)
from sluice.settings.variables import VARIABLES, shown

_MOST_DAYS = 36_500
_LEAST_KEY = 16  # characters; a shorter key can be guessed from the hash of a known value
_MOST_READERS = 4  # each needs a replication slot and two sessions on PostgreSQL
# Origins of a value that is not set: the default, and a port with which the stack was started.
DEFAULT, STARTED = "default", "the stack's last start"
# Service -> its settings of which each names another one than the stack's own.
_THEIRS = {
    "POSTGRES": ("HOST", "PASSWORD"),
    "KAFKA": ("BOOTSTRAP",),
    "CLICKHOUSE": ("HOST", "USER", "PASSWORD"),
}


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


def read_values(environment: Mapping[str, str]) -> Values:
    """Return the value of each setting and its origin, the first of these that has one.

    The environment, .env, sluice.toml, the ports with which the stack was started, the default.
    """
    project = find_project(environment)
    values = _chosen(project, environment)
    for name, port in read_started(_home(project, values)).ports.items():
        service = name.split("_")[1]
        if name in PORTS and values[name][1] == DEFAULT and _is_own(values, service):
            values[name] = str(port), STARTED
    return values


def _chosen(project: Path, environment: Mapping[str, str]) -> Values:
    """Return what somebody set, or else the defaults."""
    values: Values = {name: (default, DEFAULT) for name, (default, _) in VARIABLES.items()}
    values["SLUICE_PROJECT"] = str(project), "the present folder"
    files = {
        FILE: file_values(project),
        env_file_name(environment): env_file_values(project, environment),
    }
    for origin, given in files.items():
        values.update((name, (text, origin)) for name, text in given.items() if text)
    own = {name: environment[name] for name in VARIABLES if environment.get(name)}
    values.update((name, (text, ENVIRONMENT)) for name, text in own.items())
    return values


def read_models_name(environment: Mapping[str, str]) -> str:
    """Return the module of the models, which can be imported from then on."""
    project = find_project(environment)
    make_importable(project)
    return _chosen(project, environment)["SLUICE_MODELS"][0]


def _home(project: Path, values: Values) -> Path:
    return (project / Path(values["SLUICE_HOME"][0]).expanduser()).resolve()


def _is_own(values: Values, service: str) -> bool:
    """Whether no setting names another one than the stack's own."""
    theirs = _THEIRS.get(service, ())
    return all(values[f"SLUICE_{service}_{name}"][1] == DEFAULT for name in theirs)


def _asked(values: Values) -> Values:
    """Return those of ASKED as `sluice config` shows them; the own PostgreSQL has no host."""
    asked = {name: (shown(name, values[name][0]), values[name][1]) for name in ASKED}
    if asked["SLUICE_POSTGRES_HOST"][1] == DEFAULT:
        asked["SLUICE_POSTGRES_HOST"] = "", DEFAULT
    return asked


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from environment variables, .env and sluice.toml, at an entry point.

    From then on the modules of the project's folder can be imported.

    Raises:
        WrongUsage: a setting has an invalid value.
    """
    known = read_values(environment)
    values = {name: value for name, (value, _) in known.items()}
    project = find_project(environment)
    make_importable(project)
    home = _home(project, known)
    secrets = read_secrets(home)
    if values["SLUICE_QUALITY_REPAIR"] not in {"off", "suggest", "auto"}:
        raise WrongUsage("SLUICE_QUALITY_REPAIR must be off, suggest or auto")
    if values["SLUICE_COPY_VERIFY"] not in {"off", "on"}:
        raise WrongUsage("SLUICE_COPY_VERIFY must be off or on")
    return Settings(
        project=project,
        home=home,
        models=values["SLUICE_MODELS"],
        out=(project / Path(values["SLUICE_OUT"]).expanduser()).resolve(),
        airflow_port=_number(values, "SLUICE_AIRFLOW_PORT"),
        api_port=_number(values, "SLUICE_API_PORT"),
        postgres=_postgres(values, secrets, embedded=_is_own(known, "POSTGRES")),
        maven=values["SLUICE_MAVEN_REPOSITORY"],
        metadata_password=SecretStr(secrets.get("postgres", "")),
        kafka=_kafka(values, secrets),
        clickhouse=_clickhouse(values, secrets, home, embedded=_is_own(known, "CLICKHOUSE")),
        relay=_relay(values),
        drain=_drain(values),
        quality_seconds=_number(values, "SLUICE_QUALITY_SECONDS"),
        statement_seconds=_number(values, "SLUICE_QUALITY_STATEMENT_SECONDS"),
        quality_load=_ratio(values, "SLUICE_QUALITY_LOAD"),
        copy_load=_ratio(values, "SLUICE_COPY_LOAD"),
        copy_readers=_readers(values),
        copy_verify=values["SLUICE_COPY_VERIFY"] == "on",
        replica=_address(values, "SLUICE_QUALITY_REPLICA"),
        count_rows=_number(values, "SLUICE_QUALITY_COUNT_ROWS"),
        carry_seconds=_number(values, "SLUICE_QUALITY_CARRY_SECONDS"),
        letters_kept=_period(values, "SLUICE_DEAD_LETTER_DAYS"),
        repair=values["SLUICE_QUALITY_REPAIR"],
        alerts=_alerts(values),
        asked=_asked(known),
    )


def _postgres(
    values: Mapping[str, str], secrets: Mapping[str, str], *, embedded: bool
) -> PostgresSettings:
    generated = secrets.get("postgres", "") if embedded else ""
    password = values["SLUICE_POSTGRES_PASSWORD"] or generated
    own = OWN_POSTGRES if generated else {}
    return PostgresSettings(
        host=values["SLUICE_POSTGRES_HOST"],
        port=_number(values, "SLUICE_POSTGRES_PORT"),
        user=values["SLUICE_POSTGRES_USER"],
        password=SecretStr(password),
        database=values["SLUICE_POSTGRES_DATABASE"],
        options={**own, **_flat(values, "SLUICE_POSTGRES_OPTIONS")},
        embedded=embedded,
        mask_key=SecretStr(_mask_key(values, secrets)),
    )


def _mask_key(values: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    """Return the key of masked columns: as set, or else that of the stack; errors never have it."""
    key = values["SLUICE_MASK_KEY"]
    if key and len(key) < _LEAST_KEY:
        raise WrongUsage(
            f"SLUICE_MASK_KEY has {len(key)} characters; at least {_LEAST_KEY} are needed",
            remedy="generate one, such as by: openssl rand -hex 32",
        )
    return key or secrets.get("mask", "")


def _kafka(values: Mapping[str, str], secrets: Mapping[str, str]) -> KafkaSettings:
    theirs = values["SLUICE_KAFKA_BOOTSTRAP"]
    own = {} if theirs else own_broker(secrets.get("kafka", ""))
    return KafkaSettings(
        bootstrap=theirs or f"127.0.0.1:{_number(values, 'SLUICE_KAFKA_PORT')}",
        options={**own, **_flat(values, "SLUICE_KAFKA_OPTIONS")},
        embedded=not theirs,
    )


def _clickhouse(
    values: Mapping[str, str], secrets: Mapping[str, str], home: Path, *, embedded: bool
) -> ClickHouseSettings:
    user, password = _warehouse_user(values, secrets, embedded=embedded)
    return ClickHouseSettings(
        host=values["SLUICE_CLICKHOUSE_HOST"] or "127.0.0.1",
        port=_number(values, "SLUICE_CLICKHOUSE_PORT"),
        http_port=_number(values, "SLUICE_CLICKHOUSE_HTTP_PORT"),
        user=user,
        password=SecretStr(password),
        embedded=embedded,
        account=_account(home) if embedded and secrets else None,
        options=_options(values, "SLUICE_CLICKHOUSE_OPTIONS"),
        cluster=_cluster(values),
    )


def _relay(values: Mapping[str, str]) -> RelaySettings:
    if values["SLUICE_RELAY_ACK"] not in {"drained", "broker"}:
        raise WrongUsage("SLUICE_RELAY_ACK must be drained or broker")
    return RelaySettings(
        slot=_slot(values["SLUICE_SLOT"]),
        ack=values["SLUICE_RELAY_ACK"],
        metrics=_address(values, "SLUICE_RELAY_METRICS"),
    )


def _drain(values: Mapping[str, str]) -> DrainSettings:
    return DrainSettings(
        events=_number(values, "SLUICE_DRAIN_EVENTS"),
        seconds=_number(values, "SLUICE_DRAIN_SECONDS"),
        chunk=_number(values, "SLUICE_DRAIN_CHUNK"),
        chunk_bytes=_number(values, "SLUICE_DRAIN_CHUNK_BYTES"),
        threads=_number(values, "SLUICE_DRAIN_THREADS"),
        processes=_processes(values),
        reject_ratio=_ratio(values, "SLUICE_REJECT_RATIO"),
        reject_run=_number(values, "SLUICE_REJECT_RUN"),
    )


def _readers(values: Mapping[str, str]) -> int:
    if _ratio(values, "SLUICE_COPY_LOAD") < 1:
        return 1
    if not values["SLUICE_COPY_READERS"]:
        return max(1, min((os.cpu_count() or 1) // 2, _MOST_READERS))
    return _number(values, "SLUICE_COPY_READERS")


def _processes(values: Mapping[str, str]) -> int:
    if not values["SLUICE_DRAIN_PROCESSES"]:
        return max(1, (os.cpu_count() or 1) // 2)
    return _number(values, "SLUICE_DRAIN_PROCESSES")


def _account(home: Path) -> int:
    return secrets_file(home).stat().st_uid


def _warehouse_user(
    values: Mapping[str, str], secrets: Mapping[str, str], *, embedded: bool
) -> tuple[str, str]:
    """Return ClickHouse's user and password: as set, or else those of the embedded server."""
    if embedded and "clickhouse" in secrets:
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


def _period(values: Mapping[str, str], name: str) -> timedelta | None:
    if not values[name]:
        return None
    days = _number(values, name)
    if days > _MOST_DAYS:
        raise WrongUsage(f"{name} is out of range: {days}; at most {_MOST_DAYS}, or empty")
    return timedelta(days=days)


def _ratio(values: Mapping[str, str], name: str) -> float:
    try:
        ratio = float(values[name])
    except ValueError:
        raise WrongUsage(f"{name} must be a number, not {values[name]!r}") from None
    if not 0 < ratio <= 1:
        raise WrongUsage(f"{name} must be above 0 and at most 1, not {ratio}")
    return ratio
