"""The addresses of the page, the store and ClickHouse's query page; opens them in a browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import suppress
from typing import Annotated, Literal

import typer

from sluice.cli.help import LOOK
from sluice.cli.output import say
from sluice.settings import Settings

app = typer.Typer()
_LOGIN = {
    "page": "log in as admin; the password: sluice env",
    "store": "no login",
    "play": "enter ClickHouse's password: sluice env",
}


def addresses(settings: Settings) -> dict[str, str]:
    """Return the address of each place of the embedded stack."""
    clickhouse = settings.clickhouse
    return {
        "page": f"http://127.0.0.1:{settings.airflow_port}/sluice/",
        "store": f"http://127.0.0.1:{settings.api_port}/docs",
        "play": f"http://{clickhouse.host}:{clickhouse.http_port}/play?user={clickhouse.user}",
    }


@app.command("open", rich_help_panel=LOOK)
def open_place(
    context: typer.Context,
    place: Annotated[
        Literal["page", "store", "play"],
        typer.Argument(help="The CDC page, the store API's docs, or ClickHouse's query page."),
    ] = "page",
) -> None:
    """Print an address of the embedded stack, and open it where there is a browser."""
    address = addresses(context.obj)[place]
    say(f"{address}  ({_LOGIN[place]})")
    if _has_desktop():
        with suppress(webbrowser.Error):
            webbrowser.open(address)


def _has_desktop() -> bool:
    """Whether a browser can have a window; one in the terminal would hide the address."""
    screens = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform == "darwin" or any(os.environ.get(name) for name in screens)
