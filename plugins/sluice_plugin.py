"""Airflow's plugin: the CDC page in the navigation, its API and metrics under /sluice."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from sluice_airflow.addresses import PREFIX
from sluice_airflow.links import CdcPageLink, PlayLink

log = logging.getLogger("sluice.plugin")


class SluicePlugin(AirflowPlugin):
    """The page; scheduler and workers, which never ask for `fastapi_apps`, do not load it."""

    name = "sluice"
    external_views = [  # noqa: RUF012 - Airflow reads a list of the class
        {
            "name": "CDC",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "url_route": "cdc",
            "nav_top_level": True,
        }
    ]

    # Of all operators; links of the operators themselves would be stored by every run.
    global_operator_extra_links = [CdcPageLink(), PlayLink()]  # noqa: RUF012

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The app; one that refuses everything where Airflow's own checks cannot be had."""
        try:
            from sluice_airflow.page.app import app
        except Exception:  # whatever it is, nothing is served unchecked
            log.exception("the CDC page is closed: its app or Airflow's security did not load")
            return [{"app": closed, "url_prefix": PREFIX, "name": "CDC"}]
        return [{"app": app, "url_prefix": PREFIX, "name": "CDC"}]


Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def closed(scope: MutableMapping[str, Any], _: Any, send: Send) -> None:
    """An ASGI app that answers every request with 503."""
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    body = b"The CDC page is closed; see the api-server's log.\n"
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
