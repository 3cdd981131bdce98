"""What the embedded stack was started with, for commands in other shells."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec

from sluice.settings.variables import VARIABLES

log = logging.getLogger(__name__)

Value = tuple[str, str]  # with its origin
Values = dict[str, Value]  # by variable
PORTS = tuple(name for name in VARIABLES if name.endswith("_PORT"))
ENVIRONMENT = "environment"  # an origin
# Settings that programs of a running stack read again from the project's files, and addresses and
# logins, which they keep. Together they decide which services, slot and tables a command asks.
_READ_AGAIN = frozenset(["SLUICE_MODELS", "SLUICE_SLOT", "SLUICE_MASK_KEY", "SLUICE_RELAY_METRICS"])
_SERVICES = tuple(f"SLUICE_{name}_" for name in "AIRFLOW API POSTGRES KAFKA CLICKHOUSE".split())
ASKED = tuple(name for name in VARIABLES if name in _READ_AGAIN or name.startswith(_SERVICES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a stack was started with.

    Attributes:
        ports: the ports of its programs, by variable.
        settings: those of ASKED as `Settings.asked` has them: without secrets.
    """

    ports: dict[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]] = field(default_factory=dict)
    settings: Values = field(default_factory=dict)


_decoded = msgspec.json.Decoder(Started).decode


def started_file(home: Path) -> Path:
    """Return the file in which the embedded stack notes what it was started with."""
    return home / "run" / "started.json"


def started_text(started: Started) -> str:
    """Return the text of the file."""
    return msgspec.json.encode(started).decode()


def read_started(home: Path) -> Started:
    """Read what a home's stack was started with; nothing before its start.

    A file that cannot be read is named in the log, and counts as none: no command but `sluice up`
    depends on it, and the next start writes it again. To other accounts the stack's secrets say why
    they may not.
    """
    path = started_file(home)
    try:
        return _decoded(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Started()
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        _warn(path, str(error))
        return Started()


@lru_cache
def _warn(path: Path, reason: str) -> None:
    """Log once in a process that a file is ignored."""
    log.warning(
        "%s is ignored: %s; ports that are not set are the defaults until the stack's next start",
        path,
        reason,
    )


def differences(started: Mapping[str, Value], own: Mapping[str, Value]) -> list[str]:
    """Return each setting with which a stack was started and that a command has otherwise."""
    return [
        f"{name} is {_words(*started[name])} there, {_words(*own[name])} here"
        for name in own
        if name in started and started[name][0] != own[name][0]
    ]


def kept(started: Mapping[str, Value], own: Mapping[str, Value]) -> Values:
    """Return the settings of a running stack that a start of single programs does not change."""
    return {
        name: (value, origin)
        for name, (value, origin) in started.items()
        if name in own and (name not in _READ_AGAIN or ENVIRONMENT in {origin, own[name][1]})
    }


def _words(value: str, origin: str) -> str:
    return f"{value} ({origin})" if value else "not set"
