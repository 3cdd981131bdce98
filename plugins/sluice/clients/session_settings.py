"""Settings that every session on PostgreSQL pins, over those of role, database and server.

They end sessions or statements, or change the text of values or the meaning of names. A decision
about each setting that a user can set is in tests/integration/test_session_settings.py.
"""

from __future__ import annotations

from collections.abc import Mapping

PINNED = {
    # Limits of statements, transactions and sessions; a check sets its own limit.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    "wal_sender_timeout": "60s",  # PostgreSQL's default; the relay answers four times a second
    # Visibility of rows and tables, and whether a heartbeat may be written.
    "row_security": "off",
    "search_path": '"$user",public',
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "synchronous_commit": "local",  # flush a mark, without waiting for a standby
    # Output and input of values.
    "datestyle": "ISO,MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "xmloption": "content",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
}
# Settings that older servers lack -> their first `server_version_num`, and value.
PINNED_SINCE = {"transaction_timeout": (170000, "0")}


_NONE: Mapping[str, str] = {}


def pinned_options(more: Mapping[str, str] = _NONE) -> str:
    """Return the pinned settings, and more of the session's own, as libpq's `options`."""
    return " ".join(f"-c {name}={value}" for name, value in {**PINNED, **more}.items())


def pinned_later(version: int) -> list[str]:
    """Return the statements that pin the others on a server of this `server_version_num`."""
    return [
        f"SET {name} = {value}" for name, (since, value) in PINNED_SINCE.items() if version >= since
    ]
