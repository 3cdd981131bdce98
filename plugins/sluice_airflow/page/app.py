"""The FastAPI app that Airflow mounts under /sluice: page, API, metrics.

A mounted app inherits none of Airflow's checks, and an app's dependencies do not cover FastAPI's
own /docs and /openapi.json nor static mounts. So those are off, and everything is a route of `app`,
whose dependency requires a logged-in user who may see Airflow's website. FastAPI resolves
annotations by this module's names: Airflow's security is imported at module level, because a check
with unresolved types would silently become a query parameter. No route writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.middleware.base import RequestResponseEndpoint

from sluice_airflow.page import api, olap, pages, topics
from sluice_airflow.page.failures import add_handlers
from sluice_airflow.page.limits import Gate

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

app = FastAPI(
    title="Sluice",
    version="1",
    description="The state of the pipeline: health, freshness, backlog, agreement of both sides.",
    dependencies=[Depends(requires_access_view(AccessView.WEBSITE))],
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
)
gate = Gate()


async def limited() -> AsyncIterator[None]:
    """Wait until the request may run; users who are not logged in were refused before."""
    async with gate.passed():
        yield


app.include_router(api.router, dependencies=[Depends(limited)])
app.include_router(olap.api, dependencies=[Depends(limited)], responses=api.COMMON)
app.include_router(topics.router, dependencies=[Depends(limited)])
app.include_router(pages.router, dependencies=[Depends(limited)])
app.include_router(olap.router, dependencies=[Depends(limited)])
app.include_router(topics.pages, dependencies=[Depends(limited)])
app.include_router(pages.files)


@app.get("/openapi.json", include_in_schema=False)
def openapi() -> dict[str, Any]:
    """Return the API's OpenAPI description."""
    return app.openapi()


@app.middleware("http")
async def protect(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Forbid caching, framing by other sites, and loading from elsewhere."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


add_handlers(app)
