"""Settings that every session on PostgreSQL pins, whatever its role, database or server has.

They are those that end a session or a statement, change the text of a value, or change what a name
means. tests/integration/test_session_settings.py asks for a decision on each that a user can set.
"""

from __future__ import annotations

PINNED = {
    # What would end a statement, a transaction or a session. A check's own limit is set by itself.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    "wal_sender_timeout": "60s",  # PostgreSQL's default; the relay answers four times a second
    # What decides which rows and tables are seen, and whether a marker may be written.
    "row_security": "off",
    "search_path": '"$user",public',
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "synchronous_commit": "local",  # a mark is flushed, and no standby is waited for
    # The text of values, and how text is read.
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
# Those that older servers do not know: the first release that does, as `server_version_num`.
PINNED_SINCE = {"transaction_timeout": (170000, "0")}


def pinned_options() -> str:
    """The settings of a session that is opened, in the form of libpq's `options`."""
    return " ".join(f"-c {name}={value}" for name, value in PINNED.items())


def pinned_later(version: int) -> list[str]:
    """Statements that pin the others on a server of this `server_version_num`."""
    return [
        f"SET {name} = {value}" for name, (since, value) in PINNED_SINCE.items() if version >= since
    ]
