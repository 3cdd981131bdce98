"""Resolves rejected events whose row has a newer valid version.

A rejected row that is corrected in PostgreSQL arrives again with a newer version, by the stream or
by a resync. The rejected event is then obsolete.
"""

from __future__ import annotations

from sluice.drain.decoder import Decoder
from sluice.drain.ports import OpenReject, StateStore


def resolve(store: StateStore, decoder: Decoder, truncated: int) -> int:
    """Mark a table's open rejects whose row is stored or deleted at the same or a newer version.

    A message without a valid key and position is never resolved: a person dismisses it.

    Args:
        truncated: the version of the newest truncation; older rows are deleted.

    Returns:
        The number of rejects marked.
    """
    located = [
        (reject, place)
        for reject in store.open_rejects(decoder.table.name)
        if (place := decoder.place(reject.key, reject.metadata, reject.offset, reject.epoch))
    ]
    if not located:
        return 0
    current = store.current(decoder.table, [key for _, (key, _) in located])
    resolved: list[OpenReject] = [
        reject
        for reject, (key, version) in located
        if version <= current.get(key, (0, None))[0] or version < truncated
    ]
    if resolved:
        store.resolve(decoder.table.name, resolved)
    return len(resolved)
