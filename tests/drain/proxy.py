"""A TCP proxy before ClickHouse's native port that loses the reply to one insert."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_BYTES = 1 << 16
# The block without rows that ends the data: its packet, no name, two flags, no columns, no rows.
_END_OF_DATA = b"\x02\x00\x01\x00\x02\xff\xff\xff\xff\x00\x00\x00"


@dataclass(slots=True, kw_only=True)
class Proxy:
    """Passes bytes on until it sees `marker` from a client; then that connection is cut.

    Attributes:
        column: a column of the insert, which the client names before its data.
        before_end: called when the end of the data comes, before it is passed on.
        may_cut: whether the server has done the insert; until then its replies are swallowed.
        lost: set when a reply was lost.
    """

    target: int
    marker: bytes
    column: bytes
    may_cut: Callable[[], bool]
    before_end: Callable[[], None] = lambda: None
    port: int = 0
    lost: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            asked = sent = False  # whether the insert's query went by, and its data
            back = threading.Thread(target=self._back, args=(server, client))
            back.start()
            with suppress(OSError):
                while piece := client.recv(_BYTES):
                    if not sent and asked and self.column in piece:
                        sent = True
                        data = piece.removesuffix(_END_OF_DATA)
                        server.sendall(data)
                        piece = piece[len(data) :]
                    if piece and sent and not self.lost.is_set():
                        self.lost.set()
                        self.before_end()
                    asked = asked or self.marker in piece
                    server.sendall(piece)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while (piece := server.recv(_BYTES)) and not self.lost.is_set():
                client.sendall(piece)
        deadline = time.monotonic() + 30
        while self.lost.is_set() and not self.may_cut() and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(made: Proxy) -> Iterator[Proxy]:
    """The proxy on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.port = listener.getsockname()[1]
        threading.Thread(target=made.serve, args=(listener,), daemon=True).start()
        yield made
