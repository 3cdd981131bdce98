"""The loop where PostgreSQL and ClickHouse are reached by TLS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from sluice import wiring
from sluice.capture import slot as slots
from sluice.errors import Unreachable
from sluice.settings import Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import checked, relaying
from tests.support.tls import certificate, encrypted

pytestmark = pytest.mark.services


def by_tls(settings: Settings, postgres: int, clickhouse: int, trusted: Path) -> Settings:
    """The same services at their encrypted ports, with every name checked."""
    return replace(
        settings,
        postgres=replace(
            settings.postgres,
            port=postgres,
            options={"sslmode": "verify-full", "sslrootcert": str(trusted)},
        ),
        clickhouse=replace(
            settings.clickhouse,
            port=clickhouse,
            options={"secure": True, "ca_certs": str(trusted)},
        ),
    )


@pytest.fixture
def ports(services: Settings, tmp_path: Path) -> Iterator[tuple[int, int]]:
    trusted = certificate(tmp_path, "trusted")
    with (
        encrypted(services.postgres.port, trusted) as postgres,
        encrypted(services.clickhouse.port, trusted) as clickhouse,
    ):
        yield postgres, clickhouse


def test_everything_goes_by_tls_and_the_checks_pass(
    services: Settings, ports: tuple[int, int], tmp_path: Path
) -> None:
    settings = by_tls(services, *ports, tmp_path / "trusted.pem")
    engine = make_engine(settings.postgres)
    load(settings, customers=20, orders=50, seed=5)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()
    with relaying(settings):
        report = checked(settings)
    assert not report.failures


def test_a_server_that_nobody_trusts_is_not_spoken_to(
    services: Settings, ports: tuple[int, int], tmp_path: Path
) -> None:
    settings = by_tls(services, *ports, certificate(tmp_path, "other"))
    assert "certificate verify failed" in wiring.status(settings)["errors"]["postgres"]
    with (
        pytest.raises(Unreachable, match="certificate verify failed"),
        slots.session(settings.postgres),
    ):
        pass
    engine = make_engine(settings.postgres)
    with pytest.raises(OperationalError, match="certificate verify failed"):
        engine.connect()
    engine.dispose()
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        wiring.query(settings, "SELECT 1")
