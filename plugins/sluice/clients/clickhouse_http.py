"""Inserts of text over ClickHouse's HTTP interface, of which Python moves the bytes only.

A body is sent in chunks as it is written. If its writer fails, the last chunk is not sent: the
server would store a line that is cut off in the middle. Without it, it stores whole blocks of lines
at most.
"""

from __future__ import annotations

import base64
import io
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, BinaryIO
from urllib.parse import urlencode

from clickhouse_driver import errors as driver_errors

from sluice.clients import listeners
from sluice.clients.clickhouse import (
    LONG_LIMITS,
    LONG_STATEMENT,
    cluster_settings,
    look,
    server_error,
)
from sluice.errors import Unreachable
from sluice.generate.clickhouse import literal
from sluice.settings import ClickHouseSettings

# Whatever the user's profile says: `async_insert` would report rows that are not stored, and
# detected headers, defaults and tolerated errors would leave out or alter rows.
PINNED: Mapping[str, Any] = {
    "async_insert": 0,
    "wait_end_of_query": 1,
    "input_format_tsv_detect_header": 0,
    "input_format_tsv_skip_first_lines": 0,
    "input_format_tsv_empty_as_default": 0,
    "input_format_tsv_allow_variable_number_of_columns": 0,
    "input_format_tsv_crlf_end_of_line": 0,
    "input_format_null_as_default": 0,
    "input_format_allow_errors_num": 0,
    "input_format_allow_errors_ratio": 0,
    "format_tsv_null_representation": "\\N",
    "date_time_input_format": "basic",
    "precise_float_parsing": 1,
    "min_insert_block_size_rows": 1_048_449,
    "min_insert_block_size_bytes": 268_402_944,
}
# ClickHouse's codes for a request whose end is missing: the connection broke.
# UNEXPECTED_END_OF_FILE, ATTEMPT_TO_READ_AFTER_EOF, CANNOT_READ_ALL_DATA
_CUT_OFF = frozenset({3, 32, 33})
_BUFFER = 256 << 10  # bytes of a chunk
_CODE = "X-ClickHouse-Exception-Code"
_SECONDS = 300.0  # clickhouse-driver's default of `send_receive_timeout`


class _Body(io.RawIOBase):
    """The body of a request; each write sends a chunk."""

    def __init__(self, connection: HTTPConnection, sent: Callable[[bytes], None]) -> None:
        self._connection, self._sent = connection, sent
        self.ended = False

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any, /) -> int:
        """Send a chunk; discard it where the request has ended, as a buffer's last flush may."""
        size = len(data)
        if size and not self.ended:
            text = bytes(data)
            self._connection.send(_chunk(text))
            self._sent(text)
        return size


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


@contextmanager
def insertion(
    settings: ClickHouseSettings,
    statement: str,
    sent: Callable[[bytes], None],
    query_id: str,
) -> Iterator[BinaryIO]:
    """Run an insert whose rows are written to the file; they are stored when the context ends.

    Args:
        statement: the insert up to its format, with a line end.
        sent: called with each chunk that was sent.
        query_id: the insert's, by which `system.processes` shows it while it runs.

    Raises:
        Unreachable: the server does not answer; rows may be stored or not.
        SluiceError: the server refused the insert.
    """
    with _connection(settings) as connection:
        body = _Body(connection, sent)
        try:
            named = urlencode({"query_id": query_id})
            connection.putrequest("POST", f"{_path(settings, statement)}&{named}")
            for name, value in _headers(settings).items():
                connection.putheader(name, value)
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            connection.send(_chunk(statement.encode()))
            rows = io.BufferedWriter(body, _BUFFER)
            yield rows
            rows.flush()
            connection.send(b"0\r\n\r\n")
        except OSError as error:  # the server may have said why it stopped reading
            with suppress(OSError, HTTPException):
                _require(settings, connection.getresponse())
            raise _unreachable(settings, error) from error
        finally:
            body.ended = True
        try:
            _require(settings, connection.getresponse())
        except (OSError, HTTPException) as error:
            raise _unreachable(settings, error) from error


def table_id(settings: ClickHouseSettings, table: str) -> str:
    """Return the identity of a table in `cdc` on the server that answers, empty where it has none.

    Raises:
        Unreachable: nothing answers as ClickHouse does.
        SluiceError: the server refuses the user or a setting of inserts.
    """
    query = f"SELECT uuid FROM system.tables WHERE database = 'cdc' AND name = {literal(table)}"
    try:
        with _connection(settings) as connection:
            text = f"{query} FORMAT TabSeparated".encode()
            connection.request("POST", _path(settings, query), text, _headers(settings))
            return _require(settings, connection.getresponse()).decode().strip()
    except (OSError, HTTPException) as error:
        raise _unreachable(settings, error) from error


@contextmanager
def _connection(settings: ClickHouseSettings) -> Iterator[HTTPConnection]:
    if settings.account is not None:
        name = "SLUICE_CLICKHOUSE_HTTP_PORT"
        listeners.require_account(_where(settings), settings.http_port, settings.account, name)
    options = settings.options
    place = (settings.host, settings.http_port)
    seconds = float(options.get("send_receive_timeout", _SECONDS))
    connection = (
        HTTPSConnection(*place, timeout=seconds, context=_context(options))
        if options.get("secure")
        else HTTPConnection(*place, timeout=seconds)
    )
    try:
        yield connection
    finally:
        connection.close()


def _context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return the TLS settings of clickhouse-driver's options."""
    context = ssl.create_default_context(cafile=options.get("ca_certs"))
    if not options.get("verify", True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.get("certfile"):
        context.load_cert_chain(options["certfile"], options.get("keyfile"))
    return context


def _path(settings: ClickHouseSettings, statement: str) -> str:
    chosen = settings.options.get("settings", {})
    limits = LONG_LIMITS if len(statement.encode()) > LONG_STATEMENT else {}
    return "/?" + urlencode({**chosen, **cluster_settings(settings.cluster), **PINNED, **limits})


def _headers(settings: ClickHouseSettings) -> dict[str, str]:
    account = f"{settings.user}:{settings.password.get_secret_value()}"
    return {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"}


def _require(settings: ClickHouseSettings, answer: HTTPResponse) -> bytes:
    """Return the answer; raise its error where it is one."""
    text = answer.read()
    code = answer.headers.get(_CODE)
    if answer.status == 200 and code is None:
        return text
    if code is None:
        raise HTTPException(f"status {answer.status}")
    reason = text.decode(errors="replace").partition("DB::Exception: ")[2]
    if int(code) in _CUT_OFF:
        raise HTTPException(reason)
    raise server_error(_where(settings), driver_errors.ServerException(reason, int(code)))


def _where(settings: ClickHouseSettings) -> str:
    return f"ClickHouse {settings.host}:{settings.http_port}"


def _unreachable(settings: ClickHouseSettings, error: Exception) -> Unreachable:
    reason = (str(error) or type(error).__name__).splitlines()[0][:300]
    return Unreachable(
        f"{_where(settings)} does not answer by HTTP: {reason}",
        remedy=f"{look(settings)}; and SLUICE_CLICKHOUSE_HTTP_PORT",
    )
