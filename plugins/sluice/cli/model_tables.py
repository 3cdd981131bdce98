"""The models' tables in PostgreSQL: `sluice up` requires them, and creates its own if asked."""

from __future__ import annotations

from collections.abc import Callable

from sluice.errors import NotReady, WrongUsage
from sluice.printable import named
from sluice.settings import Settings


def require_own_server(settings: Settings) -> None:
    """Require that PostgreSQL is this stack's, the only one in which tables are created."""
    source = settings.postgres
    if not source.embedded:
        raise WrongUsage(
            "--create-tables is for the PostgreSQL of this stack, and the settings name another,"
            f" {source.address}: nothing was started or created",
            remedy="create the tables there by your own migrations; then: sluice up",
        )


def prepare(settings: Settings, report: Callable[[str], None], *, create: bool) -> None:
    """Create the models' missing tables in the embedded server if asked; require all of them."""
    if create:
        from sluice.embedded.model_tables import create_tables

        created = create_tables(settings.postgres, settings.models)
        report(f"tables created in PostgreSQL: {named(created) or 'none, as all exist'}")
    require_tables(settings)


def require_tables(settings: Settings) -> None:
    """Require that PostgreSQL has all tables that the models follow.

    Raises:
        NotReady: it lacks some.
    """
    from sluice.catalog import load_catalog
    from sluice.clients.postgres import PostgresSource
    from sluice.clients.source_tables import relations

    source, tables = settings.postgres, load_catalog(settings.models).tables
    with PostgresSource(source).connect() as connection, connection.cursor() as cursor:
        present = relations(cursor, tables)
    missing = [f"{table.schema}.{table.relation}" for table in tables if table.name not in present]
    if not missing:
        return
    remedy = "create them there by your own migrations; then: sluice up"
    if source.embedded:
        remedy = (
            "run: sluice up --create-tables; or create them by your own migrations, at the address"
            " that sluice env prints, then: sluice up"
        )
    raise NotReady(
        f"PostgreSQL {source.address}, database {source.database}, lacks tables of the"
        f" models: {named(missing)}",
        remedy=remedy,
    )
