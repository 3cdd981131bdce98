"""Prints the output of commands; escapes foreign text so that terminals do not interpret it."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import typer

from sluice.printable import printable, printable_lines


def say(*lines: object, err: bool = False) -> None:
    """Print lines; a newline within a line is foreign text, and is escaped."""
    for line in lines:
        typer.echo(printable(str(line)), err=err)


def say_exactly(text: str) -> None:
    """Print a text unaltered for a program that reads it; a terminal gets each line escaped.

    Not by typer, which leaves out escape sequences.
    """
    sys.stdout.write(f"{printable_lines(text) if sys.stdout.isatty() else text}\n")
    sys.stdout.flush()


def say_json(value: Any, indent: int | None = None) -> None:
    """Print JSON, which escapes control characters."""
    typer.echo(json.dumps(value, indent=indent, default=str))


class OneLine(logging.Formatter):
    """Writes a message on one line, and indents a traceback, which may contain foreign text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """See logging.Formatter."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """See logging.Formatter."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {printable(line)}" for line in lines)
