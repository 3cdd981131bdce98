"""The store API's documentation pages, on a machine without the internet."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from sluice.settings import read_settings
from store_api.app import create_app

ASSET = re.compile(r'<script[^>]* src="([^"]+)"|<link[^>]*rel="stylesheet" href="([^"]+)"')


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_what_runs_in_a_documentation_page_comes_from_the_api_itself(
    page: str, tmp_path: Path
) -> None:
    app = create_app(read_settings({"SLUICE_HOME": str(tmp_path)}))

    async def answers() -> dict[str, int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store") as client:
            answer = await client.get(page)
            assert "default-src 'self' " in answer.headers["content-security-policy"]
            text = answer.text
            assert not re.search(r'(src|href)="https?:', text)
            assets = [script or style for script, style in ASSET.findall(text)]
            assert all(asset.startswith("/") for asset in assets)
            return {asset: (await client.get(asset)).status_code for asset in assets}

    statuses = asyncio.run(answers())
    assert set(statuses.values()) == {200}


def test_its_first_page_leads_to_the_documentation(tmp_path: Path) -> None:
    app = create_app(read_settings({"SLUICE_HOME": str(tmp_path)}))

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store") as client:
            return await client.get("/", follow_redirects=True)

    found = asyncio.run(answer())
    assert (found.status_code, found.url.path) == (200, "/docs")
