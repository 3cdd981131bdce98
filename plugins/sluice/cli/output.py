"""Prints the output of commands; escapes foreign text so that terminals do not interpret it."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import typer

from sluice.cli.bars import bars
from sluice.execution.progress import Line, amount_of, report_every
from sluice.printable import printable, printable_lines

_SECONDS = 0.5  # between two states of a bar


def say(*lines: object, err: bool = False) -> None:
    """Print lines; a newline within a line is foreign text, and is escaped."""
    bars.hide()
    for line in lines:
        typer.echo(printable(str(line)), err=err)


def say_exactly(text: str) -> None:
    """Print a text unaltered for a program that reads it; a terminal gets each line escaped.

    Not by typer, which leaves out escape sequences.
    """
    bars.hide()
    sys.stdout.write(f"{printable_lines(text) if sys.stdout.isatty() else text}\n")
    sys.stdout.flush()


def say_json(value: Any, indent: int | None = None) -> None:
    """Print JSON, which escapes control characters."""
    bars.hide()
    typer.echo(json.dumps(value, indent=indent, default=str))


def say_progress(line: str) -> None:
    """Print a line; on a terminal, one that says an amount is a bar."""
    if isinstance(line, Line) and sys.stdout.isatty() and _draws():
        bars.show(line.amount)
    else:
        say(line)


def _draws() -> bool:
    """Whether stderr is a terminal that can be drawn on."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}


class Log(logging.StreamHandler):  # type: ignore[type-arg]
    """Prints log records on stderr; on a terminal, those that say an amount are bars."""

    def __init__(self) -> None:
        super().__init__()
        self._draws = _draws()
        moment = "%H:%M:%S" if self._draws else "%Y-%m-%d %H:%M:%S%z"  # in a file, over days
        self.setFormatter(OneLine("%(asctime)s %(message)s", datefmt=moment))
        if self._draws:
            report_every(_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        amount = amount_of(record)
        if self._draws and amount is not None:
            bars.show(amount)
        else:
            bars.hide()
            super().emit(record)


class OneLine(logging.Formatter):
    """Writes a message on one line, and indents a traceback, which may contain foreign text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """See logging.Formatter."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """See logging.Formatter."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {printable(line)}" for line in lines)
