"""Outgoing connections to configured addresses, except link-local ones.

Clouds serve a machine's credentials at link-local addresses. A name is resolved once, and the
checked address is the one connected to, so that it cannot change in between.
"""

from __future__ import annotations

import ipaddress
import smtplib
import socket
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    Request,
    build_opener,
)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Metadata services at other than link-local addresses: AWS and Google by IPv6, Alibaba,
# Oracle, Azure.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class RefusedAddress(OSError):
    """The address is link-local, or a cloud's metadata service."""


def refused(text: str) -> bool:
    """Whether a connection to an address is refused."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return any(
        form.is_link_local or form.is_multicast or form in _METADATA for form in _forms(address)
    )


def _forms(address: _Address) -> list[_Address]:
    """Return the address, and the IPv4 address that it embeds."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    within = [address.ipv4_mapped, address.sixtofour]
    within += [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in _NAT64 else []
    return [address, *(form for form in within if form is not None)]


def connected(place: tuple[str, int], timeout: Any = None, _source: Any = None) -> socket.socket:
    """Connect to a host and port like socket.create_connection.

    Raises:
        RefusedAddress: the name resolves to an address that is refused.
    """
    host, port = place
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in entries]
    for address in addresses:
        _require_allowed(address)
    last: OSError = OSError(f"{host} has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            last = error
    raise last


def _require_allowed(address: str) -> None:
    if refused(address):
        raise RefusedAddress(f"{address} is link-local, or a metadata service")


class _Http(HTTPConnection):
    def connect(self) -> None:
        self._create_connection = connected
        super().connect()


class _Https(HTTPSConnection):
    def connect(self) -> None:
        self._create_connection = connected
        super().connect()


class _HttpHandler(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_Http, req)


class _HttpsHandler(HTTPSHandler):
    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_Https, req, context=self._context)  # type: ignore[attr-defined]


class _NoRedirection(HTTPRedirectHandler):
    """Follows no redirection, which then counts as a refusal."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(request: Request, seconds: float, *, anywhere: bool) -> None:
    """Send a request, through the environment's proxy if there is one.

    Args:
        anywhere: whether link-local addresses are allowed.

    Raises:
        HTTPError: it was refused or redirected.
        URLError: it could not be sent; the reason is RefusedAddress for a refused address.
    """
    handlers: list[Any] = [_NoRedirection, *([] if anywhere else [_HttpHandler, _HttpsHandler])]
    if not anywhere:
        _require_literal_allowed(urlsplit(request.full_url).hostname or "")
    with build_opener(*handlers).open(request, timeout=seconds) as answer:
        answer.read(1)


def _require_literal_allowed(host: str) -> None:
    """Check a literal address, as a proxy would connect to it without a check."""
    try:
        entries = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return  # a name
    for entry in entries:
        _require_allowed(str(entry[4][0]))


class Smtp(smtplib.SMTP):
    """A mail server's client."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return connected((host, port), timeout)


class SmtpByTls(smtplib.SMTP_SSL, Smtp):
    """A mail server's client with implicit TLS."""
