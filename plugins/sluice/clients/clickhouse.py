"""ClickHouse by clickhouse-driver's native protocol: the one seam where its errors are ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from clickhouse_driver import Client
from clickhouse_driver import errors as driver_errors

from sluice.clients import listeners
from sluice.errors import NeedsPerson, NotReady, Refused, Unreachable, WrongUsage
from sluice.generate.clickhouse import literal, on_cluster, quoted
from sluice.settings import ClickHouseSettings, Cluster

_NOT_SET_UP = frozenset({16, 60, 81})  # no such column in the table, table, database
_AUTHENTICATION_FAILED, _ACCESS_DENIED = 516, 497
_MEMORY = 241
_HANDSHAKE_S = 10.0
_SHARD_DOWN = frozenset({209, 210, 279})  # time-out, network, no connection
_BUSY = frozenset({_MEMORY, 164, 202, 242, 252, 319})  # read-only, parts, replicas
_NO_SPACE, _CANNOT_WRITE = 243, 75
_SERVERS = """
SELECT host_name, port, is_local FROM system.clusters WHERE cluster = {cluster:String}
"""
# What makes statements that name Distributed tables as right as if they were plain ones: an insert
# returns when the shards have it, a subquery runs once, here, over all shards.
_DISTRIBUTED = {
    "distributed_foreground_insert": 1,
    "parallel_distributed_insert_select": 0,
    "prefer_global_in_and_join": 1,
}
# What one replica has written, the next query sees on whichever replica it runs; a part that is
# inserted again is not taken for the same.
_REPLICATED = {
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,
    "insert_deduplicate": 0,
}
# A table of PostgreSQL's 1,600 columns makes statements longer than ClickHouse reads by default
# (256 KiB, 50,000 elements). Shorter ones are sent without these, so that a profile that forbids
# them stops no other table.
LONG_STATEMENT = 32_768  # bytes; below it no statement has 50,000 elements
LONG_LIMITS = {
    "max_query_size": 1 << 26,
    "max_ast_elements": 10_000_000,
    "max_expanded_ast_elements": 10_000_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Travelling:
    """A column on its way: the type it travels as, and SQL that makes of it what is stored."""

    name: str
    type: str
    stored: str


def release(version: str) -> tuple[int, ...]:
    """The year and the number of the release that a server's version is of: (25, 8)."""
    return tuple(map(int, version.split(".")[:2]))


