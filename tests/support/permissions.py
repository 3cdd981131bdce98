"""What other users of the machine may do with files."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_to_others(home: Path) -> dict[str, str]:
    """What another user may read, write or pass, with its mode; links have none of their own."""
    found = {}
    for place, folders, files in os.walk(home):
        for path in (Path(place, name) for name in [*folders, *files]):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISLNK(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
                found[str(path)] = stat.filemode(mode)
    mode = home.stat().st_mode
    if mode & stat.S_IRWXO or (mode & stat.S_IRWXG and os.geteuid() != 0):
        found[str(home)] = stat.filemode(mode)
    return found
