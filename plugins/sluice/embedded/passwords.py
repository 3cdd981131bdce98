"""Generated passwords and keys of a stack, kept in its home, readable by its owner only."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

from sluice.embedded import private
from sluice.settings import read_secrets, secrets_file

_NAMES = (
    "postgres",
    "kafka",
    "clickhouse",
    "clickhouse_reader",
    "airflow",
    "api_secret_key",
    "jwt_secret",
    "mask",
)


def ensure_secrets(home: Path) -> dict[str, str]:
    """Return the stack's secrets; generate the missing ones."""
    present = read_secrets(home)
    wanted = {name: present.get(name) or secrets.token_urlsafe(24) for name in _NAMES}
    wanted["fernet_key"] = (
        present.get("fernet_key") or base64.urlsafe_b64encode(os.urandom(32)).decode()
    )
    if wanted != present:
        private.write(secrets_file(home), json.dumps(wanted))
    return wanted
