"""Metadata of a change event. Written by `sluice generate`; do not edit."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict


class EventMetadata(TypedDict):
    """Source and position of a change; the documentation describes the envelope."""

    source: Literal["relay", "connect"]
    table: str
    operation: Literal["read", "insert", "update", "delete", "truncate"]
    lsn: str | None
    commit_lsn: NotRequired[str | None]
    ordinal: NotRequired[int | None]
    fence: NotRequired[int | None]
    commit_ts_ms: int | None
