"""Lists, shows, replays and dismisses dead letters on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice.cli import completion
from sluice.cli.help import REPAIR, Group
from sluice.cli.output import say, say_json
from sluice.cli.tables import print_table
from sluice.errors import RowsRejected
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.drain.dead_letters import Condition, DeadLetter

app = typer.Typer()
letters = typer.Typer(
    cls=Group, help="List, replay or dismiss rejected events.", no_args_is_help=True
)
app.add_typer(letters, name="dead-letters", rich_help_panel=REPAIR)

_BEGINNING = 200
_ENDS = ("replayed_at", "resolved_at", "dismissed_at")

Table = Annotated[
    str,
    typer.Option("--table", help="Only of this source table.", autocompletion=completion.tables),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Only those that meet a condition: offset>=100, reason~price (contains),"
        " rejected_at<2026-01-31. May be repeated.",
    ),
]
Every = Annotated[bool, typer.Option("--all", help="Include those that are no longer open.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[
    int, typer.Option("--limit", min=1, max=1_000_000, help="The most events, newest first.")
]


@letters.command("list")
def list_letters(
    context: typer.Context,
    table: Table = "",
    where: Where = None,
    every: Every = False,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List rejected events with their offset, reason and the beginning of their value."""
    selected = _selected(context.obj, table, where, every, limit)
    rows = [{**_place(d), "beginning": _text(d.value)[:_BEGINNING]} for d in selected]
    if as_json:
        say_json({"dead_letters": rows})
    elif not rows:
        say("no dead letters")
    else:
        shown = ["table", "offset", "rejected_at", "state", "reason", "beginning"]
        print_table(shown, [[row[name] for name in shown] for row in rows])


@letters.command()
def show(
    context: typer.Context,
    table: Table = "",
    where: Where = None,
    every: Every = False,
    limit: Limit = 10,
    as_json: Json = False,
) -> None:
    """Show rejected events with their complete key and value."""
    selected = _selected(context.obj, table, where, every, limit)
    rows = [
        {
            **_place(letter),
            "broker_epoch": letter.broker_epoch,
            "schema_version": letter.schema_version,
            "size": letter.size or len(letter.value),
            "sha256": letter.sha256,
            "replayed_by": letter.replayed_by,
            "key": _text(letter.key),
            "value": _text(letter.value),
        }
        for letter in selected
    ]
    if as_json:
        say_json({"dead_letters": rows})
        return
    for row in rows:
        say(*(f"{name:15} {value}" for name, value in row.items()), "")
    if not rows:
        say("no dead letters")


@letters.command()
def replay(context: typer.Context, table: Table = "", where: Where = None) -> None:
    """Store rejected events that the models accept now; exit 1 when some are still invalid.

    Events keep their original positions, so newer changes win.
    """
    from sluice import wiring
    from sluice.catalog import load_catalog
    from sluice.execution.outcomes import Outcomes

    settings: Settings = context.obj
    conditions, outcomes = _conditions(where), Outcomes()
    for chosen in load_catalog(settings.models).select([table] if table else []):
        with outcomes.of(chosen.name):
            report = wiring.replay_dead_letters(settings, chosen.name, conditions)
            say(report.sentence())
            if report.rejected:
                raise RowsRejected(
                    f"{chosen.name}: {len(report.rejected)} events are still invalid",
                    remedy="fix the models (sluice generate, sluice init); see: sluice dead-letters"
                    f" list --table {chosen.name}",
                )
    outcomes.require()


@letters.command()
def dismiss(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", help="Why the events are not needed.")],
    table: Table = "",
    where: Where = None,
) -> None:
    """Dismiss rejected events that are not needed.

    Person and reason are recorded for each event in cdc.dead_letter_dismissals.
    """
    from sluice import wiring
    from sluice.catalog import load_catalog

    settings: Settings = context.obj
    conditions = _conditions(where)
    for chosen in load_catalog(settings.models).select([table] if table else []):
        say(wiring.dismiss_dead_letters(settings, chosen.name, conditions, reason=reason))


def _selected(
    settings: Settings, table: str, where: Sequence[str] | None, every: bool, limit: int
) -> list[DeadLetter]:
    from sluice import wiring
    from sluice.catalog import load_catalog

    if table:
        load_catalog(settings.models).table(table)
    return wiring.dead_letters(settings, table, limit, _conditions(where), every=every)


def _conditions(where: Sequence[str] | None) -> list[Condition]:
    from sluice.drain.dead_letters import parse_condition

    return [parse_condition(text) for text in where or ()]


def _place(letter: DeadLetter) -> dict[str, Any]:
    return {
        "table": letter.source_table,
        "offset": letter.offset,
        "rejected_at": letter.rejected_at.isoformat(timespec="seconds"),
        "state": letter.state,
        **{name: _moment(getattr(letter, name)) for name in _ENDS},
        "reason": letter.reason,
    }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
