"""The checks of many tables ask few questions, and the trouble of one stays with it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sluice import wiring
from sluice.capture import slot as slots
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.errors import Retryable
from sluice.generate.files import write_files
from sluice.quality.checks import QualityReport
from sluice.quality.fences import CaughtUp
from sluice.settings import RelaySettings, Settings
from tests.support.services import drop_slot
from tests.support.waiting import until

pytestmark = pytest.mark.services

TABLES = 24
FEW = [f"crowd_{at}" for at in range(4)]
# Every fourth table is a fact of the two before it.
MODEL = """
class Crowd{at}(Base):
    __tablename__ = "crowd_{at}"
    __table_args__ = {{"info": {{{star}}}}}
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]
"""
REFERENCE = """
    first_id: Mapped[int] = mapped_column(ForeignKey("crowd_{one}.id"))
    first: Mapped["Crowd{one}"] = relationship()
"""


def model() -> str:
    lines = [
        "from sqlalchemy import ForeignKey",
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship",
        "class Base(DeclarativeBase): ...",
    ]
    for at in range(TABLES):
        fact = at % 4 == 3
        lines.append(MODEL.format(at=at, star='"star": "fact"' if fact else ""))
        lines += [REFERENCE.format(one=at - 1)] if fact else []
    return "\n".join(lines)


@pytest.fixture(scope="module")
def crowd(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A pipeline of many tables at rest; each has five rows."""
    folder: Path = tmp_path_factory.mktemp("crowd")
    (folder / "crowd.py").write_text(model())
    relay = RelaySettings(slot="crowd", ack="broker")
    settings = replace(services, models="crowd", out=folder, relay=relay, quality_seconds=120)
    stop = threading.Event()
    with pytest.MonkeyPatch.context() as patch, slots.session(services.postgres) as cursor:
        patch.syspath_prepend(folder)
        catalog = load_catalog("crowd")
        write_files(catalog, folder, settings.clickhouse.cluster)
        for table in catalog.tables:
            extra = ", first_id int NOT NULL" if table.is_fact else ""
            name = table.relation
            cursor.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, label text NOT NULL{extra})")
            values = "n, 'label'" + (", 1" if extra else "")
            cursor.execute(f"INSERT INTO {name} SELECT {values} FROM generate_series(1, 5) n")
        wiring.initialise(settings)
        relaying = threading.Thread(target=run, args=(settings, catalog), kwargs={"stop": stop})
        relaying.start()
        try:
            until(lambda: drained(settings), "both sides are equal", 300, retry=Retryable)
            yield settings
        finally:
            stop.set()
            relaying.join(60)
            drop_slot(settings)
            cursor.execute(f"DROP TABLE {', '.join(t.relation for t in catalog.tables)}")
            load_catalog.cache_clear()


def drained(settings: Settings) -> bool:
    wiring.drain_all(settings).require()  # which the snapshot waits for
    report = wiring.quality(settings)
    return report.passed and report.settled and not report.troubles


def asked(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], QualityReport]
) -> tuple[Counter[str], QualityReport]:
    """The queries and sessions of a check, and its report; not those of the drain before it."""
    names = frozenset(table.name for table in load_catalog("crowd").tables)
    count: Counter[str] = Counter()
    send, connect, find_slot = ClickHouse._run, PostgresSource.connect, PostgresSource.find_slot

    def counted(self: ClickHouse, *arguments: Any, **options: Any) -> Any:
        count["queries"] += 1
        return send(self, *arguments, **options)

    def connected(self: PostgresSource) -> Any:
        count["sessions"] += 1
        return connect(self)

    def looked(self: PostgresSource, name: str) -> Any:
        count["sessions"] -= 1  # as many looks at the slot as the relay's pace needs
        return find_slot(self, name)

    with monkeypatch.context() as patch:
        at_rest = CaughtUp(ended=names, troubles={})
        patch.setattr(wiring.checks, "_caught_up", lambda *_: at_rest)
        patch.setattr(ClickHouse, "_run", counted)
        patch.setattr(PostgresSource, "connect", connected)
        patch.setattr(PostgresSource, "find_slot", looked)
        return count, check()


@pytest.mark.parametrize("deep", [False, True])
def test_tables_without_changes_cost_no_query_each(
    crowd: Settings, monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    few, small = asked(monkeypatch, lambda: wiring.quality(crowd, FEW, deep=deep))
    many, large = asked(monkeypatch, lambda: wiring.quality(crowd, deep=deep))
    assert {check.status for check in (*small.checks, *large.checks)} == {"pass"}
    tables = {check.table for check in large.checks if check.check == "row_count"}
    assert len(tables) == TABLES
    facts = len([check for check in large.checks if check.check == "fact_row_count"])
    assert facts == TABLES // 4
    # A deep check compares each fact with its join, in a few queries.
    per_fact = 8 if deep else 0
    assert many["queries"] <= few["queries"] + per_fact * (facts - 1)
    assert many["sessions"] == few["sessions"]


def test_the_trouble_of_one_table_stays_with_it(crowd: Settings) -> None:
    """Its history is gone: its changed rows cannot be counted, and the statement of all fails."""
    wiring.query(crowd, "RENAME TABLE cdc.history_crowd_0 TO cdc.history_away")
    try:
        report = wiring.quality(crowd)
    finally:
        wiring.query(crowd, "RENAME TABLE cdc.history_away TO cdc.history_crowd_0")
    counts = {c.table: c.status for c in report.checks if c.check == "row_count"}
    assert counts.pop("crowd_0", "unsettled") != "pass"
    assert len(counts) == TABLES - 1
    assert set(counts.values()) == {"pass"}
    until(lambda: drained(crowd), "both sides are equal", 60, retry=Retryable)


@pytest.mark.parametrize("deep", [False, True])
def test_a_row_that_one_of_many_lacks_is_found_in_it_alone(crowd: Settings, deep: bool) -> None:
    wiring.query(crowd, "DELETE FROM cdc.dim_crowd5 WHERE id = 3")
    report = wiring.quality(crowd, deep=deep)
    failed = {c.table: c.keys for c in report.checks if c.status == "fail" and "row" in c.check}
    assert set(failed) == {"crowd_5"}
    if deep:
        assert failed["crowd_5"] == ("3",)
    assert wiring.resync(crowd, "crowd_5").rows == 5
    assert wiring.quality(crowd, deep=deep).passed
