"""A web server that keeps what is posted to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any


class Posted(BaseHTTPRequestHandler):
    """Keeps what is posted; /refused answers 500."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.kept.append((self.path, json.loads(body)))  # type: ignore[attr-defined]
        self.send_response(500 if self.path == "/refused" else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def serving(server: Any) -> Iterator[tuple[int, list[Any]]]:
    server.kept = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1], server.kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
