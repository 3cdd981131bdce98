"""The tables' standing since the noted snapshot: sent, added, or not sent.

PostgreSQL 18 silently skips changes made while there is no publication. So a publication that was
dropped and recreated, or lost a table for a while, has to be detected. A fault of one table parks
it (parking.py); a fault of all tables stops the relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluice.capture.publication import faults, find, incomplete
from sluice.catalog import Catalog, Table
from sluice.errors import PublicationIncomplete, SluiceError
from sluice.settings import RelaySettings

_RECOVER = "restore it and the tables: sluice recover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The tables' standing in the publication.

    Attributes:
        added: tables that were added since the noted snapshot and have no snapshot yet.
        unsent: table -> error, where changes cannot be sent.
        renewed: table -> error, where changes are sent again and were not for a while.
    """

    added: tuple[Table, ...]
    unsent: dict[str, SluiceError]
    renewed: dict[str, SluiceError]


def require_standing(
    cursor: Any, relay: RelaySettings, catalog: Catalog, noted: dict[str, Any] | None
) -> Standing:
    """Return the tables' standing since the noted snapshot.

    Raises:
        PublicationIncomplete: changes of all tables are not sent, or were not for a while.
    """
    publication = find(cursor, relay, catalog)
    if publication is None:
        raise PublicationIncomplete(
            f"publication {relay.publication} is gone; changes of all tables since then are not"
            " sent",
            remedy=_RECOVER,
        )
    known = (noted or {}).get("publication") or {}
    if known and known["oid"] != publication.identity["oid"]:
        raise PublicationIncomplete(
            f"publication {relay.publication} was recreated since the last snapshot; which"
            " changes of which tables it did not send then is unknown",
            remedy=_RECOVER,
        )
    if not publication.complete:
        raise incomplete(relay, publication)
    unsent: dict[str, SluiceError] = {**publication.faults, **faults(cursor, catalog)}
    places = known.get("tables", {})
    renewed: dict[str, SluiceError] = {
        name: PublicationIncomplete(
            f"table {name} was removed from publication {relay.publication} and added again",
            remedy="start the relay, which sends its changes from now on",
        )
        for name, place in publication.identity["tables"].items()
        if name in places and places[name] not in (None, place) and name not in unsent
    }
    added = (table for table in catalog.tables if table.name not in places) if known else ()
    return Standing(
        added=tuple(table for table in added if table.name not in unsent),
        unsent=unsent,
        renewed=renewed,
    )
