"""Prints what the plugin's app answers where Airflow's security has moved; for test_access.py."""

from __future__ import annotations

import json
import sys

from airflow.plugins_manager import get_fastapi_plugins
from fastapi import FastAPI
from fastapi.testclient import TestClient

sys.modules["airflow.api_fastapi.core_api.security"] = None  # type: ignore[assignment]
apps, _ = get_fastapi_plugins()
parent = FastAPI()
for one in apps:
    parent.mount(one["url_prefix"], one["app"])
client = TestClient(parent)
# The last three need no service, so what they answer is nothing but the refusal.
paths = ("", "metrics", "api/v1/overview", "openapi.json", "docs", "static/page.css")
json.dump({path: client.get(f"/sluice/{path}").status_code for path in paths}, sys.stdout)
