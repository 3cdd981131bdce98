"""Why a replication slot was invalidated, and the setting that keeps it from happening again."""

from __future__ import annotations

# SQL for the reason, "" of a slot that can be read; `s` is pg_replication_slots. PostgreSQL 17 and
# newer name it, 16 says whether it was a conflict with recovery, older ones only remove WAL.
INVALIDATION = """
coalesce(to_jsonb(s) ->> 'invalidation_reason',
    CASE WHEN (to_jsonb(s) ->> 'conflicting')::boolean THEN 'conflict'
        WHEN s.wal_status = 'lost' THEN 'wal_removed' ELSE '' END)
"""
# Reason -> what happened, and what to set so that it does not happen again.
_REASONS = {
    "wal_removed": (
        "nobody read it while more WAL than max_slot_wal_keep_size was written",
        "raise max_slot_wal_keep_size",
    ),
    "idle_timeout": (
        "nobody read it for longer than idle_replication_slot_timeout",
        "raise idle_replication_slot_timeout, or set it to 0",
    ),
    "rows_removed": (
        "rows of the catalog that it needs were removed",
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
    """What happened to the slot, in words."""
    return _REASONS[reason][0] if reason in _REASONS else f"reason: {reason or 'unknown'}"


def remedy(reason: str) -> str:
    """The setting that fits the reason, then the command that brings slot and tables back."""
    setting = _REASONS[reason][1] + ", then " if reason in _REASONS else ""
    return f"{setting}run: sluice recover"
