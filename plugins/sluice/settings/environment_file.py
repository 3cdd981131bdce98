"""The project's `.env`: settings written as environment variables, such as its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from sluice.errors import WrongUsage
from sluice.settings.project import ENVIRONMENT_ALONE
from sluice.settings.variables import VARIABLES

ENV_FILE = ".env"
_CHOICE = "SLUICE_ENV_FILE"


def env_file_name(environment: Mapping[str, str]) -> str:
    """Return the name of the file, below the project."""
    return environment.get(_CHOICE) or ENV_FILE


def env_file_values(project: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Read the settings in a project's `.env`, by variable; none without the file.

    Other variables, such as those of Docker Compose, are left alone, and so are empty ones.

    Raises:
        WrongUsage: the file cannot be read, or a setting in it; errors never contain a value.
    """
    path = project / Path(env_file_name(environment)).expanduser()
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if environment.get(_CHOICE):
            raise WrongUsage(f"{_CHOICE}: there is no file {path}") from error
        return {}
    except (OSError, ValueError) as error:
        raise WrongUsage(f"{path} cannot be read: {error}") from error
    return _settings(path, text) if "SLUICE_" in text else {}


def _settings(path: Path, text: str) -> dict[str, str]:
    from dotenv.parser import parse_stream

    values = {}
    for line in parse_stream(StringIO(text)):
        if line.error and "SLUICE_" in line.original.string:
            raise WrongUsage(
                f"{path}, line {line.original.line} cannot be read",
                remedy="write NAME=value; quote a value with blanks, # or quotes",
            )
        if line.key in VARIABLES and line.key not in ENVIRONMENT_ALONE and line.value:
            values[line.key] = line.value
    return values
