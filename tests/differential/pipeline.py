"""A pipeline of a random database: its models, its relay, its quiet points."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2

from sluice import wiring
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.clients.postgres import connection_options
from sluice.errors import Retryable
from sluice.generate.files import write_files
from sluice.quality.checks import QualityReport
from sluice.settings import RelaySettings, Settings
from tests.differential.comparison import printed, quoted, stored
from tests.differential.database import Database
from tests.support.services import drop_slot
from tests.support.waiting import until

_LIMIT = 240  # seconds for a quiet point to be reached


class Pipeline:
    """Follows a random database, whose models are replaced as it changes."""

    def __init__(self, settings: Settings, folder: Path, database: Database) -> None:
        relay = RelaySettings(slot=f"{database.seed}_slot", ack="drained")
        self.settings = replace(settings, out=folder, relay=relay)
        self.folder, self.database, self.version = folder, database, 0
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    def generate(self) -> None:
        """Generate from the models as they are now, and bring ClickHouse to them."""
        self.version += 1
        name = f"{self.database.seed}_models_{self.version}"
        (self.folder / f"{name}.py").write_text(self.database.models())
        write_files(load_catalog(name), self.folder)
        self.settings = replace(self.settings, models=name)
        wiring.initialise(self.settings)

    def start(self) -> None:
        self.stop = threading.Event()
        catalog = load_catalog(self.settings.models)
        self.thread = threading.Thread(
            target=run, args=(self.settings, catalog), kwargs={"stop": self.stop}
        )
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        if self.thread is not None:
            self.thread.join(120)
            assert not self.thread.is_alive()

    def work(self, chance: random.Random, transactions: int) -> None:
        """Write from two sessions, while tables are drained and the structure changes."""
        seeds = [chance.random(), chance.random()]
        with ThreadPoolExecutor(2) as pool:
            writing = [
                pool.submit(self.database.write, random.Random(seed), transactions)
                for seed in seeds
            ]
            while not all(each.done() for each in writing):
                self.drain()
                time.sleep(0.05)
            for each in writing:
                each.result()

    def drain(self) -> None:
        names = [relation.name for relation in self.database.relations]
        with suppress(Retryable):
            wiring.drain_all(self.settings, names).require()

    def evolve(self) -> None:
        """Change the models as docs/change-models.md says."""
        self.report()  # everything is drained
        before, after, again = self.database.evolve()
        if before:
            self.database.execute(before)
        self.end()
        self.generate()
        self.start()
        if after:
            self.database.execute(after)
        if again:
            self.awaited(lambda: wiring.resync(self.settings, again))

    def awaited(self, step: Any) -> Any:
        """The step's answer, when what it waits for is there."""

        def stepped() -> list[Any]:
            assert self.thread is not None
            assert self.thread.is_alive(), "the relay ended"
            return [step()]

        return until(stepped, "the drain is past the fence", _LIMIT, retry=Retryable)[0]

    def report(self) -> QualityReport:
        """The deep check's report, when the drain is past its fence."""

        def step() -> QualityReport:
            self.drain()
            report = wiring.quality(self.settings, deep=True)
            if not report.settled:
                raise Retryable("not drained yet")
            return report

        report: QualityReport = self.awaited(step)
        return report

    def differences(self) -> dict[str, dict[str, Any]]:
        """Rows that differ by the comparison of the tests' own, by table."""
        catalog, found = load_catalog(self.settings.models), {}
        connection = self.database.connect()
        try:
            for relation in self.database.relations:
                with connection.cursor() as cursor:
                    expected = printed(cursor, relation)
                storage = catalog.table(relation.name).storage
                rows = stored(lambda text: wiring.query(self.settings, text)[1], storage, relation)
                differing = {
                    str(key): (expected.get(key), rows.get(key))
                    for key in {*expected, *rows}
                    if expected.get(key) != rows.get(key)
                }
                if differing:
                    found[relation.name] = differing
        finally:
            connection.close()
        return found

    def histories(self) -> Iterator[str]:
        """Every version of the rows that differ, a line each."""
        catalog = load_catalog(self.settings.models)
        for name, differing in self.differences().items():
            relation = next(each for each in self.database.relations if each.name == name)
            listed = ", ".join(
                each.variety.clickhouse.replace("{}", quoted(each.name))
                for each in relation.of_key()
            )
            query = f"SELECT {listed}, * FROM cdc.`{catalog.table(name).history}` ORDER BY _version"
            rows = wiring.query(self.settings, query)[1]
            readers = [each.variety.clickhouse_value for each in relation.of_key()]
            for key, sides in differing.items():
                yield f"{name} {key}: {sides}"
                for row in rows:
                    if (
                        str(
                            tuple(str(read(text)) for read, text in zip(readers, row, strict=False))
                        )
                        == key
                    ):
                        yield f"    {row}"


@contextmanager
def following(services: Settings, folder: Path, seed: int) -> Iterator[Pipeline]:
    """A random database and its pipeline; dropped at the end."""
    options = connection_options(services.postgres, "-c timezone=UTC -c bytea_output=hex")
    database = Database(lambda: psycopg2.connect(**options), seed)
    pipeline = Pipeline(services, folder, database)
    sys.path.insert(0, str(folder))
    database.drop()
    database.create()
    database.write(random.Random(seed), 30)
    try:
        pipeline.generate()
        pipeline.start()
        yield pipeline
    finally:
        pipeline.end()
        sys.path.remove(str(folder))
        drop_slot(pipeline.settings)
        database.execute(f'DROP PUBLICATION IF EXISTS "{pipeline.settings.relay.publication}"')
        database.drop()
        load_catalog.cache_clear()
