"""Processes that tests start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from sluice.embedded.stack import Stack
from sluice.settings import PROJECT, Settings
from tests.support.services import inherited

SLUICE = str(Path(sys.executable).parent / "sluice")


def broker_variables(settings: Settings) -> dict[str, str]:
    """The variables by which a command finds the broker: the embedded one, or another."""
    kafka = settings.kafka
    if kafka.embedded:
        return {"SLUICE_KAFKA_PORT": kafka.bootstrap.rpartition(":")[2]}
    options = json.dumps(dict(kafka.options))
    return {"SLUICE_KAFKA_BOOTSTRAP": kafka.bootstrap, "SLUICE_KAFKA_OPTIONS": options}


def silent_broker(settings: Settings, port: int) -> dict[str, str]:
    """The variables by which a command looks for the broker on a port where nothing listens."""
    if settings.kafka.embedded:
        return {"SLUICE_KAFKA_PORT": str(port)}
    return {"SLUICE_KAFKA_BOOTSTRAP": f"127.0.0.1:{port}"}


def command_environment(settings: Settings, **changed: str) -> dict[str, str]:
    """The variables of a command that uses these services, some of them changed."""
    return {
        **inherited(),
        "SLUICE_HOME": str(settings.home),
        "SLUICE_POSTGRES_PORT": str(settings.postgres.port),
        **broker_variables(settings),
        "SLUICE_CLICKHOUSE_PORT": str(settings.clickhouse.port),
        "SLUICE_CLICKHOUSE_HTTP_PORT": str(settings.clickhouse.http_port),
        "SLUICE_AIRFLOW_PORT": str(settings.airflow_port),
        **changed,
    }


def killed(settings: Settings, module: str, *arguments: object, **variables: object) -> None:
    """Run a module on this stack, in a process of its own that kills itself at some point."""
    known = {
        "SLUICE_POSTGRES_PORT": settings.postgres.port,
        **broker_variables(settings),
        "SLUICE_CLICKHOUSE_PORT": settings.clickhouse.port,
        "SLUICE_CLICKHOUSE_HTTP_PORT": settings.clickhouse.http_port,
        "SLUICE_COPY_READERS": settings.copy_readers,
        **variables,
    }
    process = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**Stack(settings).environment(), **{k: str(v) for k, v in known.items()}},
        cwd=PROJECT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, (process.stdout + process.stderr).decode()


def connected_to(*ports: int) -> set[int]:
    """The own ports of this process's connections to servers on these ports."""
    own = psutil.Process().net_connections("tcp")
    live = [one for one in own if one.raddr and one.status == psutil.CONN_ESTABLISHED]
    return {one.laddr.port for one in live if one.raddr.port in ports}


def process_of(pid: int | None) -> psutil.Process:
    """A process that runs; psutil takes None for the caller, which would be stopped or killed."""
    assert pid is not None, "it does not run"
    return psutil.Process(pid)


def stop(process: subprocess.Popen[bytes], grace: float = 30) -> None:
    """SIGTERM, and SIGKILL to what is left of it and its children `grace` seconds later.

    Airflow's scheduler can lose a SIGTERM, because its handler raises SystemExit wherever it is
    just then; and when it ends it can leave a worker that it was about to start.
    """
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
