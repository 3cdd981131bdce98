"""Settings: read once at an entry point into frozen objects and passed down."""

from __future__ import annotations

from sluice.settings.environment import read_secrets, read_settings, secrets_file
from sluice.settings.values import (
    ONE_SERVER,
    OWN_POSTGRES,
    PROJECT,
    WAREHOUSE_POOL,
    WAREHOUSE_SLOTS,
    WRITER,
    AlertSettings,
    ClickHouseSettings,
    Cluster,
    DrainSettings,
    KafkaSettings,
    PostgresSettings,
    RelaySettings,
    Settings,
)
from sluice.settings.variables import VARIABLES

__all__ = [
    "ONE_SERVER",
    "OWN_POSTGRES",
    "PROJECT",
    "VARIABLES",
    "WAREHOUSE_POOL",
    "WAREHOUSE_SLOTS",
    "WRITER",
    "AlertSettings",
    "ClickHouseSettings",
    "Cluster",
    "DrainSettings",
    "KafkaSettings",
    "PostgresSettings",
    "RelaySettings",
    "Settings",
    "read_secrets",
    "read_settings",
    "secrets_file",
]
