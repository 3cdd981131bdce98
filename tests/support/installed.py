"""Sluice as users have it: its wheel in an environment of its own, and commands in a project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sluice.settings import PROJECT, PostgresSettings, Settings
from tests.support.processes import command_environment, stop
from tests.support.waiting import until

# What a wheel is built from; a build in the repository would leave files there.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements-node.txt")
FOLDERS = ("plugins", "dags", "docker")


def built(folders: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    source, out = folders.mktemp("source"), folders.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(PROJECT / name, source)
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run([*build, *options], check=True)
    (wheel,) = out.glob("sluice-*.whl")
    return wheel


def empty_environment(folders: pytest.TempPathFactory) -> Path:
    """Create an environment without packages; its programs will be in `bin` below it."""
    home = folders.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    return home


def install(home: Path, *arguments: str | Path) -> None:
    """Install into an environment what uv finds by these arguments."""
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "-q", "--python", home / "bin" / "python", *arguments]
    subprocess.run(command, check=True)


def environment(settings: Settings, scripts: Path) -> dict[str, str]:
    """The variables of a user's commands on these services."""
    inherited = command_environment(settings, PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}")
    return {name: value for name, value in inherited.items() if name != "PYTHONPATH"}


def statement(source: PostgresSettings, text: str) -> list[tuple[Any, ...]]:
    """Run statements on a database, and return the rows of the last one."""
    with closing(
        psycopg2.connect(
            host=source.host,
            port=source.port,
            user=source.user,
            password=source.password.get_secret_value(),
            dbname=source.database,
        )
    ) as session:
        session.autocommit = True
        cursor = session.cursor()
        cursor.execute(text)
        return cursor.fetchall() if cursor.description else []


def run(
    *arguments: str, at: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `sluice` in a folder, whatever its exit code is."""
    command = [shutil.which("sluice", path=environment["PATH"]) or "", *arguments]
    return subprocess.run(
        command, cwd=at, env=environment, capture_output=True, text=True, check=False
    )


def sluice(*arguments: str, at: Path, environment: Mapping[str, str], code: int = 0) -> str:
    """Run `sluice` in a folder, require its exit code, and return what it printed."""
    done = run(*arguments, at=at, environment=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@contextmanager
def relayed(project: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a project's relay."""
    with subprocess.Popen(
        [shutil.which("sluice", path=environment["PATH"]) or "", "relay"],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as relay:
        try:
            yield
        finally:
            stop(relay)


def settled(project: Path, environment: Mapping[str, str], seconds: float = 90) -> None:
    """Drain, rebuild and check until the row counts are compared and equal."""

    def passed() -> bool:
        # The first copy is complete once it is drained.
        run("drain", at=project, environment=environment)
        done = run("quality", "--json", at=project, environment=environment)
        return done.returncode == 0 and bool(json.loads(done.stdout)["passed"])

    until(passed, "the checks pass", seconds)


def checked_deep(project: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Compare all rows, and return the report."""
    printed = sluice("quality", "--deep", "--json", at=project, environment=environment)
    report: dict[str, Any] = json.JSONDecoder().raw_decode(printed)[0]  # its log follows
    return report
