"""Addresses of the CDC page below Airflow's own address."""

from __future__ import annotations

from airflow.sdk.configuration import conf

PREFIX = "/sluice"


def cdc_page() -> str:
    """Return the address of the CDC page, from `[api] base_url`; empty where that is not set."""
    base = conf.get("api", "base_url", fallback="") or ""
    return f"{base.rstrip('/')}{PREFIX}/" if base else ""
