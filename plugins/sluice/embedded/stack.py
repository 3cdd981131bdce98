"""The stack under supervisord: starts in order, restarts after crashes, stops completely."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import psutil

from sluice.embedded import airflow_service, clickhouse_users, postgres, private
from sluice.embedded.airflow_service import AirflowApi
from sluice.embedded.passwords import ensure_secrets
from sluice.embedded.programs import AIRFLOW, STORES, Program, busy_ports, programs, set_ports
from sluice.errors import NotReady, Retryable, Unreachable, WrongUsage
from sluice.settings import (
    IN_REPOSITORY,
    PACKAGE,
    Settings,
    Started,
    differences,
    kept,
    read_secrets,
    read_started,
    secrets_file,
    started_file,
    started_text,
)

_FOLDERS = ("run", "logs", "airflow", "postgres", "broker", "clickhouse")
_START_SECONDS = 300  # on a busy machine Airflow takes more than two minutes
_ANSWER_SECONDS = 5.0  # the supervisor answers every call at once
_SOCKET_LENGTH = 100  # of a socket's path that every system accepts

_DAEMON = """\
[unix_http_server]
file = {socket}
chmod = 0700

[supervisord]
logfile = {logs}/supervisord.log
logfile_maxbytes = 5MB
pidfile = {home}/run/supervisord.pid
nodaemon = false
umask = {umask:03o}
minfds = 1024
{daemon_user}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{socket}
"""
_PROGRAM = """
[program:{name}]
command = {command}
directory = {directory}
autostart = false
autorestart = unexpected
exitcodes = 0,4
startsecs = 2
startretries = 1000000
stopsignal = {signal}
stopwaitsecs = {seconds}
stopasgroup = {group}
killasgroup = true
redirect_stderr = true
stdout_logfile = {logs}/{name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 2
{user}
"""


# A socket that accepts no connection, and one that accepts it and does not answer.
_SILENT = (BlockingIOError, TimeoutError)
_AT_WORK = {"RUNNING", "STARTING", "BACKOFF", "STOPPING"}


class _Connection(HTTPConnection):
    """HTTP on a Unix domain socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    """XML-RPC on a Unix domain socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = _Connection(self._path)
        self._connection = host, connection  # closed by `close`
        return connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramState:
    """The supervisor's state of a program; `state` in lower case."""

    state: str
    pid: int | None
    address: str


class Stack:
    """The programs of one home."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.home
        self.programs = programs(settings)

    @property
    def logs(self) -> Path:
        """Return the folder of the programs' logs, NAME.log."""
        return self._home / "logs"

    def running(self) -> bool:
        """Whether this home's supervisor answers.

        Raises:
            Unreachable: it exists and does not answer.
        """
        try:
            self._call("getState")
        except Retryable as error:
            if isinstance(error.__cause__, _SILENT):
                raise
            return False
        return True

    def launch(self) -> None:
        """Check ports and folder, prepare the cluster, start the supervisor unless it runs.

        The folder is closed to other users each time, as earlier versions left it open.

        Raises:
            NotReady: a supervisor runs with another broker, with another store that is not its
                own, or with other settings, or the file that notes these is damaged.
        """
        self._make_folders()
        if self.running():
            self._require_same_programs()
            self._require_same_settings()
            return
        busy_ports(self.programs)
        secrets = ensure_secrets(self._home)
        airflow_service.write_passwords(self._settings, secrets)
        clickhouse_users.write_configuration(self._home / "run", secrets)
        postgres.create_cluster(self._home / "postgres", secrets["postgres"])
        config = self._home / "run" / "supervisord.conf"
        private.write(config, self._config())
        self.note_settings()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
        done = subprocess.run(
            command,
            env=self.environment(),
            cwd=self._settings.project,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            umask=private.UMASK,
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise NotReady(f"the supervisor did not start: {' '.join(last)}")
        self._wait(self.running, "supervisord")

    def note_settings(self) -> None:
        """Note ports and settings in the home, for commands in other shells.

        A setting that a running stack has is noted from where its programs have it.
        """
        noted = read_started(self._home).settings if self.running() else {}
        settings = {
            name: noted[name] if name in noted and noted[name][0] == value[0] else value
            for name, value in self._settings.asked.items()
        }
        started = Started(ports=set_ports(self.programs.values()), settings=settings)
        private.write(started_file(self._home), started_text(started))

    def begin(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command that ends by itself, in the programs' environment, with its NAME.log."""
        log = self.logs / f"{name}.log"
        private.write(log, "")
        with log.open("w") as out:
            return subprocess.Popen(
                command,
                env=self.environment(),
                stdout=out,
                stderr=subprocess.STDOUT,
                umask=private.UMASK,
            )

    def start(self, names: Sequence[str], report: Callable[[str], None]) -> None:
        """Start programs that do not run, and wait until each answers.

        Raises:
            Unreachable: a program did not answer in time.
        """
        for name in names:
            if self._state(name) not in {"RUNNING", "STARTING"}:
                self._call("startProcess", name, False)
        for name in names:
            program = self.programs[name]
            self._wait(lambda p=program: self._ready(p), name)  # type: ignore[misc]
            report(f"{name} is up: {program.address}")

    def restart(self, names: Sequence[str], report: Callable[[str], None]) -> None:
        """Restart programs, so that they read the present models and code; see `start`."""
        self.halt(names)
        self.start(names, report)

    def halt_older(self, name: str, moment: float) -> None:
        """Stop a program that was started before a moment, seconds since 1970, or in its second."""
        info = self._call("getProcessInfo", name)
        if info["statename"] in _AT_WORK and info["start"] <= moment:
            self.halt([name])

    def halt(self, names: Sequence[str]) -> None:
        """Stop programs, all at once, and wait until they have ended."""
        for name in names:
            self._halted(name)
        for name in names:
            self._wait(lambda n=name: self._halted(n), name)  # type: ignore[misc]

    def _halted(self, name: str) -> bool:
        """Whether a program has ended; else tell it to."""
        state = self._state(name)
        if state in _AT_WORK - {"STOPPING"}:
            with suppress(NotReady):  # it has ended since
                self._call("stopProcess", name, False)
        return state not in _AT_WORK

    def stop(self) -> bool:
        """Stop everything and wait until no process is left; return whether anything ran.

        First what runs Airflow's tasks, which use everything else; the stores last.
        """
        if not self.running():
            return False
        pid = int(self._call("getPID"))
        known = {str(info["name"]) for info in self._call("getAllProcessInfo")}
        first, last = set(AIRFLOW) - {"airflow-api-server"}, set(STORES)
        for names in (first, known - first - last, last):
            self.halt(sorted(names & known))
        self._call("shutdown")
        self._wait(lambda: self._ended(pid), "supervisord")
        return True

    def _ended(self, supervisor: int) -> bool:
        """Whether the supervisor has ended; else wake it.

        It stops one program each time it wakes: once a second, and for a call.
        """
        with suppress(NotReady, Unreachable):
            self._call("getState")
        return not _alive(supervisor)

    def data(self) -> list[Path]:
        """Return what the stack has made in its home: folders and the file of passwords."""
        own = [self._home / name for name in _FOLDERS] + [secrets_file(self._home)]
        return [path for path in own if path.exists() or path.is_symlink()]

    def wipe(self) -> None:
        """Delete what the stack has made; keep other files that a person has in the home.

        Raises:
            WrongUsage: something cannot be deleted.
        """
        try:
            for path in self.data():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            if self._home.exists() and not any(self._home.iterdir()):
                self._home.rmdir()
        except OSError as error:
            raise WrongUsage(
                f"{error.filename} cannot be deleted: {error.strerror}",
                remedy="run as its owner: sluice down --wipe",
            ) from error

    def states(self) -> dict[str, ProgramState]:
        """Return every program's state; `stopped` without a supervisor."""
        if not self.running():
            return {
                name: ProgramState(state="stopped", pid=None, address=program.address)
                for name, program in self.programs.items()
            }
        processes = {info["name"]: info for info in self._call("getAllProcessInfo")}
        return {
            name: ProgramState(
                state=str(processes[name]["statename"]).lower(),
                pid=processes[name]["pid"] or None,
                address=program.address,
            )
            for name, program in self.programs.items()
            if name in processes
        }

    def airflow(self, seconds: float = 10) -> AirflowApi:
        """Return the REST API of the stack's Airflow, with a time limit for answers.

        It sends the password only to the process that the supervisor started.
        """
        password = read_secrets(self._home).get("airflow", "")
        verify = partial(self.require_own, "airflow-api-server")
        return AirflowApi(self._settings.airflow_port, password, seconds, verify)

    def require_own(self, name: str) -> None:
        """Require that this stack's program listens on its ports.

        Raises:
            NotReady: another server is on one of them.
        """
        state = self.states().get(name)
        pid = state.pid if state else None
        for port, setting in self.programs[name].ports:
            if pid is None or not _listens(pid, port):
                raise NotReady(
                    f"another server than this stack's {name} is on port {port}; it was sent no"
                    " password",
                    remedy=f"stop it, or set {setting} to a free port; then: sluice up",
                )

    def environment(self) -> dict[str, str]:
        """Return the programs' environment: settings, Airflow's own, and the secrets."""
        secrets = read_secrets(self._home)
        # In a repository of Sluice its plugins as well, whatever is installed.
        own = [str(PACKAGE.parent)] if IN_REPOSITORY else []
        paths = (str(self._settings.project), *own, os.environ.get("PYTHONPATH", ""))
        return {
            **os.environ,
            "SLUICE_PROJECT": str(self._settings.project),
            "SLUICE_HOME": str(self._home),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            **airflow_service.environment(self._settings, secrets),
        }

    def _require_same_programs(self) -> None:
        """Require that the supervisor runs the stores that the settings name as the stack's own."""
        known = {str(info["name"]) for info in self._call("getAllProcessInfo")}
        for name in sorted((known ^ set(self.programs)) & set(STORES)):
            was, wanted = ("with", "without") if name in known else ("without", "with")
            raise NotReady(
                f"the stack runs {was} a {name} of its own, and is set to run {wanted} one",
                remedy="run: sluice down, then: sluice up",
            )

    def _require_same_settings(self) -> None:
        """Require the settings with which the running stack was started and that it keeps."""
        started, asked = read_started(self._home).settings, self._settings.asked
        if not started:
            raise NotReady(
                f"{started_file(self._home)} does not say with which settings the stack runs",
                remedy="run: sluice down, then: sluice up, with the variables of its start",
            )
        if others := differences(kept(started, asked), asked):
            raise NotReady(
                f"the stack runs with other settings: {'; '.join(others)}",
                remedy="set the same, or run: sluice down, then: sluice up",
            )

    def _ready(self, program: Program) -> bool:
        state = self._state(program.name)
        if program.ready is None:
            return bool(state == "RUNNING")
        return state in {"RUNNING", "STARTING"} and program.ready()

    def _make_folders(self) -> None:
        server = postgres.account()
        group, user = (server.pw_gid, server.pw_uid) if server else (None, None)
        try:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            private.close(self._home, group)
            private.tighten(self._home, user)
            for folder in ("run", "logs", "airflow"):
                (self._home / folder).mkdir(exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=self._home):
                pass
        except OSError as error:
            raise WrongUsage(
                f"SLUICE_HOME {self._home} cannot be written: {error.strerror}",
                remedy="set SLUICE_HOME to a folder you own",
            ) from error

    def _config(self) -> str:
        places = {"home": self._home, "logs": self.logs, "socket": self._socket()}
        root = "user = root" if os.geteuid() == 0 else ""
        text = _DAEMON.format(**places, daemon_user=root, umask=private.UMASK)
        for program in self.programs.values():
            text += _PROGRAM.format(
                name=program.name,
                command=" ".join(f'"{part}"' for part in program.command).replace("%", "%%"),
                directory=self._home if program.user is None else self._home / "postgres",
                signal=program.stop_signal,
                seconds=program.stop_seconds,
                # PostgreSQL stops its own children in order.
                group="false" if program.name == "postgres" else "true",
                logs=self.logs,
                user=f"user = {program.user}" if program.user else "",
            )
        return text

    def _socket(self) -> Path:
        path = self._home / "run" / "supervisor.sock"
        if len(str(path)) <= _SOCKET_LENGTH:
            return path
        name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"sluice-{name}.sock"

    def _state(self, name: str) -> str:
        return str(self._call("getProcessInfo", name)["statename"])

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the supervisor's XML-RPC interface.

        Raises:
            NotReady: the supervisor refuses it.
            Unreachable: no supervisor answers on this home's socket.
        """
        transport = _Transport(self._socket())
        try:
            self._require_trusted(self._socket())
            proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise NotReady(
                f"the supervisor refuses {method} {' '.join(map(str, arguments))}:"
                f" {fault.faultString}",
                remedy="see: sluice status, sluice logs supervisord",
            ) from fault
        except _SILENT as error:
            pid = self.supervisor()
            raise Unreachable(
                f"the supervisor (process {pid}) did not answer on {self._socket()} within"
                f" {_ANSWER_SECONDS:.0f} s: it hangs or was stopped",
                remedy=f"resume it: kill -CONT {pid}; then run it again. See: sluice logs"
                " supervisord",
            ) from error
        except (OSError, HTTPException, xmlrpc.client.Error, ExpatError, ValueError) as error:
            raise Unreachable(
                f"no supervisor answers on {self._socket()}: {type(error).__name__}",
                remedy="start the stack: sluice up",
            ) from error
        finally:
            transport.close()

    def supervisor(self) -> str:
        """Return the supervisor's pid from its pid file; `unknown` where there is none."""
        try:
            return (self._home / "run" / "supervisord.pid").read_text().strip()
        except OSError:
            return "unknown"

    def _require_trusted(self, path: Path) -> None:
        """Require that the socket is not another user's: below /tmp any user can create it."""
        if path.lstat().st_uid not in {self._home.stat().st_uid, 0}:
            raise NotReady(
                f"the supervisor's socket {path} belongs to another user",
                remedy="remove it, or set SLUICE_HOME to a shorter path",
            )

    def _wait(self, condition: Callable[[], bool], name: str) -> None:
        """Wait for a condition of the program or log of this name."""
        deadline = time.monotonic() + _START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"{name} did not answer in {_START_SECONDS} s",
                    remedy=f"see: sluice logs {name}",
                )
            time.sleep(0.1)


def _listens(pid: int, port: int) -> bool:
    """Whether a process or one of its children listens on a port of this machine."""
    try:
        started = psutil.Process(pid)
        processes = [started, *started.children(recursive=True)]
    except psutil.Error:
        return False
    return any(port in _ports(process) for process in processes)


def _ports(process: psutil.Process) -> set[int]:
    """Return the ports on which a process listens; none if it has ended."""
    try:
        places = process.net_connections("tcp")
    except (psutil.Error, OSError):  # the latter: a connection ended meanwhile
        return set()
    return {place.laddr.port for place in places if place.status == psutil.CONN_LISTEN}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
