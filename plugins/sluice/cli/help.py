"""How `--help` shows commands: by what they are for, and flags without a type."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

RUN, LOOK, REPAIR, SET_UP = "Run", "Look", "Repair", "Set up"
_ORDER = (RUN, LOOK, REPAIR, SET_UP)


class Command(TyperCommand):
    """A command whose help shows no type for its flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See TyperCommand."""
        return _untyped(super().get_params(ctx))


class Group(TyperGroup):
    """A group whose help shows no type for its flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See TyperGroup."""
        return _untyped(super().get_params(ctx))


def collect(app: typer.Typer, parts: tuple[typer.Typer, ...]) -> None:
    """Add the commands and groups of all parts to the app, in the order of the panels of help."""
    for part in parts:
        app.registered_commands += part.registered_commands
        app.registered_groups += part.registered_groups
    app.registered_commands.sort(key=lambda command: _ORDER.index(str(command.rich_help_panel)))
    groups = [group.typer_instance for group in app.registered_groups]
    for within in (app, *filter(None, groups)):
        for command in within.registered_commands:
            command.cls = Command


def _untyped(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
