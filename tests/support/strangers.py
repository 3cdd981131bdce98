"""Servers that are not the one whose port it is: each answers every connection in its own way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_TYPE = b"Content-Type: application/json\r\n"


def _http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, _TYPE, len(body), body)


# Kind -> what is said before the connection is closed; None: nothing, and it stays open.
STRANGERS: dict[str, bytes | None] = {
    "closes at once": b"",
    "says nothing": None,
    "greets as SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "greets as SMTP": b"220 mail.example ESMTP\r\n",
    "zeros": bytes(4096),
    "bytes of no protocol": bytes(range(255, 0, -1)) * 8,
    "another HTTP server": _http(b"<html>hello</html>"),
    "another API": _http(b'{"detail": "hello"}'),
    "a list": _http(b"[]"),
    "nothing in it": _http(b"null"),
    "a page that is missing": _http(b"{}", b"404 Not Found"),
    "a page that is elsewhere": b"HTTP/1.1 302 Found\r\nLocation: ftp://nowhere/\r\n\r\n",
    "HTTP cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "a length that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "no UTF-8": _http(b'"\xff\xfe"'),
    "deep JSON": _http(b"[" * 100_000),
}


@contextmanager
def stranger(kind: str, listener: socket.socket | None = None) -> Iterator[int]:
    """A server of this kind, on a free port unless it is given a socket; its port."""
    server = listener or socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []
    thread = threading.Thread(target=_serve, args=(server, STRANGERS[kind], open_ones.append))
    thread.start()
    try:
        name = server.getsockname()
        yield name[1] if isinstance(name, tuple) else 0
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)
        for one in open_ones:
            one.close()


def _serve(
    server: socket.socket, words: bytes | None, keep: Callable[[socket.socket], None]
) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            if words is None:
                keep(connection)
                continue
            with suppress(OSError), connection:
                connection.settimeout(0.2)
                with suppress(TimeoutError):
                    connection.recv(65536)
                connection.sendall(words)
                connection.shutdown(socket.SHUT_WR)
