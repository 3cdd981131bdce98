"""A whole stack, and everything that its commands printed."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from sluice.settings import PROJECT, Settings, read_secrets, read_settings
from tests.support.canaries import Canaries, CommandLines
from tests.support.processes import SLUICE


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
        done = self.sluice("sql", "--write", text)
        assert done.returncode == 0, done.stderr
        return done.stdout
