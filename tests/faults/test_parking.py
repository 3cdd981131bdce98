"""A table whose changes cannot be sent is named with its reason; the others are left alone."""

from __future__ import annotations

import pytest

from sluice.capture import publication as publications
from sluice.capture import slot as slots
from sluice.errors import NeedsPerson, NotReady
from tests.faults.source import CATALOG, Source

pytestmark = pytest.mark.services

# What is done to a table -> the fault it has then, and what its remedy says.
CAUSES: dict[str, tuple[str, type[Exception], str]] = {
    "dropped": ("DROP TABLE parts", NotReady, "create the models' tables"),
    "renamed": ("ALTER TABLE parts RENAME TO spares", NotReady, "create the models' tables"),
    "without a key": ("ALTER TABLE parts DROP CONSTRAINT parts_pkey", NeedsPerson, "primary key"),
    "with another key": (
        "ALTER TABLE parts DROP CONSTRAINT parts_pkey, ADD PRIMARY KEY (id, thing_id)",
        NeedsPerson,
        "primary key",
    ),
    "with a deferrable key": (
        "ALTER TABLE parts DROP CONSTRAINT parts_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        NeedsPerson,
        "primary key",
    ),
    "with no identity": (
        "ALTER TABLE parts REPLICA IDENTITY NOTHING",
        NeedsPerson,
        "REPLICA IDENTITY DEFAULT",
    ),
    "identified by another index": (
        "ALTER TABLE parts ALTER thing_id SET NOT NULL;"
        " CREATE UNIQUE INDEX other ON parts (thing_id);"
        " ALTER TABLE parts REPLICA IDENTITY USING INDEX other",
        NeedsPerson,
        "REPLICA IDENTITY DEFAULT",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_fault_names_its_table_and_what_to_do(source: Source, cause: str) -> None:
    change, kind, remedy = CAUSES[cause]
    with slots.session(source.settings.postgres) as cursor:
        assert publications.faults(cursor, CATALOG) == {}
        source.sql(change)
        found = publications.faults(cursor, CATALOG)
        source.sql("DROP TABLE IF EXISTS spares")
    assert list(found) == ["parts"]
    assert isinstance(found["parts"], kind)
    assert "parts" in found["parts"].what
    assert remedy in str(found["parts"].remedy)


def test_every_table_with_a_fault_is_named(source: Source) -> None:
    source.sql("DROP TABLE parts", "ALTER TABLE things REPLICA IDENTITY NOTHING")
    with slots.session(source.settings.postgres) as cursor:
        assert set(publications.faults(cursor, CATALOG)) == {"things", "parts"}
