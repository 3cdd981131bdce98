"""Two ClickHouse servers that know each other: two shards, or with a Keeper two replicas."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from sluice.settings import ClickHouseSettings, Cluster
from tests.support.services import free_ports
from tests.support.waiting import until

NAME = "two"
# A server ends when a client leaves in the handshake (ADR 1), which servers of a cluster do after a
# second; on a busy machine a handshake takes longer.
_USERS = """
<clickhouse>
    <profiles><default>
        <connect_timeout_with_failover_ms>60000</connect_timeout_with_failover_ms>
        <use_hedged_requests>0</use_hedged_requests>
    </default></profiles>
    <users><default>
        <no_password/>
        <networks><ip>127.0.0.1</ip></networks>
        <profile>default</profile>
        <quota>default</quota>
        <access_management>1</access_management>
    </default></users>
    <quotas><default/></quotas>
</clickhouse>
"""


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

    @property
    def _log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def configuration(self) -> Path:
        """Its remote_servers, and with a Keeper its macros."""
        return self.folder.with_suffix(".xml")

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "sluice.embedded.clickhouse"]
        ports = ["--tcp-port", str(self.port), "--http-port", str(self.http_port)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *command,
                    "--path",
                    str(self.folder),
                    *ports,
                    "--config-file",
                    str(self.configuration),
                ],
                stdout=log,
                stderr=log,
            )
        until(self._answers, f"ClickHouse on port {self.port} answers")

    def kill(self) -> None:
        """Kill it at once."""
        if self.process is not None:
            if self.process.poll() not in {None, -signal.SIGKILL}:  # it ended by itself
                print(self._log.read_text(errors="replace")[-10_000:], file=sys.stderr)
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"ClickHouse on port {self.port} ended"
        address = f"http://127.0.0.1:{self.http_port}/ping"
        with suppress(OSError), urllib.request.urlopen(address, timeout=1) as answer:
            return bool(answer.status == 200)
        return False


class Servers:
    """The cluster; `settings` reach its first server, which is the one that Sluice uses.

    Args:
        keeper: the port of a Keeper; the servers are then replicas of one shard.
    """

    def __init__(self, folder: Path, keeper: int | None = None) -> None:
        ports, users = free_ports(4), folder / "users.xml"
        users.write_text(_USERS)
        self.shards = [
            Shard(folder=folder / f"shard{at}", port=ports[2 * at], http_port=ports[2 * at + 1])
            for at in range(2)
        ]
        for shard in self.shards:
            others = [each.port for each in self.shards]
            text = _configuration(others, shard.folder.name, users, keeper)
            shard.configuration.write_text(text)
        self.cluster = Cluster(name=NAME, replicated=keeper is not None)

    def start(self) -> None:
        """Start both."""
        for shard in self.shards:
            shard.start()

    def kill(self) -> None:
        """Kill both."""
        for shard in self.shards:
            shard.kill()

    def settings(self, at: int = 0) -> ClickHouseSettings:
        """How to reach one of them, as a server of the cluster."""
        return self.shards[at].settings(self.cluster)


def _configuration(ports: list[int], name: str, users: Path, keeper: int | None) -> str:
    servers = [f"<replica><host>127.0.0.1</host><port>{port}</port></replica>" for port in ports]
    copied = "<internal_replication>true</internal_replication>"
    if keeper is None:
        more, shards = "", "".join(f"<shard>{copied}{server}</shard>" for server in servers)
    else:
        more, shards = _keeper(keeper, name), f"<shard>{copied}{''.join(servers)}</shard>"
    return (
        f"<clickhouse><remote_servers><{NAME}>{shards}</{NAME}></remote_servers>{more}"
        f"<users_config>{users}</users_config>"
        "<mlock_executable>false</mlock_executable></clickhouse>"
    )


def _keeper(port: int, replica: str) -> str:
    """Where replicas meet: by the name; without ON CLUSTER each has a UUID of its own."""
    return (
        f"<zookeeper><node><host>127.0.0.1</host><port>{port}</port></node></zookeeper>"
        f"<macros><shard>1</shard><replica>{replica}</replica></macros>"
        "<default_replica_path>/clickhouse/{database}/{table}/{shard}</default_replica_path>"
        "<default_replica_name>{replica}</default_replica_name>"
    )
