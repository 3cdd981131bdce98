"""The ports with which the embedded stack was started, for commands in other shells."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec

from sluice.settings.variables import VARIABLES

log = logging.getLogger(__name__)

PORTS = tuple(name for name in VARIABLES if name.endswith("_PORT"))
_decoded = msgspec.json.Decoder(dict[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]]).decode


def ports_file(home: Path) -> Path:
    """Return the file in which the embedded stack notes its ports when it starts."""
    return home / "run" / "ports.json"


def read_ports(home: Path) -> dict[str, int]:
    """Read the ports with which a home's stack was started, by variable; none before its start.

    A file that cannot be read is named in the log, and counts as none: no command depends on it,
    and the next start writes it again. To other accounts the stack's secrets say why they may not.
    """
    path = ports_file(home)
    try:
        noted = _decoded(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        _warn(path, str(error))
        return {}
    return {name: noted[name] for name in PORTS if name in noted}


@lru_cache
def _warn(path: Path, reason: str) -> None:
    """Log once in a process that a file is ignored."""
    log.warning(
        "%s is ignored: %s; ports that are not set are the defaults until the next sluice up",
        path,
        reason,
    )
