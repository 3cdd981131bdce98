"""Prints every route that Airflow serves below /sluice, as JSON; run by test_access.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from airflow.api_fastapi.app import create_app
from starlette.routing import BaseRoute, Mount, Route


def leaves(routes: list[BaseRoute], prefix: str) -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from leaves(route.routes or [], prefix + route.path)
            if not route.routes:
                yield "GET", prefix + route.path
        elif isinstance(route, Route):
            for method in sorted(route.methods or ()):
                yield method, prefix + route.path
        else:
            yield type(route).__name__, prefix


app = create_app(apps="core")
mounted = [route for route in app.routes if isinstance(route, Mount) and route.path == "/sluice"]
json.dump(sorted(leaves(list(mounted), "")), sys.stdout)
