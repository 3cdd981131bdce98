"""Who runs a command, as recorded in `cdc.resyncs` and other tables."""

from __future__ import annotations

import os
import pwd


def system_person() -> str:
    """Return the name of the account that runs this process; ignores the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no entry in the password database
        return f"uid {os.getuid()}"
