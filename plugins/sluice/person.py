"""Who runs a command: what `cdc.resyncs` and other tables keep of who did something."""

from __future__ import annotations

import os
import pwd


def system_person() -> str:
    """Return the name of the account that runs this process, whatever its variables say."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        return f"uid {os.getuid()}"
