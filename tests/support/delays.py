"""Time stretched: every answer of a server, and every step between two effects, may take long."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from sluice.execution.failpoints import Reached
from sluice.settings import Settings

_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """Random delays; the same seed gives the same ones to each place that asks in turn.

    Attributes:
        share: of the moments that are delayed, 0 to 1.
        most: seconds of a delay.
    """

    chance: random.Random
    share: float
    most: float

    def wait(self) -> None:
        """Perhaps."""
        if self.chance.random() < self.share:
            time.sleep(self.chance.uniform(0, self.most))

    def reached(self, _: str) -> None:
        """As a failpoint's hook."""
        self.wait()


def hook(delays: Delays) -> Reached:
    """What a step calls between two effects."""
    return delays.reached


@contextmanager
def slow_port(target: int, delays: Delays) -> Iterator[int]:
    """A port that passes everything on to another, and every answer late."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=_serve, args=(listener, target, delays), daemon=True)
        serving.start()
        yield listener.getsockname()[1]


@contextmanager
def slow_services(settings: Settings, delays: Delays) -> Iterator[Settings]:
    """The settings with both databases behind slow ports."""
    with ExitStack() as stack:
        postgres, clickhouse = (
            stack.enter_context(slow_port(port, delays))
            for port in (settings.postgres.port, settings.clickhouse.port)
        )
        yield replace(
            settings,
            postgres=replace(settings.postgres, port=postgres),
            clickhouse=replace(settings.clickhouse, port=clickhouse),
        )


def _serve(listener: socket.socket, target: int, delays: Delays) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_pass, args=(client, target, delays), daemon=True).start()


def _pass(client: socket.socket, target: int, delays: Delays) -> None:
    with client, socket.create_connection(("127.0.0.1", target)) as server:
        late = (server, client, delays)
        back = threading.Thread(target=_copy, args=late, daemon=True)
        back.start()
        _copy(client, server, None)
        back.join()


def _copy(source: socket.socket, target: socket.socket, delays: Delays | None) -> None:
    with suppress(OSError):
        while piece := source.recv(_BYTES):
            if delays:
                delays.wait()
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
