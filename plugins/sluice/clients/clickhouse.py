"""ClickHouse sessions through clickhouse-driver, whose errors are translated here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from clickhouse_driver import Client
from clickhouse_driver import errors as driver_errors
from clickhouse_driver.connection import Connection

from sluice.clients import listeners
from sluice.errors import NeedsPerson, NotReady, Refused, Unreachable, WrongUsage, own_log
from sluice.generate.clickhouse import literal, on_cluster, quoted
from sluice.settings import ClickHouseSettings, Cluster

_NOT_SET_UP = frozenset({16, 60, 81})  # no such column in the table, table, database
_AUTHENTICATION_FAILED, _ACCESS_DENIED = 516, 497
_REMEDIES = {
    _AUTHENTICATION_FAILED: (
        "set SLUICE_CLICKHOUSE_USER and SLUICE_CLICKHOUSE_PASSWORD, or the login of the connection"
        " sluice_clickhouse"
    ),
    _ACCESS_DENIED: "give its user the rights that docs/services/clickhouse.md lists",
}
_MEMORY = 241
_HANDSHAKE_S, _PING_S = 10.0, 1.0
_SHARD_DOWN = frozenset({209, 210, 279})  # time-out, network, no connection
_READONLY = 164
_LOG = own_log("clickhouse")
_THEIRS = (
    "see that it runs and that this machine reaches it, or fix SLUICE_CLICKHOUSE_HOST and"
    " SLUICE_CLICKHOUSE_PORT, or the connection sluice_clickhouse"
)
_BUSY = frozenset({_MEMORY, _READONLY, 202, 242, 252, 319})  # read-only, parts, replicas
_NO_SPACE, _CANNOT_WRITE = 243, 75
# Errors that do not come from the text of a query.
_NOT_OF_THE_TEXT = frozenset(
    {_AUTHENTICATION_FAILED, _ACCESS_DENIED, _NO_SPACE, _CANNOT_WRITE, *_SHARD_DOWN, *_BUSY}
)
_NO_WRITES = 2  # of the setting `readonly`: a query may still have SETTINGS
_SERVERS = """
SELECT host_name, port, is_local FROM system.clusters WHERE cluster = {cluster:String}
"""
# Settings for statements on Distributed tables: an insert returns when the shards have stored it,
# and a subquery runs once, on the initiator, over all shards.
_DISTRIBUTED = {
    "distributed_foreground_insert": 1,
    "parallel_distributed_insert_select": 0,
    "prefer_global_in_and_join": 1,
}
# A query sees earlier writes on whichever replica it runs; ClickHouse must not drop an equal block
# that is inserted again as a duplicate.
_REPLICATED = {
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,
    "insert_deduplicate": 0,
}
# Statements on a table of PostgreSQL's 1,600 columns exceed ClickHouse's default limits (256 KiB,
# 50,000 elements). Shorter statements go without these settings, so that a profile that forbids
# them stops no other table.
LONG_STATEMENT = 32_768  # bytes; no shorter statement has 50,000 elements
LONG_LIMITS = {
    "max_query_size": 1 << 26,
    "max_ast_elements": 10_000_000,
    "max_expanded_ast_elements": 10_000_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Travelling:
    """A column of an insert: the type that is sent, and SQL that converts it to the stored one."""

    name: str
    type: str
    stored: str


def release(version: str) -> tuple[int, ...]:
    """Return a version's release, as in (25, 8)."""
    return tuple(map(int, version.split(".")[:2]))


