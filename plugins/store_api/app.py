"""The store's REST API: create, read, update and delete for every model.

Routes are created from the models and their generated schemas: a new model is a new resource.
"""

# Without postponed annotations: the routes' annotations are objects created for each model.

import os
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from sqlalchemy import func, select, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.orm import Mapper, Session
from starlette.middleware.base import RequestResponseEndpoint

import models.generated as schemas
from models import Base
from sluice.settings import Settings, read_settings
from store_api.database import make_engine

_KEY_LIMIT = 2**31 - 1
# Redoc's program loads a logo from its makers' server.
_OWN_FILES = "default-src 'self' 'unsafe-inline' data: blob:"
Limit = Annotated[int, Query(ge=1, le=1000, description="The most rows to return.")]
Offset = Annotated[int, Query(ge=0, le=_KEY_LIMIT, description="The rows to skip.")]


def app_from_environment() -> FastAPI:
    """Return the application with settings from the environment."""
    return create_app(read_settings(os.environ))


def create_app(settings: Settings) -> FastAPI:
    """Return the application on the store's database."""
    engine = make_engine(settings.postgres)

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    app = FastAPIOffline(
        title="Store API",
        description="The example application whose changes Sluice follows.",
    )
    app.add_exception_handler(IntegrityError, _conflict)
    app.add_exception_handler(DataError, _unprocessable)
    app.add_exception_handler(OperationalError, _unavailable)

    @app.middleware("http")
    async def confine(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if _is_rebound(request.url.hostname or ""):
            return JSONResponse({"detail": "use the address of this machine"}, 421)
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = _OWN_FILES
        return response

    @app.get("/", include_in_schema=False)
    def begin(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    @app.get("/health", tags=["health"])
    def health(database: Annotated[Session, Depends(session)]) -> dict[str, str]:
        """Return ok if the API reaches its database."""
        database.execute(text("SELECT 1"))
        return {"status": "ok"}

    for mapper in sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__):
        app.include_router(_resource(mapper, session))
    return app


def _is_rebound(host: str) -> bool:
    """Whether a web page elsewhere could have this host.

    Somebody else's domain may resolve to this machine, and then its pages may read the answers. A
    domain has a dot, unlike `localhost` and the names of containers.
    """
    try:
        ip_address(host)
    except ValueError:
        return "." in host
    return False


def _resource(mapper: Mapper[Any], session: Any) -> APIRouter:
    """Return the routes of one model."""
    model = mapper.class_
    read: type[BaseModel] = getattr(schemas, model.__name__)
    create: type[BaseModel] = getattr(schemas, f"{model.__name__}Create")
    update: type[BaseModel] = getattr(schemas, f"{model.__name__}Update")
    path = model.__tablename__.replace("_", "-")
    router = APIRouter(prefix=f"/api/{path}", tags=[path])
    (key,) = mapper.primary_key
    Opened = Annotated[Session, Depends(session)]  # noqa: N806

    def existing(database: Session, id: int) -> Any:
        row = database.get(model, id) if abs(id) <= _KEY_LIMIT else None
        if row is None:
            raise HTTPException(404, f"{model.__name__} {id} does not exist")
        return row

    @router.post("", status_code=201, response_model=read, summary=f"Create: {path}")
    def create_one(body: create, database: Opened) -> Any:  # type: ignore[valid-type]
        row = model(**_values(mapper, body, given_only=False))
        database.add(row)
        database.commit()
        return row

    @router.get("", response_model=list[read], summary=f"List: {path}")  # type: ignore[valid-type]
    def list_all(
        database: Opened, response: Response, limit: Limit = 100, offset: Offset = 0
    ) -> Any:
        total = database.scalar(select(func.count()).select_from(model))
        response.headers["X-Total-Count"] = str(total)
        return database.scalars(select(model).order_by(key).limit(limit).offset(offset)).all()

    @router.get("/{id}", response_model=read, summary=f"Read: {path}")
    def read_one(id: int, database: Opened) -> Any:
        return existing(database, id)

    def update_one(id: int, body: update, database: Opened) -> Any:  # type: ignore[valid-type]
        row = existing(database, id)
        for name, value in _values(mapper, body, given_only=True).items():
            setattr(row, name, value)
        database.commit()
        return row

    for method in ("PUT", "PATCH"):
        router.add_api_route(
            "/{id}",
            update_one,
            methods=[method],
            response_model=read,
            summary=f"Update the given fields: {path}",
            operation_id=f"{method.lower()}_{model.__tablename__}",
        )

    @router.delete("/{id}", status_code=204, summary=f"Delete: {path}")
    def delete_one(id: int, database: Opened) -> None:
        database.delete(existing(database, id))
        database.commit()

    return router


def _values(mapper: Mapper[Any], body: BaseModel, *, given_only: bool) -> dict[str, Any]:
    """Return values by column; respond 422 to a NULL or NUL that a column cannot hold."""
    values = body.model_dump(exclude_unset=given_only, exclude_none=not given_only)
    for name, value in values.items():
        if value is None and not mapper.columns[name].nullable:
            raise HTTPException(422, f"{name} cannot be null")
        if isinstance(value, str) and "\0" in value:
            raise HTTPException(422, f"{name} cannot contain a NUL character")
    return values


def _detail(error: Any, otherwise: str) -> str:
    diagnosis = getattr(error.orig, "diag", None)
    return getattr(diagnosis, "message_detail", None) or otherwise


async def _conflict(_request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": _detail(error, "the row conflicts with another")}, 409)


async def _unprocessable(_request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": _detail(error, "a value does not fit its column")}, 422)


async def _unavailable(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"detail": "the database does not answer"}, 503)
