"""A real, headless Chromium: the one of this machine, driven by playwright; axe-core looks for
what keeps people out.

`CHROMIUM` names the browser where it is not on PATH under a usual name; without one, tests that
need it are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (  # the last five: it asks nobody but the server under test
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
SLOWEST_MS = 120_000
expect.set_options(timeout=SLOWEST_MS)
PHONE = {"width": 390, "height": 844}


def chromium_path() -> str:
    """Where the browser is; skips the test where there is none."""
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on PATH (Debian: apt install chromium), and CHROMIUM is not set")
    return found


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """The browser."""
    path = chromium_path()
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments])
        yield browser
        browser.close()


def log_in(browser: Browser, address: str, user: str, password: str, **context: Any) -> Page:
    """A page in which the user has logged in by Airflow's form."""
    page = browser.new_context(base_url=address, **context).new_page()
    page.set_default_timeout(SLOWEST_MS)
    page.goto("/")
    page.locator("input[name=username]").fill(user)
    page.locator("input[name=password]").fill(password)
    page.locator("button[type=submit]").click()
    page.get_by_role("link", name="CDC").wait_for()
    return page


def too_wide(page: Page) -> int:
    """How many pixels there are to scroll to the side."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def barriers(page: Page) -> list[str]:
    """What axe-core takes for serious or critical on the page as it is, one line each."""
    found = Axe().run(page).response
    assert len(found["passes"]) > 10, "axe-core has looked at nothing"
    return [
        f"{rule['id']}: {rule['help']}: {node['html'][:200]}"
        for rule in found["violations"]
        if rule["impact"] in {"serious", "critical"}
        for node in rule["nodes"]
    ]
