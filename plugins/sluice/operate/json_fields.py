"""Divides messages that are JSON objects into fields, without altering their texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec

_SECTIONS = ("payload", "before", "metadata")


def json_fields(message: bytes) -> Iterator[tuple[str, str]]:
    """Yield place and JSON text of each field of an object, and of each one in its sections."""
    with suppress(ValueError, RecursionError):
        message.decode()  # msgspec does not validate what it leaves raw
        for section, raw in msgspec.json.decode(message, type=dict[str, msgspec.Raw]).items():
            if section in _SECTIONS and bytes(raw).lstrip().startswith(b"{"):
                for name, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items():
                    yield f"{section}.{name}", bytes(value).decode()
            else:
                yield section, bytes(raw).decode()
