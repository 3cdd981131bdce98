"""Answers requests that fail: in HTML where a browser opens a page, in JSON elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from sluice.errors import SluiceError, WrongUsage
from sluice.operate.trends import DEFAULT_RANGE, latest
from sluice_airflow.page.api import V1
from sluice_airflow.page.limits import RETRY_AFTER_S, Busy
from sluice_airflow.page.pages import respond

_RETRY = {"Retry-After": str(RETRY_AFTER_S)}
_BUSY, _AGAIN = "too many requests of this page", "try again"


def add_handlers(app: FastAPI) -> None:
    """Let the app answer the errors of its routes, and addresses that it does not have."""

    @app.exception_handler(HTTPException)
    async def answer(request: Request, error: HTTPException) -> Response:
        """Respond with the error's status, such as 404."""
        if _is_browser(request):
            return _page(request, error.status_code, str(error.detail), headers=error.headers)
        return await http_exception_handler(request, error)

    @app.exception_handler(RequestValidationError)
    async def correct(request: Request, error: RequestValidationError) -> Response:
        """Respond 422 to a wrong parameter."""
        if _is_browser(request):
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            return _page(request, 422, "; ".join(faults))
        return await request_validation_exception_handler(request, error)

    @app.exception_handler(Busy)
    def postpone(request: Request, _: Busy) -> Response:
        """Respond 503 to a request above the limits."""
        if _is_browser(request):
            return _page(request, 503, _BUSY, _AGAIN, headers=_RETRY)
        return JSONResponse({"detail": _BUSY, "remedy": _AGAIN}, 503, _RETRY)

    @app.exception_handler(SluiceError)
    def refuse(request: Request, error: SluiceError) -> Response:
        """Respond 400 to a wrong request, and 503 where a service fails."""
        status = 400 if isinstance(error, WrongUsage) else 503
        if _is_browser(request):
            return _page(request, status, error.what, error.remedy)
        return JSONResponse({"detail": error.what, "remedy": error.remedy}, status)


def _is_browser(request: Request) -> bool:
    """Whether a browser opens a page; the API answers in JSON whoever asks."""
    root = request.scope.get("root_path", "")
    of_api = request.url.path.startswith(f"{root}{V1}/")
    return "text/html" in request.headers.get("accept", "") and not of_api


def _page(
    request: Request,
    status: int,
    detail: str,
    remedy: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    values = {"title": HTTPStatus(status).phrase, "detail": detail, "remedy": remedy}
    page = respond(request, "failure.html", latest(DEFAULT_RANGE), **values)
    page.status_code = status
    page.headers.update(headers or {})
    return page
