"""A whole pipeline whose servers tests break, and a hot standby of its PostgreSQL."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from sluice import wiring
from sluice.capture.relay import run
from sluice.clients.postgres import PostgresSource, connection_options
from sluice.embedded import postgres
from sluice.embedded.stack import Stack
from sluice.errors import SluiceError
from sluice.settings import Settings
from store_api.database import make_engine
from tests.support.oracle import change
from tests.support.outside_broker import require_embedded
from tests.support.pipeline import CATALOG, assert_fact_equals_join, relaying
from tests.support.services import free_ports
from tests.support.waiting import until


@dataclass(slots=True, kw_only=True)
class Pipeline:
    settings: Settings
    stack: Stack
    environment: dict[str, str]
    changes: random.Random

    def sql(self, *statements: str) -> Any:
        """Run each by itself; the first value of the last."""
        with closing(psycopg2.connect(**connection_options(self.settings.postgres))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchone()[0] if cursor.description else None

    def change(self, count: int = 150) -> None:
        """Inserts, updates, deletes and key changes."""
        engine = make_engine(self.settings.postgres)
        change(engine, self.changes, count)
        engine.dispose()

    def refused(self) -> SluiceError:
        """What a relay ends with."""
        with pytest.raises(SluiceError) as caught:
            run(self.settings, CATALOG)
        return caught.value

    def recover(self) -> list[str]:
        return list(wiring.recover(self.settings))

    def equal(self) -> None:
        """Both sides are, in every column, and stay so when changes go on."""
        engine = make_engine(self.settings.postgres)
        with relaying(self.settings):
            assert_fact_equals_join(self.settings, engine)
            report = wiring.quality(self.settings, deep=True)
            assert not report.failures
            self.change(60)
            assert_fact_equals_join(self.settings, engine)
        engine.dispose()

    def broker_loss(self) -> None:
        """The broker loses all that it had; another one is there after."""
        require_embedded("this test deletes the broker's data")
        self.stack.halt(["broker"])
        shutil.rmtree(self.settings.home / "broker")
        self.stack.start(("broker",), lambda _: None)


@contextmanager
def standby(pipeline: Pipeline) -> Iterator[Settings]:
    """A second cluster that follows the first; the settings that reach it."""
    first = pipeline.settings.postgres
    (port,) = free_ports(1)
    data = pipeline.settings.home / "postgres-standby"
    copy = [str(postgres.BINARIES / "pg_basebackup"), "-D", str(data), "-R", "-c", "fast"]
    copy += ["-h", first.host, "-p", str(first.port), "-U", first.user]
    environment = {**os.environ, "PGPASSWORD": first.password.get_secret_value()}
    subprocess.run(copy, env=environment, check=True, capture_output=True)
    own(data, postgres.system_user())
    with (pipeline.settings.home / "logs" / "standby.log").open("wb") as log:
        server = subprocess.Popen(
            postgres.command(data, port), cwd=data, stdout=log, stderr=log, **postgres.identity()
        )
    settings = replace(pipeline.settings, postgres=replace(first, port=port))
    try:
        until(lambda: answers(settings), "the standby answers")
        yield settings
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def own(data: Path, user: str | None) -> None:
    if user is not None:
        subprocess.run(["chown", "-R", user, str(data)], check=True)


def answers(settings: Settings) -> bool:
    try:
        PostgresSource(settings.postgres).ping()
    except SluiceError:
        return False
    return True
