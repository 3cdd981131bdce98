"""What a change event says of itself. Written by `sluice generate`; do not edit."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict


class EventMetadata(TypedDict):
    """Where a change came from and where it stands; the envelope is described in the docs."""

    source: Literal["relay", "connect"]
    table: str
    operation: Literal["read", "insert", "update", "delete", "truncate"]
    lsn: str | None
    commit_lsn: NotRequired[str | None]
    ordinal: NotRequired[int | None]
    fence: NotRequired[int | None]
    commit_ts_ms: int | None
