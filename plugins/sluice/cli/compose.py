"""Generates the containers' passwords in the `.env` that Docker Compose reads."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from sluice.embedded import private
from sluice.errors import WrongUsage

# The names differ from `SLUICE_*`: `make` reads .env as well, and the embedded stack keeps its own
# passwords.
SECRETS = {
    "POSTGRES_PASSWORD": "the owner of the store's database",
    "POSTGRES_REPLICATION_PASSWORD": "the role of the relay or Redpanda Connect, and of the tasks",
    "POSTGRES_STORE_API_PASSWORD": "the role that the store API connects as",
    "POSTGRES_AIRFLOW_PASSWORD": "the role that owns Airflow's metadata",
    "REDPANDA_PASSWORD": "the broker's user sluice",
    "CONSOLE_PASSWORD": "the user console, before Redpanda Console",
    "CLICKHOUSE_PASSWORD": "the user sluice, which writes",
    "CLICKHOUSE_OLAP_PASSWORD": "the user olap, which reads",
    "AIRFLOW_PASSWORD": "the user admin of Airflow's UI",
    "AIRFLOW_FERNET_KEY": "encrypts what Airflow stores",
    "AIRFLOW_API_SECRET_KEY": "signs Airflow's sessions",
    "AIRFLOW_JWT_SECRET": "signs the tokens of Airflow's tasks",
}


def write_compose_secrets(path: Path) -> list[str]:
    """Add the secrets that the file lacks; return the names of those added.

    Afterwards only the owner can read the file. Its other lines are kept.

    Raises:
        WrongUsage: the file cannot be read or written.
    """
    try:
        present = path.read_text() if path.exists() else ""
        known = {
            line.partition("=")[0].strip()
            for line in present.splitlines()
            if line.partition("=")[2]
        }
        added = [name for name in SECRETS if name not in known]
        lines = [f"{name}={_secret(name)}" for name in added]
    except OSError as error:
        raise WrongUsage(f"{path} cannot be read: {error.strerror}") from error
    private.write(path, "\n".join([*present.splitlines(), *lines]) + "\n")
    return added


def _secret(name: str) -> str:
    if name == "AIRFLOW_FERNET_KEY":
        return base64.urlsafe_b64encode(os.urandom(32)).decode()
    return secrets.token_urlsafe(24)
