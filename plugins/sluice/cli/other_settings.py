"""Says where a command has other settings than the stack that runs in its home."""

from __future__ import annotations

from contextlib import suppress

from sluice.cli.extras import has_embedded
from sluice.cli.output import say
from sluice.errors import SluiceError
from sluice.settings import Settings, differences, read_started


def warn_of_other_settings(settings: Settings) -> None:
    """Name, on stderr, the settings with which the running stack was started and that differ."""
    others = differences(read_started(settings.home).settings, settings.asked)
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
