"""The project's folder, and the settings in its sluice.toml."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sluice.errors import WrongUsage
from sluice.printable import nearest
from sluice.settings.variables import VARIABLES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "sluice.toml"
# Keys of the file that are no settings: see marks.py.
INCLUDE, MARKS = "include", "marks"
PACKAGE = Path(__file__).resolve().parents[1]
# The repository, if Sluice runs from one instead of being installed.
PROJECT = PACKAGE.parents[1]
IN_REPOSITORY = PROJECT / "plugins" / "sluice" == PACKAGE
# The tables of sluice.toml: a setting SLUICE_POSTGRES_HOST is `host` in [postgres].
_SECTIONS = frozenset(
    "airflow alert api clickhouse drain kafka postgres quality reject relay".split()
)
ENVIRONMENT_ALONE = frozenset({"SLUICE_PROJECT", "SLUICE_ENV_FILE"})  # they name the files


def find_project(environment: Mapping[str, str]) -> Path:
    """Return the folder of SLUICE_PROJECT, or the nearest one above with a sluice.toml.

    Without one, it is the repository that Sluice runs from, or else the present folder.

    Raises:
        WrongUsage: another user may have planted the file above the present folder.
    """
    if environment.get("SLUICE_PROJECT"):
        return Path(environment["SLUICE_PROJECT"]).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            if folder != here:
                _require_own(folder)
            return folder
    return PROJECT if IN_REPOSITORY else here


def require_project(environment: Mapping[str, str], models: str) -> None:
    """Require a project, or models that somebody named, or some by the default name.

    Raises:
        WrongUsage: there is none of them.
    """
    project = find_project(environment)
    named = environment.get("SLUICE_PROJECT") or models != VARIABLES["SLUICE_MODELS"][0]
    if named or (project / FILE).is_file() or find_spec(models) is not None:
        return
    raise WrongUsage(
        f"there is no project: neither {project} nor a folder above has a {FILE}",
        remedy="change to the folder of one, or make one: sluice new; see docs/own-project.md",
    )


def _require_own(folder: Path) -> None:
    """Require that no other user can change a folder's file of settings.

    Nobody chose the folder, as in /tmp; the file names modules, which commands import.
    """
    file, owners = folder / FILE, {os.geteuid(), 0}
    known = [file.lstat(), file.stat(), folder.stat()]
    if any(one.st_uid not in owners for one in known) or any(
        one.st_mode & stat.S_IWOTH for one in known[1:]
    ):
        raise WrongUsage(
            f"{file} may be of another user, who owns it or its folder, or may write there",
            remedy=f"if you trust it: export SLUICE_PROJECT={shlex.quote(str(folder))}",
        )


def make_importable(project: Path) -> None:
    """Let Python find the modules of a project's folder, after those of PYTHONPATH's folders."""
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))


def key_of(variable: str) -> str:
    """Return the key of a setting in sluice.toml, such as `postgres.host`."""
    name = variable.removeprefix("SLUICE_").lower()
    section, _, key = name.partition("_")
    return f"{section}.{key}" if section in _SECTIONS else name


KEYS = {key_of(name): name for name in VARIABLES if name not in ENVIRONMENT_ALONE}


def file_values(project: Path) -> dict[str, str]:
    """Read the settings in a project's sluice.toml, by variable; none without the file.

    Raises:
        WrongUsage: the file cannot be read, or has a key that is no setting.
    """
    path, values = project / FILE, {}
    for key, value in _flat(document_of(project)):
        if key in {INCLUDE, MARKS}:
            continue
        if key not in KEYS:
            near = nearest(key, [*KEYS, INCLUDE, MARKS])
            raise WrongUsage(f"{path}: there is no setting {key}", remedy=f"the nearest is {near}")
        values[KEYS[key]] = _text(path, key, value)
    return values


def document_of(project: Path) -> dict[str, Any]:
    """Read a project's sluice.toml; empty without the file.

    Raises:
        WrongUsage: the file cannot be read.
    """
    path = project / FILE
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WrongUsage(f"{path} cannot be read: {error}") from error
    return document


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys with their values; the tables that are no sections are values."""
    for name, value in document.items():
        if isinstance(value, dict) and name in _SECTIONS:
            yield from ((f"{name}.{key}", own) for key, own in value.items())
        else:
            yield name, value


def _text(path: Path, key: str, value: Any) -> str:
    """Return a value as an environment variable has it."""
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise WrongUsage(f"{path}: {key} must be a text or a number, not {value!r}")
    return str(value)
