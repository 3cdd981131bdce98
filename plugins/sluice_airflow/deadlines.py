"""Deadlines: a run of the minute that is not done in time is told to where checks tell findings.

Airflow's scheduler looks for missed deadlines and its executor runs the callback, in a slot of its
own: no triggerer is needed, and with all slots taken the news waits for one.
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
from sluice_airflow.addresses import cdc_page

PLACES = ("SLUICE_ALERT_WEBHOOK", "SLUICE_ALERT_SLACK", "SLUICE_ALERT_SMTP")
MINUTE = timedelta(seconds=MEASURES["freshness"].warn or 0)  # by then its tables are late, too


def deadline(after: timedelta = MINUTE) -> list[DeadlineAlert] | None:
    """For a DAG whose runs are to be done so long after they were queued; none without a place
    that alerts go to, so that nobody pays for what nobody is told.
    """
    if not any(os.environ.get(place) for place in PLACES):
        return None
    queued = DeadlineReference.DAGRUN_QUEUED_AT
    callback = SyncCallback(tell_late, kwargs={"seconds": int(after.total_seconds())})
    return [DeadlineAlert(reference=queued, interval=after, callback=callback)]


def tell_late(seconds: int, context: Mapping[str, Any]) -> None:
    """Tell of a run that goes on; one that has failed is not late, and Airflow shows it."""
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
