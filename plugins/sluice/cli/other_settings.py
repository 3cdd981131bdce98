"""Says which settings a command lacks that the stack in its home was started with."""

from __future__ import annotations

from contextlib import suppress

from sluice.cli.extras import has_embedded
from sluice.cli.output import say
from sluice.errors import SluiceError
from sluice.settings import DEFAULT, Settings, differences, read_started


def warn_of_other_settings(settings: Settings) -> None:
    """Name, on stderr, the settings that the running stack was given, and that are not set here.

    Who sets another value here, means another service, slot or project.
    """
    unset = {name: value for name, value in settings.asked.items() if value[1] == DEFAULT}
    others = differences(read_started(settings.home).settings, unset)
    if others and _runs(settings):
        say(
            f"warning: the running stack has other settings: {'; '.join(others)}; set the same"
            " here, in .env or in sluice.toml, or run: sluice down, then: sluice up",
            err=True,
        )


def _runs(settings: Settings) -> bool:
    """Whether the home's stack runs; one whose supervisor hangs is reported elsewhere."""
    if not has_embedded():
        return False
    from sluice.embedded.stack import Stack

    with suppress(SluiceError):
        return Stack(settings).running()
    return False
