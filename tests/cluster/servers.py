"""Two ClickHouse servers that are two shards of one cluster, without a Keeper."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from sluice.settings import ClickHouseSettings, Cluster
from tests.conftest import free_ports

NAME = "two"


@dataclass(slots=True, kw_only=True)
class Shard:
    """One server; it can be killed and started again with what it has."""

    folder: Path
    port: int
    http_port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    def settings(self, cluster: Cluster) -> ClickHouseSettings:
        """How to reach it."""
        return ClickHouseSettings(
            host="127.0.0.1",
            port=self.port,
            http_port=self.http_port,
            user="default",
            password=SecretStr(""),
            cluster=cluster,
        )

    def start(self, configuration: Path) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "sluice.embedded.clickhouse"]
        ports = ["--tcp-port", str(self.port), "--http-port", str(self.http_port)]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--path", str(self.folder), *ports, "--config-file", str(configuration)],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, f"ClickHouse on port {self.port} ended"
            assert time.monotonic() < deadline, f"ClickHouse on port {self.port} does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        address = f"http://127.0.0.1:{self.http_port}/ping"
        with suppress(OSError), urllib.request.urlopen(address, timeout=1) as answer:
            return bool(answer.status == 200)
        return False


class Servers:
    """The cluster; `settings` reach its first server, which is the one that Sluice uses."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(4)
        self.shards = [
            Shard(folder=folder / f"shard{at}", port=ports[2 * at], http_port=ports[2 * at + 1])
            for at in range(2)
        ]
        self.configuration = folder / "cluster.xml"
        self.configuration.write_text(_configuration([shard.port for shard in self.shards]))
        self.cluster = Cluster(name=NAME)

    def start(self) -> None:
        """Start both."""
        for shard in self.shards:
            shard.start(self.configuration)

    def kill(self) -> None:
        """Kill both."""
        for shard in self.shards:
            shard.kill()

    def settings(self, at: int = 0) -> ClickHouseSettings:
        """How to reach one of them, as a server of the cluster."""
        return self.shards[at].settings(self.cluster)


def _configuration(ports: list[int]) -> str:
    shards = "".join(
        "<shard><internal_replication>true</internal_replication>"
        f"<replica><host>127.0.0.1</host><port>{port}</port></replica></shard>"
        for port in ports
    )
    return (
        f"<clickhouse><remote_servers><{NAME}>{shards}</{NAME}></remote_servers>"
        "<mlock_executable>false</mlock_executable></clickhouse>"
    )
