"""The packages are floors, and no import goes up; see CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[1]
PLUGINS = PROJECT / "plugins"
DRIVERS = {"clickhouse_driver", "confluent_kafka", "psycopg2"}
# From the ground up: each imports only what stands before it.
FLOORS = (
    "printable",
    "person",
    "errors",
    "settings",
    "execution",
    "data_types",
    "events",
    "catalog",
    "generate",
    "clients",
    "warehouse",
    "capture",
    "drain",
    "star",
    "quality",
    "repair",
    "operate",
    "wiring",
    "embedded",
    "cli",
)
# Those that speak to a service by its driver.
WITH_DRIVERS = {"clients", "capture", "drain", "embedded"}
# What stands beside the library -> what of this project, and which drivers, it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "models": {"models", "sqlalchemy", "pydantic", "typing_extensions"},
    "sluice_airflow": {"sluice", "sluice_airflow", "airflow"},
    "sluice_plugin": {"sluice_airflow", "airflow"},
    "store_api": {"models", "sluice.settings", "sluice.errors", "store_api"},
    "dags": {"sluice_airflow", "airflow"},
}
WATCHED = {*MAY_IMPORT, "sluice", "tests", "airflow", *DRIVERS}


def imports(path: Path) -> set[str]:
    """What a module imports of the watched packages; `from sluice import x` as `sluice.x`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            of = [f"sluice.{name.name}" for name in node.names]
            found |= set(of) if node.module == "sluice" else {node.module}
    return {name for name in found if name.split(".")[0] in WATCHED}


def files(name: str) -> list[Path]:
    root = (PROJECT if name in {"models", "dags"} else PLUGINS) / name
    return sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]


def beyond(path: Path, allowed: set[str]) -> set[str]:
    """What a module imports that is not allowed, nor part of what is."""
    return {
        name
        for name in imports(path)
        if not any(name == entry or name.startswith(f"{entry}.") for entry in allowed)
    }


def test_every_package_has_a_floor() -> None:
    found = {path.stem for path in (PLUGINS / "sluice").iterdir()} - {"__init__", "__pycache__"}
    found -= {"sql", "py"}  # statements, and the marker py.typed
    assert found == set(FLOORS)


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_what_stands_below_it(floor: str) -> None:
    allowed = {f"sluice.{name}" for name in FLOORS[: FLOORS.index(floor) + 1]}
    allowed |= DRIVERS if floor in WITH_DRIVERS else set()
    allowed |= {"store_api"} if floor == "cli" else set()  # `up` and `demo` serve the example
    paths = files(f"sluice/{floor}")
    assert paths
    for path in paths:
        assert beyond(path, allowed) == set(), path


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_what_stands_beside_the_library_imports_only_what_it_may(name: str) -> None:
    assert files(name)
    for path in files(name):
        assert beyond(path, MAY_IMPORT[name]) == set(), path
        if name != "dags":
            assert not any(one.startswith("sluice.embedded") for one in imports(path)), path


def test_modules_of_tests_are_imported_by_pytest_alone() -> None:
    """What they share is in `tests/support/`, or in a module of their folder."""
    paths = [path for folder in ("tests", "bench") for path in (PROJECT / folder).rglob("*.py")]
    assert Path(__file__).resolve() in paths
    for path in paths:
        names = {name for name in imported(path) if name.startswith("tests.")}
        of_pytest = {name for name in names if re.search(r"\.(test_\w+|conftest)(\.|$)", name)}
        assert of_pytest == set(), path


def imported(path: Path) -> set[str]:
    """Every name that a module imports, with its package: `from a import b` as `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(PROJECT).with_suffix("").parts[: -node.level]
            base = ".".join([*(package if node.level else ()), *filter(None, [node.module])])
            found |= {f"{base}.{name.name}" for name in node.names}
    return found


# Packages that an extra brings, imported only by what belongs to it.
EXTRAS = {
    "sluice/embedded": "embedded",
    "sluice/cli/reflection.py": "new",
    "sluice_airflow": "airflow",
    "sluice_plugin.py": "airflow",
}

OPTIONAL = {"openlineage"}  # imported only where it is installed


def test_every_package_that_is_imported_is_a_dependency_of_the_wheel() -> None:
    distributions = packages_distributions()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for path in sorted(PLUGINS.rglob("*.py")):
        name = path.relative_to(PLUGINS).as_posix()
        if name.startswith("store_api/"):
            continue
        extra = next((extra for part, extra in EXTRAS.items() if name.startswith(part)), "")
        wanted = [*project["dependencies"], *extras.get(extra, [])]
        named = {re.split(r"[^\w-]", text)[0].replace("_", "-").lower() for text in wanted}
        for module in third_party(path):
            owners = {
                owner.replace("_", "-").lower() for owner in distributions.get(module, [module])
            }
            assert owners & named or module in OPTIONAL, f"{name} imports {module}"


def third_party(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    own = {"sluice", "sluice_airflow", "sluice_plugin", "store_api", "models"}
    return {name.partition(".")[0] for name in found} - own - sys.stdlib_module_names
