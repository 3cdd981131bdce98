"""Where people look, below the address that Airflow has for itself."""

from __future__ import annotations

from airflow.sdk.configuration import conf

PREFIX = "/sluice"


def cdc_page() -> str:
    """The CDC page, from `[api] base_url`; empty where that is not set."""
    base = conf.get("api", "base_url", fallback="") or ""
    return f"{base.rstrip('/')}{PREFIX}/" if base else ""