class ClickHouse:
    """A session on ClickHouse, with its own temporary tables.

    Queries take ClickHouse's own parameters: `{name:UInt64}` in the text, values by name.

    Args:
        seconds: how long the server may take to answer. Default: None, for that of the options.
    """

    def __init__(self, settings: ClickHouseSettings, seconds: float | None = None) -> None:
        self._settings = settings
        self._seconds = seconds

    @property
    def cluster(self) -> Cluster:
        """Return the cluster that holds the tables."""
        return self._settings.cluster

    @property
    def person(self) -> str:
        """Return the person recorded for what the session does."""
        return self._settings.person

    @cached_property
    def _client(self) -> Client:
        settings = self._settings
        options = {"connect_timeout": 5, **settings.options}
        chosen = options.pop("settings", {})
        limits = {} if self._seconds is None else _limits(self._seconds)
        defaults = {"server_side_params": True, "strings_as_bytes": False}
        try:
            client = Client(
                host=settings.host,
                port=settings.port,
                user=settings.user,
                password=settings.password.get_secret_value(),
                database="default",
                client_name="sluice",
                **{**options, **limits},
                settings={**defaults, **chosen, **cluster_settings(self.cluster)},
            )
        except (TypeError, ValueError) as error:
            raise WrongUsage(
                f"the options of {self.where} are not clickhouse-driver's: {error}",
                remedy="fix SLUICE_CLICKHOUSE_OPTIONS, or the extra of sluice_clickhouse",
            ) from None
        connection = client.connection
        connection.connect = partial(self._connect, connection, connection.connect)
        return client

    def another(self) -> ClickHouse:
        """Return another session with the same settings, as one takes a query at a time."""
        return ClickHouse(self._settings, self._seconds)

    def close(self) -> None:
        """End the session, if it began."""
        if client := self.__dict__.get("_client"):
            client.disconnect()

    def execute(
        self, query: str, /, external: Sequence[Mapping[str, Any]] = (), **parameters: Any
    ) -> list[tuple[Any, ...]]:
        """Run a statement; return its rows, if it has any.

        Args:
            external: tables that only this query sees; see `external_table`. Default: none.
        """
        rows = self._run(query, parameters or None, external_tables=list(external) or None)
        return rows if isinstance(rows, list) else []

    def everywhere(self, statement: str, /, **parameters: Any) -> None:
        """Run a statement on each server of the cluster; see `on_cluster`.

        This server comes last: until it has run here, the statement has to be repeated everywhere.
        """
        if not self.cluster.replicated:
            self.elsewhere(statement, **parameters)
        self.execute(on_cluster(statement, self.cluster), **parameters)

    def drop(self, table: str, /) -> None:
        """Drop a table of `cdc` on each server, if it is there and however large it is.

        By default ClickHouse drops none of over 50 GB.
        """
        unlimited = "SETTINGS max_table_size_to_drop = 0"
        self.everywhere(f"DROP TABLE IF EXISTS cdc.{quoted(table)} SYNC {unlimited}")

    def elsewhere(self, statement: str, /, **parameters: Any) -> None:
        """Run a statement on the cluster's other servers, one after the other."""
        for server in self.others():
            server.execute(statement, **parameters)

    def others(self) -> Iterator[ClickHouse]:
        """Yield a session on each of the cluster's other servers, closed before the next.

        Raises:
            NeedsPerson: this server does not know the cluster.
        """
        if not self.cluster.name:
            return
        servers = self.execute(_SERVERS, cluster=self.cluster.name)
        if not servers:
            raise NeedsPerson(
                f"{self.where} has no cluster {self.cluster.name!r} among its remote_servers",
                remedy="configure it there, or fix SLUICE_CLICKHOUSE_CLUSTER",
            )
        for host, port in sorted({(host, port) for host, port, is_here in servers if not is_here}):
            with closing(ClickHouse(replace(self._settings, host=host, port=port))) as server:
                yield server

    def servers(self) -> Iterator[ClickHouse]:
        """Yield a session on each server of the cluster, this one last."""
        yield from self.others()
        yield self

    def newest(self) -> tuple[int, ...]:
        """Return the newest release among the servers; see `release`."""
        return max(release(server.execute("SELECT version()")[0][0]) for server in self.servers())

    @property
    def where(self) -> str:
        """Return the server, for messages."""
        return f"ClickHouse {self._settings.address}"

    def table(self, query: str, **parameters: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query; return its column names and rows."""
        rows, columns = self._run(query, parameters or None, with_column_types=True)
        return [name for name, _ in columns], rows

    def answer(
        self, query: str, *, writes: bool = False
    ) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
        """Run a person's query; return the name and type of each column, and the rows.

        Args:
            writes: whether it may change something; the server refuses that otherwise. Default:
                false.

        Raises:
            WrongUsage: the server refuses the query for its text.
        """
        with self._translated(_query_error):
            limits: dict[str, Any] = {} if writes or self._is_reader() else {"readonly": _NO_WRITES}
            if len(query.encode()) > LONG_STATEMENT:
                limits |= LONG_LIMITS
            try:
                rows, columns = self._client.execute(query, settings=limits, with_column_types=True)
            except driver_errors.UnknownTypeError as error:
                self._client.disconnect()
                raise WrongUsage(
                    f"{self.where} returns a type that clickhouse-driver cannot read:"
                    f" {_first_line(error)}",
                    remedy="convert the column, as in toString(column)",
                ) from error
        return columns, rows

    def _is_reader(self) -> bool:
        """Whether the user's profile forbids writes; it forbids changes of `readonly` too."""
        return bool(self._client.execute("SELECT toUInt64(getSetting('readonly'))")[0][0])

    def written_rows(self) -> int:
        """Return the number of rows that the last INSERT ... SELECT wrote."""
        progress = self._client.last_query.progress
        return int(progress.written_rows) if progress else 0

    def insert(self, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        """Insert columns of equal length as one block; `table` and `names` have to be quoted."""
        self._run(f"INSERT INTO {table} ({', '.join(names)}) VALUES", columns, columnar=True)

    def insert_converted(
        self, table: str, columns: Sequence[Travelling], values: Sequence[Sequence[Any]]
    ) -> None:
        """Insert columns of equal length as one block; the server converts them."""
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
    def _translated(
        self, refusal: Callable[[str, driver_errors.ServerException], Exception] | None = None
    ) -> Iterator[None]:
        """Translate the driver's errors.

        Args:
            refusal: translates an error that the server reports. Default: server_error.
        """
        where = self.where
        try:
            yield
        except driver_errors.ServerException as error:
            raise (refusal or server_error)(where, error) from error
        except (driver_errors.SocketTimeoutError, driver_errors.NetworkError, OSError) as error:
            self._client.disconnect()
            raise Unreachable(
                f"{where} does not answer: {_first_line(error)}", remedy=look(self._settings)
            ) from error
        except (_OtherProtocol, driver_errors.Error, EOFError) as error:
            self._client.disconnect()
            raise Unreachable(
                f"{where} does not answer as ClickHouse does: {_first_line(error)}",
                remedy="use its native port (9000, with TLS 9440), and the option secure for TLS;"
                f" {look(self._settings)}",
            ) from error

    def _connect(self, connection: Connection, connect: Callable[[], None]) -> None:
        """Connect within _HANDSHAKE_S, to no server of another account.

        The driver would wait for the handshake as long as for a query: five minutes. It calls this
        when it finds a connection closed, too.
        """
        settings = self._settings
        if settings.account is not None:
            name = "SLUICE_CLICKHOUSE_PORT"
            listeners.require_account(self.where, settings.port, settings.account, name)
        patience = connection.send_receive_timeout
        connection.send_receive_timeout = min(patience, _HANDSHAKE_S)
        try:
            connect()
        except (ValueError, MemoryError, OverflowError) as error:  # no valid handshake
            raise _OtherProtocol(type(error).__name__) from error
        finally:
            connection.send_receive_timeout = patience
        connection.socket.settimeout(patience)


class _OtherProtocol(Exception):
    """The server on the port does not speak ClickHouse's protocol."""


def _limits(seconds: float) -> dict[str, float]:
    """Return the driver's limits for a query, and for the ping before it."""
    return {"send_receive_timeout": seconds, "sync_request_timeout": min(_PING_S, seconds)}


def _first_line(error: Exception) -> str:
    text = getattr(error, "message", "") or str(error) or type(error).__name__
    return str(text).splitlines()[0][:300]


def cluster_settings(cluster: Cluster) -> dict[str, Any]:
    """Return the session's settings for a cluster."""
    return {
        **(_DISTRIBUTED if cluster.name else {}),
        **(_REPLICATED if cluster.replicated else {}),
    }


def look(settings: ClickHouseSettings) -> str:
    """Return where to look for the cause if the server does not answer."""
    return _LOG if settings.embedded else _THEIRS


def _query_error(where: str, error: driver_errors.ServerException) -> Exception:
    """Return the error of a person's query, most of which are faults of its text."""
    first = _reason(error)
    if error.code == _READONLY:
        remedy = "to change data run: sluice sql --write"
        return WrongUsage(f"{where}: {first}", remedy=remedy)
    if error.code in _NOT_SET_UP:
        remedy = "fix the name; if it is one of Sluice's, run: sluice init"
        return WrongUsage(f"{where}: {first}", remedy=remedy)
    if error.code in _NOT_OF_THE_TEXT:
        return server_error(where, error)
    return WrongUsage(f"{where}: {first}")


def _reason(error: driver_errors.ServerException) -> str:
    text = str(error.message).removeprefix("DB::Exception: ").partition(" Stack trace:")[0]
    return text.splitlines()[0][:300]


def server_error(where: str, error: driver_errors.ServerException) -> Exception:
    """Translate an error that the server reports."""
    first = _reason(error)
    if error.code in _SHARD_DOWN:
        return Unreachable(f"{where} cannot reach a shard: {first}", remedy="see: sluice status")
    if error.code in _NOT_SET_UP:
        return NotReady(f"{where}: {first}", remedy="run: sluice init")
    if error.code == _NO_SPACE or (error.code == _CANNOT_WRITE and "No space left" in first):
        return Refused(
            f"{where} refuses for now: {first}", remedy="make room on its disk, then run it again"
        )
    if error.code in _BUSY:
        return Refused(f"{where} refuses for now: {first}", too_large=error.code == _MEMORY)
    return NeedsPerson(f"{where}: {first}", remedy=_REMEDIES.get(error.code))
