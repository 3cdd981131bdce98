"""Shows the topics and their messages on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice.cli import completion
from sluice.cli.help import LOOK, Group
from sluice.cli.output import say, say_json
from sluice.cli.tables import print_table
from sluice.errors import NotReady, WrongUsage
from sluice.operate.units import UNKNOWN, amount, duration

if TYPE_CHECKING:
    from sluice.operate.topic_messages import ShownMessage
    from sluice.operate.topic_overview import TopicSummary

app = typer.Typer()
topics = typer.Typer(cls=Group, help="Show the topics: backlog, age, rate, retention; messages.")
app.add_typer(topics, name="topics", rich_help_panel=LOOK)

_LAST_OFFSET = 2**63 - 1
_NAMES = [
    "topic",
    "messages",
    "backlog",
    "oldest",
    "messages/s",
    "size",
    "kept",
    "kept bytes",
    "note",
]
_WIDTH = 20

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@topics.callback(invoke_without_command=True)
def overview(context: typer.Context, as_json: Json = False) -> None:
    """Show the topics: messages, backlog of the drain, age, rate, retention."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise WrongUsage("--json stands before show", remedy="write it at the end")
        return
    from sluice import wiring

    state = wiring.topics(context.obj)
    if as_json:
        say_json(asdict(state), indent=2)
    else:
        print_table(_NAMES, [_row(topic) for topic in state.topics])
        say(f"messages/s: of the last {state.window_s // 60} minutes")
    if state.errors:
        say(*"\n".join(dict.fromkeys(state.errors.values())).split("\n"), err=True)
        raise NotReady("not all is known of the topics", remedy="see: sluice status")


def _row(topic: TopicSummary) -> Sequence[Any]:
    own = topic.table is None
    return [
        topic.name,
        _known(topic.messages),
        "" if own else _known(topic.backlog),
        duration(topic.oldest_age_s),
        _known(topic.messages_per_second),
        amount(topic.disk_bytes, "bytes"),
        _kept(topic),
        "all" if topic.retention_bytes == -1 else amount(topic.retention_bytes, "bytes"),
        _note(topic),
    ]


def _kept(topic: TopicSummary) -> str:
    if topic.deletes_drained:
        return "until drained"
    return "for ever" if topic.retention_s == -1 else duration(topic.retention_s)


def _note(topic: TopicSummary) -> str:
    if topic.partitions == 0:
        return "does not exist; run: sluice init"
    if topic.partitions is not None and topic.partitions > 1:
        return f"{topic.partitions} partitions; the figures are those of the first"
    return ""


@topics.command()
def show(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(help="A topic or a table.", autocompletion=completion.topics)
    ],
    last: Annotated[int, typer.Option("--last", min=1, max=1000, help="The most messages.")] = 5,
    offset: Annotated[
        int | None,
        typer.Option(
            "--offset", min=0, max=_LAST_OFFSET, help="Begin at this one, not at the last."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the last messages of a topic, or those from an offset on, with their values."""
    from sluice import wiring

    found = wiring.messages(context.obj, topic, last, offset)
    if as_json:
        say_json(asdict(found), indent=2)
        return
    for message in found.messages:
        say(*_lines(found.topic, message), "")
    if not found.messages:
        say(f"{found.topic} has no messages")


def _lines(topic: str, message: ShownMessage) -> list[str]:
    place = f"{topic}, offset {message.offset}"
    if message.problem:
        until = message.next_offset - 1
        more = f" to {until}" if until > message.offset else ""
        return [f"{place}{more}: cannot be read: {message.problem}"]
    head = f"{place}, {_local(message.at)}: {message.operation or message.kind}"
    headers = [
        (f"header {header.name}", "null" if header.value is None else header.value)
        for header in message.headers
    ]
    if message.header_count > len(headers):
        headers.append(("headers", f"{message.header_count - len(headers):,} more"))
    key = _text(message.key, message.key_bytes)
    fields = message.fields or [("value", _text(message.value, message.value_bytes))]
    rows = [("key", key), *headers, *fields]
    return [head, *(f"  {name:{_WIDTH}} {value}" for name, value in rows)]


def _text(text: str | None, size: int) -> str:
    """Return a text, and the whole length where it is shortened or not text."""
    if text is None:
        return "null"
    return text if len(text.encode()) == size else f"{text} ... of {size:,} bytes"


def _known(value: float | None) -> float | str:
    return UNKNOWN if value is None else value


def _local(at: datetime | None) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}" if at else "without a time"
