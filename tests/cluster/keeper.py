"""Apache ZooKeeper as Debian packages it, where it is installed: a Keeper for ClickHouse."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.services import free, free_ports
from tests.support.waiting import until

JARS = Path("/usr/share/java")
INSTALLED = bool(shutil.which("java")) and (JARS / "zookeeper.jar").exists()


@contextmanager
def keeper(folder: Path) -> Iterator[int]:
    """The port of one that runs alone and keeps its data in the folder."""
    (port,) = free_ports(1)
    settings = {
        "dataDir": folder / "zookeeper",
        "clientPort": port,
        "clientPortAddress": "127.0.0.1",
        "maxClientCnxns": 0,
        "admin.enableServer": "false",
    }
    file = folder / "zoo.cfg"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    server = ["-Xmx256m", "-cp", f"{JARS}/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain"]
    with (folder / "zookeeper.log").open("wb") as log:
        process = subprocess.Popen(["java", *server, str(file)], stdout=log, stderr=log)
    try:

        def listens() -> bool:
            assert process.poll() is None, "ZooKeeper ended"
            return not free(port)

        until(listens, "ZooKeeper listens")
        yield port
    finally:
        process.kill()
        process.wait()
