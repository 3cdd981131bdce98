"""Alerts when a drain, rebuild or quality run misses its deadline.

Airflow's scheduler detects missed deadlines and its executor runs the callback in one of its
slots. So no triggerer is needed, but the alert waits while all slots are taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from sluice.catalog.quality_options import MEASURES
from sluice.settings import read_values
from sluice_airflow.addresses import cdc_page

PLACES = ("SLUICE_ALERT_WEBHOOK", "SLUICE_ALERT_SLACK", "SLUICE_ALERT_SMTP")
MINUTE = timedelta(seconds=MEASURES["freshness"].warn or 0)  # its tables are late by then as well


def deadline(after: timedelta = MINUTE) -> list[DeadlineAlert] | None:
    """Return the deadline of a DAG's runs; None if no alerts are configured, to save its cost.

    Args:
        after: the time limit from queueing to the end of a run.
    """
    values = read_values(os.environ)
    if not any(values[place][0] for place in PLACES):
        return None
    queued = DeadlineReference.DAGRUN_QUEUED_AT
    callback = SyncCallback(tell_late, kwargs={"seconds": int(after.total_seconds())})
    return [DeadlineAlert(reference=queued, interval=after, callback=callback)]


def tell_late(seconds: int, context: Mapping[str, Any]) -> None:
    """Alert of a late run; a failed run is not late, and Airflow shows it."""
    from sluice import wiring
    from sluice.catalog.quality_options import Status
    from sluice.quality.checks import Check
    from sluice.settings import read_settings

    run = context["dag_run"]
    if run["state"] == "failed":
        return
    late = Check(
        table=run["dag_id"],
        check="deadline",
        status=Status.FAIL,
        postgres=0,
        clickhouse=seconds,
        difference=f"{run['dag_run_id']} is {run['state']}, {seconds} s after it was queued",
        repair="see: sluice status",
    )
    alerts = read_settings(os.environ).alerts
    wiring.tell(replace(alerts, page=alerts.page or cdc_page()), late)
