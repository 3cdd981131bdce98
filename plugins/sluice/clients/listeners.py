"""The system account that listens on a port, so that no other account's server gets a password.

Only Linux reports it, in /proc/net/tcp, which every account may read.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from sluice.errors import Unreachable

_LISTEN = "0A"


def require_account(what: str, port: int, account: int, setting: str) -> None:
    """Require that the server on a port of 127.0.0.1 belongs to the account, this user or root.

    Accepts a port on which none listens, and a system that does not report the account.

    Args:
        what: name of the service that should listen there.
        setting: variable that chooses its port.

    Raises:
        Unreachable: another account's server listens there.
    """
    listener = listening_account(port)
    if listener is not None and listener not in {account, os.geteuid(), 0}:
        raise Unreachable(
            f"{what}: a server of another user, of id {listener}, listens on port {port}",
            remedy=f"stop it, or set {setting} to a free port; it was sent no password",
        )


def listening_account(port: int) -> int | None:
    """Return the account that listens on a port of 127.0.0.1; None where it is unknown."""
    listening = dict(_listening(port))
    for address in ("127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::"):  # noqa: S104 - compared
        if (account := listening.get(_hexadecimal(address))) is not None:
            return account
    return None


def _listening(port: int) -> Iterator[tuple[str, int]]:
    """Yield address and account of each socket that listens on the port.

    Linux lists these sockets before all others, of which there may be thousands, and makes the
    lines as they are read (Documentation/networking/proc_net_tcp.rst).
    """
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(OSError), table.open() as lines:
            for line in islice(lines, 1, None):
                _, local, _, state, _, _, _, account, *_ = line.split()
                address, _, number = local.partition(":")
                if state != _LISTEN:
                    break
                if int(number, 16) == port:
                    yield address, int(account)


def _hexadecimal(address: str) -> str:
    """Format an address like the tables: words of four bytes in the machine's order."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
