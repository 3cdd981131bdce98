"""A whole stack, brought up and down as a newcomer does it; its secrets are canaries."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sluice.settings import PROJECT, Settings, read_secrets, read_settings
from tests.support.canaries import Canaries, CommandLines
from tests.support.services import free_ports, stack_environment, temporary_home

SLUICE = Path(sys.executable).parent / "sluice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The stack, and everything that its commands printed."""

    environment: dict[str, str]
    home: Path
    canaries: Canaries
    lines: CommandLines
    printed: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return read_settings(self.environment)

    def sluice(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run a command with these variables changed."""
        done = subprocess.run(
            [SLUICE, *arguments],
            env={**self.environment, **changed},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed.extend([done.stdout, done.stderr])
        return done

    def status(self) -> Any:
        return json.loads(self.sluice("status", "--json").stdout)

    def airflow(self, method: str, path: str, **body: Any) -> Any:
        """What Airflow's API answers the admin."""
        base = f"http://127.0.0.1:{self.environment['SLUICE_AIRFLOW_PORT']}"
        user = {"username": "admin", "password": read_secrets(self.home)["airflow"]}
        with httpx.Client(base_url=base, timeout=60) as client:
            token = client.post("/auth/token", json=user).json()["access_token"]
            answer = client.request(
                method,
                f"/api/v2/{path}",
                json=body or None,
                headers={"Authorization": f"Bearer {token}"},
            )
        assert answer.is_success, answer.text
        return answer.json()

    def query(self, text: str) -> str:
        done = self.sluice("sql", text)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="package")
def stack() -> Iterator[Running]:
    canaries, lines = Canaries(), CommandLines()
    with temporary_home() as home:
        canaries.write(home)
        variables = {**stack_environment(home), **canaries.variables(*free_ports(1))}
        running = Running(environment=variables, home=home, canaries=canaries, lines=lines)
        with lines.watched():
            done = running.sluice("up", "--detach")
        try:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            for word in ("sluice_quality", "Revenue", "Airflow ", "Postgres", "customers"):
                assert word in done.stdout
            # At minute 17 it would find what a test spoils, and be the last run for an hour.
            running.airflow("PATCH", "dags/sluice_deep_quality", is_paused=True)
            yield running
        finally:
            assert running.sluice("down").returncode == 0
            until(lambda: left_behind(home) == [], 30)


def left_behind(home: Path) -> list[str]:
    """Processes whose command line or environment names this home."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(home) in text:
            found.append(text[:200])
    return found


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(1)
