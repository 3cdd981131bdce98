"""Reasons of an invalidated replication slot, and the settings that prevent them."""

from __future__ import annotations

# SQL for the reason, '' for a valid slot; `s` is pg_replication_slots. PostgreSQL 17 and newer name
# the reason, 16 reports conflicts with recovery, older releases invalidate only by removed WAL.
INVALIDATION = """
coalesce(to_jsonb(s) ->> 'invalidation_reason',
    CASE WHEN (to_jsonb(s) ->> 'conflicting')::boolean THEN 'conflict'
        WHEN s.wal_status = 'lost' THEN 'wal_removed' ELSE '' END)
"""
# Reason -> cause, and the setting that prevents it.
_REASONS = {
    "wal_removed": (
        "it was not read while more WAL than max_slot_wal_keep_size was written",
        "raise max_slot_wal_keep_size",
    ),
    "idle_timeout": (
        "it was not read for longer than idle_replication_slot_timeout",
        "raise idle_replication_slot_timeout, or set it to 0",
    ),
    "rows_removed": (
        "catalog rows that it needs were removed",
        "set hot_standby_feedback = on on the standby",
    ),
    "wal_level_insufficient": (
        "wal_level of the primary was below logical",
        "set wal_level = logical on the primary",
    ),
    "conflict": (
        "it conflicted with recovery on a standby",
        "set wal_level = logical on the primary and hot_standby_feedback = on on the standby",
    ),
}


def cause(reason: str) -> str:
    """Describe why the slot was invalidated."""
    return _REASONS[reason][0] if reason in _REASONS else f"reason: {reason or 'unknown'}"


def remedy(reason: str) -> str:
    """Return the setting that prevents the reason, and the command that restores the slot."""
    setting = _REASONS[reason][1] + ", then " if reason in _REASONS else ""
    return f"{setting}run: sluice recover"
