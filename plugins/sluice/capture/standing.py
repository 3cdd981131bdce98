"""How the tables stand since the snapshot that was noted: sent, added, or not sent and why.

PostgreSQL 18 skips, without an error, changes made while the publication was not there. So a
publication that was dropped and made again, or lost a table for a while, has to be noticed. What
concerns one table parks it (parking.py); what concerns all of them stops the relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluice.capture.publication import faults, find, incomplete
from sluice.catalog import Catalog, Table
from sluice.errors import PublicationIncomplete, SluiceError
from sluice.settings import RelaySettings

_AGAIN = "bring it and the tables back: sluice recover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the tables stand in the publication.

    Attributes:
        added: tables that came to it since the snapshot that was noted; they have none yet.
        unsent: tables whose changes cannot be sent, and why.
        renewed: tables whose changes are sent, and were not for a while.
    """

    added: tuple[Table, ...]
    unsent: dict[str, SluiceError]
    renewed: dict[str, SluiceError]


def require_standing(
    cursor: Any, relay: RelaySettings, catalog: Catalog, noted: dict[str, Any] | None
) -> Standing:
    """Find how the tables stand since the snapshot that was noted.

    Raises:
        PublicationIncomplete: of all tables something is not sent, or was not for a while.
    """
    found = find(cursor, relay, catalog)
    if found is None:
        raise PublicationIncomplete(
            f"publication {relay.publication} is gone; changes of all tables since then are not"
            " sent",
            remedy=_AGAIN,
        )
    known = (noted or {}).get("publication") or {}
    if known and known["oid"] != found.identity["oid"]:
        raise PublicationIncomplete(
            f"publication {relay.publication} was made again since the last snapshot; which"
            " changes of which tables it did not send then is unknown",
            remedy=_AGAIN,
        )
    if not found.complete:
        raise incomplete(relay, found)
    unsent: dict[str, SluiceError] = {**found.faults, **faults(cursor, catalog)}
    places = known.get("tables", {})
    renewed: dict[str, SluiceError] = {
        name: PublicationIncomplete(
            f"table {name}'s place in publication {relay.publication} was made again",
            remedy="start the relay, which sends its changes from now on",
        )
        for name, place in found.identity["tables"].items()
        if name in places and places[name] not in (None, place) and name not in unsent
    }
    added = (table for table in catalog.tables if table.name not in places) if known else ()
    return Standing(
        added=tuple(table for table in added if table.name not in unsent),
        unsent=unsent,
        renewed=renewed,
    )
