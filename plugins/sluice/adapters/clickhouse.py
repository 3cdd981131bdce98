"""ClickHouse by clickhouse-driver's native protocol: the one seam where its errors are ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from clickhouse_driver import Client
from clickhouse_driver import errors as driver_errors

from sluice.errors import NeedsPerson, NotReady, Refused, Unreachable
from sluice.settings import ClickHouseSettings

_NOT_SET_UP = frozenset({16, 60, 81})  # no such column in the table, table, database
_AUTHENTICATION_FAILED, _ACCESS_DENIED = 516, 497
_MEMORY = 241
_BUSY = frozenset({_MEMORY, 164, 202, 242, 243, 252, 319})  # read-only, parts, disk, replicas


class ClickHouse:
    """A session on ClickHouse; temporary tables last as long as it does.

    Queries take ClickHouse's own parameters: `{name:UInt64}` in the text, values by name.
    """

    def __init__(self, settings: ClickHouseSettings) -> None:
        self._settings = settings

    @cached_property
    def _client(self) -> Client:
        settings = self._settings
        return Client(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=settings.password.get_secret_value(),
            database="default",
            client_name="sluice",
            **{"connect_timeout": 5, **settings.options},
            settings={"server_side_params": True, "strings_as_bytes": False},
        )

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
        with self._translated():
            rows = self._client.execute(
                query, parameters or None, external_tables=list(external) or None
            )
        return rows if isinstance(rows, list) else []

    def table(self, query: str, **parameters: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query; its column names and rows."""
        with self._translated():
            rows, columns = self._client.execute(query, parameters or None, with_column_types=True)
        return [name for name, _ in columns], rows

    def written_rows(self) -> int:
        """How many rows the last INSERT ... SELECT wrote."""
        progress = self._client.last_query.progress
        return int(progress.written_rows) if progress else 0

    def insert(self, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        """Insert columns of equal length as one block; `names` and `table` are quoted already."""
        with self._translated():
            self._client.execute(
                f"INSERT INTO {table} ({', '.join(names)}) VALUES", columns, columnar=True
            )

    def insert_row(self, table: str, row: Mapping[str, Any]) -> None:
        """Insert one row."""
        self.insert(table, list(row), [[value] for value in row.values()])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        where = f"ClickHouse {self._settings.host}:{self._settings.port}"
        try:
            yield
        except driver_errors.ServerException as error:
            raise _server_error(where, error) from error
        except (driver_errors.NetworkError, EOFError, OSError) as error:
            self._client.disconnect()
            said = getattr(error, "message", "") or str(error) or type(error).__name__
            raise Unreachable(
                f"{where} does not answer: {said.splitlines()[0]}",
                remedy="see: sluice status, sluice logs clickhouse",
            ) from error


def external_table(
    name: str, structure: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]
) -> Mapping[str, Any]:
    """Rows that travel with a query and are a table in it; structure is (column, type)."""
    names = [column for column, _ in structure]
    data = [dict(zip(names, row, strict=True)) for row in rows]
    return {"name": name, "structure": list(structure), "data": data}


def _server_error(where: str, error: driver_errors.ServerException) -> Exception:
    first = str(error.message).removeprefix("DB::Exception: ").splitlines()[0][:300]
    if error.code in _NOT_SET_UP:
        return NotReady(f"{where}: {first}", remedy="run: sluice init")
    if error.code in {_AUTHENTICATION_FAILED, _ACCESS_DENIED}:
        return NeedsPerson(f"{where}: {first}", remedy="check the sluice_clickhouse credentials")
    if error.code in _BUSY:
        return Refused(f"{where} refuses for now: {first}", too_large=error.code == _MEMORY)
    return NeedsPerson(f"{where}: {first}")
