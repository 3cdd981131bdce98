"""The house has floors and no stair runs back up; see docs/design.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
DRIVERS = {"clickhouse_driver", "confluent_kafka", "psycopg2"}

# A package or module -> what of this project, and which drivers, it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "models": {"models", "sqlalchemy", "pydantic", "typing_extensions"},
    "sluice": {"sluice"},
    "sluice_airflow": {"sluice", "sluice_airflow", "airflow"},
    "sluice_plugin": {"sluice_airflow", "airflow"},
    "store_api": {"models", "sluice.settings", "sluice.errors", "store_api"},
    "dags": {"sluice_airflow", "airflow"},
}
WATCHED = {
    "models",
    "sluice",
    "sluice_airflow",
    "sluice_plugin",
    "store_api",
    "dags",
    "tests",
    "airflow",
    *DRIVERS,
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def files(layer: str) -> list[Path]:
    root = PROJECT / (layer if layer in {"models", "dags"} else f"plugins/{layer}")
    return sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]


def below(name: str, allowed: set[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_stands_below_it(layer: str) -> None:
    assert files(layer)
    for path in files(layer):
        allowed = set(MAY_IMPORT[layer])
        parts = path.relative_to(PROJECT).parts
        if layer == "sluice" and {"adapters", "relay", "embedded"} & set(parts):
            allowed |= DRIVERS
        if layer == "sluice" and "cli" in parts:
            allowed |= {"store_api"}  # `up` and `demo` serve the example
        watched = {name for name in imports(path) if name.split(".")[0] in WATCHED}
        assert {name for name in watched if not below(name, allowed)} == set(), path


def test_nothing_but_the_command_line_needs_the_embedded_stack() -> None:
    for path in [*files("sluice"), *files("sluice_airflow"), *files("store_api")]:
        if "embedded" not in path.parts and "cli" not in path.parts:
            assert not any(name.startswith("sluice.embedded") for name in imports(path)), path
