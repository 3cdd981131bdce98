"""A whole stack in which every secret is a canary."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sluice.settings import PROJECT, Settings, read_settings
from tests.conftest import free_ports, stack_environment, temporary_home
from tests.security.canaries import Canaries, CommandLines

SLUICE = str(Path(sys.executable).parent / "sluice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """The stack, and everything that its commands printed."""

    canaries: Canaries
    environment: dict[str, str]
    home: Path
    lines: CommandLines
    printed: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """The stack's settings."""
        return read_settings(self.environment)

    def sluice(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run a command with these variables changed; what it prints is kept."""
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

    def pid(self, name: str) -> int:
        """A service's process."""
        found: Any = json.loads(self.sluice("status", "--json").stdout)["services"][name]["pid"]
        return int(found)


def until(condition: Callable[[], bool], seconds: float = 180) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def planted() -> Iterator[Planted]:
    canaries = Canaries()
    with temporary_home() as home, CommandLines().watched() as lines:
        canaries.write(home)
        environment = {**stack_environment(home), **canaries.variables(*free_ports(1))}
        stack = Planted(canaries=canaries, environment=environment, home=home, lines=lines)
        try:
            done = stack.sluice("up", "--detach")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            yield stack
        finally:
            assert stack.sluice("down").returncode == 0
