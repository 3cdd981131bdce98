"""The store's database: its engine, and its tables, which this module creates when run."""

from __future__ import annotations

import os
import sys

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.exc import OperationalError

from models import Base
from sluice.errors import SluiceError, Unreachable
from sluice.settings import PostgresSettings, read_settings


def make_engine(settings: PostgresSettings) -> Engine:
    """Return an engine on the store's database, which connects on first use."""
    url = URL.create(
        "postgresql+psycopg2",
        username=settings.user,
        password=settings.password.get_secret_value(),
        host=settings.host,
        port=settings.port,
        database=settings.database,
    )
    return create_engine(
        url, pool_pre_ping=True, connect_args={"connect_timeout": 5, **settings.options}
    )


def create_tables(settings: PostgresSettings) -> None:
    """Create the store's tables that are missing."""
    engine = make_engine(settings)
    try:
        Base.metadata.create_all(engine)
    except OperationalError as error:
        first = str(error.orig).strip().splitlines()[0]
        raise Unreachable(f"PostgreSQL {settings.address}: {first}") from error
    finally:
        engine.dispose()


if __name__ == "__main__":
    try:
        create_tables(read_settings(os.environ).postgres)
    except SluiceError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
