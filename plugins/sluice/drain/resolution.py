"""Rejected events whose row has come right since: they are told as resolved.

A row that was rejected and then corrected in PostgreSQL comes again with a newer version, by the
stream or by a resync. What the rejected event said is then of no consequence any more.
"""

from __future__ import annotations

from sluice.drain.decoder import Decoder
from sluice.drain.ports import OpenReject, StateStore


def resolve(store: StateStore, decoder: Decoder, truncated: int) -> int:
    """Mark the open rejects of a table whose row is there, or gone, in the same or a newer version.

    What is no event with a key and a place is never resolved: a person dismisses it.

    Args:
        truncated: rows below this version are gone.

    Returns:
        How many were marked.
    """
    placed = [
        (reject, place)
        for reject in store.open_rejects(decoder.table.name)
        if (place := decoder.place(reject.key, reject.metadata, reject.offset, reject.epoch))
    ]
    if not placed:
        return 0
    current = store.current(decoder.table, [key for _, (key, _) in placed])
    resolved: list[OpenReject] = [
        reject
        for reject, (key, version) in placed
        if version <= current.get(key, (0, None))[0] or version < truncated
    ]
    if resolved:
        store.resolve(decoder.table.name, resolved)
    return len(resolved)
