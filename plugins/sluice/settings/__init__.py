"""Settings: read once at an entry point into frozen objects and passed down."""

from __future__ import annotations

from sluice.settings.environment import (
    read_models_name,
    read_secrets,
    read_settings,
    read_values,
    secrets_file,
)
from sluice.settings.marks import OutsideMarks, project_marks
from sluice.settings.ports import PORTS, ports_file, read_ports
from sluice.settings.project import (
    FILE,
    IN_REPOSITORY,
    INCLUDE,
    KEYS,
    MARKS,
    PACKAGE,
    PROJECT,
    make_importable,
    require_project,
)
from sluice.settings.values import (
    BROKER_USER,
    ONE_SERVER,
    OWN_POSTGRES,
    SOURCE,
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
    own_broker,
)
from sluice.settings.variables import VARIABLES

__all__ = [
    "BROKER_USER",
    "FILE",
    "INCLUDE",
    "IN_REPOSITORY",
    "KEYS",
    "MARKS",
    "ONE_SERVER",
    "OWN_POSTGRES",
    "PACKAGE",
    "PORTS",
    "PROJECT",
    "SOURCE",
    "VARIABLES",
    "WAREHOUSE_POOL",
    "WAREHOUSE_SLOTS",
    "WRITER",
    "AlertSettings",
    "ClickHouseSettings",
    "Cluster",
    "DrainSettings",
    "KafkaSettings",
    "OutsideMarks",
    "PostgresSettings",
    "RelaySettings",
    "Settings",
    "make_importable",
    "own_broker",
    "ports_file",
    "project_marks",
    "read_models_name",
    "read_ports",
    "read_secrets",
    "read_settings",
    "read_values",
    "require_project",
    "secrets_file",
]