class ClickHouse:
    """A session on ClickHouse; temporary tables last as long as it does.

    Queries take ClickHouse's own parameters: `{name:UInt64}` in the text, values by name.

    Args:
        seconds: how long the server may take for an answer; None for as long as the options say.
    """

    def __init__(self, settings: ClickHouseSettings, seconds: float | None = None) -> None:
        self._settings = settings
        self._limits = {} if seconds is None else {"send_receive_timeout": seconds}

    @property
    def cluster(self) -> Cluster:
        """What tables are spread over."""
        return self._settings.cluster

    @property
    def person(self) -> str:
        """In whose name the session is."""
        return self._settings.person

    @cached_property
    def _client(self) -> Client:
        settings = self._settings
        options = {"connect_timeout": 5, **settings.options}
        chosen = options.pop("settings", {})
        defaults = {"server_side_params": True, "strings_as_bytes": False}
        try:
            return Client(
                host=settings.host,
                port=settings.port,
                user=settings.user,
                password=settings.password.get_secret_value(),
                database="default",
                client_name="sluice",
                **{**options, **self._limits},
                settings={**defaults, **chosen, **_spread(self.cluster)},
            )
        except (TypeError, ValueError) as error:
            raise WrongUsage(
                f"the options of {self.where} are not clickhouse-driver's: {error}",
                remedy="mend SLUICE_CLICKHOUSE_OPTIONS, or the extra of sluice_clickhouse",
            ) from None

    def close(self) -> None:
        """End the session."""
        self._client.disconnect()

    def execute(
        self, query: str, /, external: Sequence[Mapping[str, Any]] = (), **parameters: Any
    ) -> list[tuple[Any, ...]]:
        """Run a statement; its rows, if it has any.

        Args:
            external: tables that exist for this query alone; see `external_table`.
        """
        rows = self._run(query, parameters or None, external_tables=list(external) or None)
        return rows if isinstance(rows, list) else []

    def everywhere(self, statement: str, /, **parameters: Any) -> None:
        """Run a statement on each server of the cluster, on this one last; see `on_cluster`.

        So what is not done here is to be done again, wherever else it is done already.
        """
        if not self.cluster.replicated:
            self.elsewhere(statement, **parameters)
        self.execute(on_cluster(statement, self.cluster), **parameters)

    def elsewhere(self, statement: str, /, **parameters: Any) -> None:
        """Run a statement on the cluster's other servers, one after the other."""
        for server in self.others():
            server.execute(statement, **parameters)

    def others(self) -> Iterator[ClickHouse]:
        """Sessions on the cluster's other servers; each ends when the next begins.

        Raises:
            NeedsPerson: this server does not know the cluster.
        """
        if not self.cluster.name:
            return
        servers = self.execute(_SERVERS, cluster=self.cluster.name)
        if not servers:
            raise NeedsPerson(
                f"{self.where} has no cluster {self.cluster.name!r} among its remote_servers",
                remedy="configure it there, or mend SLUICE_CLICKHOUSE_CLUSTER",
            )
        for host, port in sorted({(host, port) for host, port, is_here in servers if not is_here}):
            with closing(ClickHouse(replace(self._settings, host=host, port=port))) as server:
                yield server

    def servers(self) -> Iterator[ClickHouse]:
        """Sessions on all servers of the cluster, this one last."""
        yield from self.others()
        yield self

    def newest(self) -> tuple[int, ...]:
        """The newest release among the servers; see `release`."""
        return max(release(one.execute("SELECT version()")[0][0]) for one in self.servers())

    @property
    def where(self) -> str:
        """The server, for messages."""
        return f"ClickHouse {self._settings.host}:{self._settings.port}"

    def table(self, query: str, **parameters: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query; its column names and rows."""
        rows, columns = self._run(query, parameters or None, with_column_types=True)
        return [name for name, _ in columns], rows

    def written_rows(self) -> int:
        """How many rows the last INSERT ... SELECT wrote."""
        progress = self._client.last_query.progress
        return int(progress.written_rows) if progress else 0

    def insert(self, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        """Insert columns of equal length as one block; `names` and `table` are quoted already."""
        self._run(f"INSERT INTO {table} ({', '.join(names)}) VALUES", columns, columnar=True)

    def insert_converted(
        self, table: str, columns: Sequence[Travelling], values: Sequence[Sequence[Any]]
    ) -> None:
        """Insert columns of equal length as one block, each made what is stored by the server."""
        names = ", ".join(quoted(column.name) for column in columns)
        stored = ", ".join(column.stored for column in columns)
        structure = ", ".join(f"{quoted(column.name)} {column.type}" for column in columns)
        self._run(
            f"INSERT INTO {table} ({names}) SELECT {stored}"
            f" FROM input({literal(structure)}) FORMAT Native",
            values,
            columnar=True,
        )

    def insert_row(self, table: str, row: Mapping[str, Any]) -> None:
        """Insert one row."""
        self.insert(table, list(row), [[value] for value in row.values()])

    def _run(self, statement: str, data: Any, **options: Any) -> Any:
        long = len(statement.encode()) > LONG_STATEMENT
        with self._translated():
            return self._client.execute(
                statement, data, settings=LONG_LIMITS if long else None, **options
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        where = self.where
        try:
            self._shake_hands()
            yield
        except driver_errors.ServerException as error:
            raise _server_error(where, error) from error
        except (driver_errors.SocketTimeoutError, driver_errors.NetworkError, OSError) as error:
            self._client.disconnect()
            raise Unreachable(
                f"{where} does not answer: {_said(error)}",
                remedy="see: sluice status, sluice logs clickhouse",
            ) from error
        except (_Stranger, driver_errors.Error, EOFError) as error:
            self._client.disconnect()
            raise Unreachable(
                f"{where} does not answer as ClickHouse does: {_said(error)}",
                remedy="its native port is wanted (9000, by TLS 9440), with the option secure where"
                " it is TLS; see: sluice status, sluice logs clickhouse",
            ) from error

    def _shake_hands(self) -> None:
        """Connect, where there is no connection, within _HANDSHAKE_S.

        The driver waits for a server's first words as long as for a query: five minutes.
        """
        connection = self._client.connection
        if connection.connected:
            return
        settings = self._settings
        if settings.account is not None:
            name = "SLUICE_CLICKHOUSE_PORT"
            listeners.require_account(self.where, settings.port, settings.account, name)
        patience = connection.send_receive_timeout
        connection.send_receive_timeout = min(patience, _HANDSHAKE_S)
        try:
            connection.connect()
        except (ValueError, MemoryError, OverflowError) as error:  # words that are none
            raise _Stranger(type(error).__name__) from error
        finally:
            connection.send_receive_timeout = patience
        connection.socket.settimeout(patience)


class _Stranger(Exception):
    """What listens on the port is no ClickHouse."""


def _said(error: Exception) -> str:
    said = getattr(error, "message", "") or str(error) or type(error).__name__
    return str(said).splitlines()[0][:300]


def _spread(cluster: Cluster) -> dict[str, Any]:
    """The settings that a cluster needs."""
    return {
        **(_DISTRIBUTED if cluster.name else {}),
        **(_REPLICATED if cluster.replicated else {}),
    }


def _server_error(where: str, error: driver_errors.ServerException) -> Exception:
    first = str(error.message).removeprefix("DB::Exception: ").partition(" Stack trace:")[0]
    first = first.splitlines()[0][:300]
    if error.code in _SHARD_DOWN:
        return Unreachable(f"{where} cannot reach a shard: {first}", remedy="see: sluice status")
    if error.code in _NOT_SET_UP:
        return NotReady(f"{where}: {first}", remedy="run: sluice init")
    if error.code in {_AUTHENTICATION_FAILED, _ACCESS_DENIED}:
        return NeedsPerson(f"{where}: {first}", remedy="check the sluice_clickhouse credentials")
    if error.code == _NO_SPACE or (error.code == _CANNOT_WRITE and "No space left" in first):
        return Refused(
            f"{where} refuses for now: {first}", remedy="make room on its disk, then run it again"
        )
    if error.code in _BUSY:
        return Refused(f"{where} refuses for now: {first}", too_large=error.code == _MEMORY)
    return NeedsPerson(f"{where}: {first}")
