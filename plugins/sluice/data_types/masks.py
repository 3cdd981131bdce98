"""Masks of column values: a keyed hash, or a constant.

The relay masks the bytes that it streams, PostgreSQL masks the rows that are read from its tables.
Both start from the output of the column's type, so one value has one masked text. The key is never
in a statement: HMAC needs it only in two blocks (RFC 2104), and sessions have those as settings.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256

HASH, REDACT = "hash", "redact"
REDACTED = "(redacted)"
# Settings of a session on PostgreSQL: the blocks before the inner and the outer message, as hex.
INNER, OUTER = "sluice.mask_inner", "sluice.mask_outer"
_BLOCK = 64  # bytes of a block of SHA-256
_INNER_BYTE, _OUTER_BYTE = 0x36, 0x5C
_FINGERPRINT_DIGITS = 12
# `concat` gives the type's output, `textsend` its bytes in the session's encoding: what the stream
# has. IS DISTINCT FROM NULL is true for a row of NULLs, too.
_DIGEST = (
    f"sha256(decode(current_setting('{OUTER}'), 'hex') || "
    f"sha256(decode(current_setting('{INNER}'), 'hex') || textsend(concat({{}}))))"
)
_SQL = {
    HASH: f"CASE WHEN {{}} IS DISTINCT FROM NULL THEN encode({_DIGEST}, 'hex') END",
    REDACT: f"CASE WHEN {{}} IS DISTINCT FROM NULL THEN '{REDACTED}'::text END",
}
MASKS = tuple(_SQL)

Mask = Callable[[bytes], bytes]


def mask_of(kind: str, key: str) -> Mask:
    """Return the function that masks PostgreSQL's text of a value that is not NULL."""
    if kind == REDACT:
        return lambda _: REDACTED.encode()
    secret = key.encode()
    return lambda value: hmac.digest(secret, value, "sha256").hex().encode()


def mask_sql(kind: str) -> str:
    """Return SQL of the masked text of a `{}`; NULL where it is NULL."""
    return _SQL[kind]


def session_options(key: str) -> dict[str, str]:
    """Return the settings that a session needs to hash values; none without a key."""
    if not key:
        return {}
    secret = key.encode()
    block = (sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(_BLOCK, b"\0")
    return {
        name: bytes(byte ^ own for byte in block).hex()
        for name, own in ((INNER, _INNER_BYTE), (OUTER, _OUTER_BYTE))
    }


def fingerprint(key: str) -> str:
    """Return a short text by which a key is known again, and that does not tell it."""
    text = hmac.digest(key.encode(), b"sluice: fingerprint of a mask's key", "sha256").hex()
    return text[:_FINGERPRINT_DIGITS]
