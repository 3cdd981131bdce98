"""Planted secrets, and every place in which to look for them."""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from sluice.settings import secrets_file

# What a stack makes for itself; the others come from the environment.
MADE = (
    "postgres",
    "kafka",
    "clickhouse",
    "clickhouse_reader",
    "airflow",
    "api_secret_key",
    "jwt_secret",
    "fernet_key",
    "mask",
)
GIVEN = ("broker_key", "tls_key", "webhook", "slack", "smtp")


def token() -> str:
    """A value that is nowhere else; 32 bytes as Fernet's keys are."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


class Canaries(dict[str, str]):
    """Secret -> its value."""

    def __init__(self) -> None:
        super().__init__((name, token()) for name in (*MADE, *GIVEN))

    def within(self, text: bytes | str) -> set[str]:
        """The secrets that a text holds, as they are or as parts of an address."""
        found = text.encode() if isinstance(text, str) else text
        return {name for name, value in self.items() if value.rstrip("=").encode() in found}

    def write(self, home: Path) -> None:
        """Put those in place that a stack would make."""
        home.mkdir(parents=True, exist_ok=True)
        path = secrets_file(home)
        path.touch(mode=0o600)
        path.write_text(json.dumps({name: self[name] for name in MADE}))

    def variables(self, closed: int) -> dict[str, str]:
        """The other secrets as settings; alerts go to a port where nothing listens."""
        return {
            "SLUICE_POSTGRES_OPTIONS": json.dumps({"sslpassword": self["tls_key"]}),
            "SLUICE_KAFKA_OPTIONS": json.dumps({"ssl.key.password": self["broker_key"]}),
            "SLUICE_ALERT_WEBHOOK": f"http://127.0.0.1:{closed}/{self['webhook']}",
            "SLUICE_ALERT_SLACK": f"http://127.0.0.1:{closed}/services/{self['slack']}",
            "SLUICE_ALERT_SMTP": f"smtp://me:{self['smtp']}@127.0.0.1:{closed}",
            "SLUICE_ALERT_FROM": "sluice@example.org",
            "SLUICE_ALERT_TO": "people@example.org",
        }


def files_with(canaries: Canaries, folder: Path) -> dict[str, set[str]]:
    """File below the folder -> the secrets in it."""
    found = {}
    for place, _, names in os.walk(folder):  # which passes over what is gone; rglob does not
        for path in (Path(place, name) for name in names):
            if path.is_file() and not path.is_symlink():
                with suppress(FileNotFoundError):  # logs turn over, databases drop files
                    within = canaries.within(path.read_bytes())
                    if within:
                        found[str(path.relative_to(folder))] = within
    return found


class CommandLines:
    """Command lines of this machine's processes, as `ps` shows them, read over and over."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[CommandLines]:
        """Read them until the block ends: processes that live shortly are seen too."""
        self._stop.clear()
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    self.seen.add(" ".join(process.cmdline()).encode())
