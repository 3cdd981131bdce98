"""The wait at the end of `sluice up`, until Airflow has drained, rebuilt and checked.

It lasts as long as there is progress, which takes longer with many tables and large snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

from sluice.embedded.airflow_service import AirflowApi
from sluice.errors import QualityFailed
from sluice.execution import progress as pace
from sluice.execution.progress import Amount, Line
from sluice.settings import WAREHOUSE_POOL, WAREHOUSE_SLOTS, Settings

DAGS = ("sluice_drain", "sluice_rebuild", "sluice_quality")
_ENDED = {"success", "failed"}
_PATIENCE = 480.0  # seconds without progress: a busy machine may take long for one step
_PAUSE = 0.5
# Drained tables and events, stored rows (in bulk none is drained), rebuilt facts, tables whose rows
# were equal. The numbers of tables and facts only grow, up to those of the models.
_PROGRESS = """
SELECT count(), sum(drained), (
    SELECT sum(rows) FROM system.parts
    WHERE database = 'cdc' AND active AND match(table, '^(src|dim)_')
), (SELECT uniqExact(fact) FROM cdc.rebuilds), (
    SELECT uniqExact(source_table) FROM cdc.quality_checks
    WHERE check = 'row_count' AND status = 'pass'
)
FROM (
    SELECT argMax(next_offset, generation) AS drained FROM cdc.checkpoints GROUP BY source_table
)
"""


class Patience:
    """Ends a wait when nothing new has happened for some time.

    Args:
        seconds: the longest time without progress.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._seen: set[Hashable] = set()
        self._since = now()

    def require(self, progress: Hashable, what: str, log: str) -> None:
        """Take note of the progress; what was seen before is none.

        Args:
            what: what is awaited, for the error.
            log: the command that shows why.

        Raises:
            QualityFailed: there was no progress for too long.
        """
        if progress not in self._seen:
            self._seen.add(progress)
            self._since = self._now()
        elif self._now() - self._since > self._seconds:
            raise QualityFailed(
                f"{what}, and nothing has changed for {self._seconds:.0f} s",
                remedy=f"see: sluice status, {log}",
            )


def wait(settings: Settings, api: AirflowApi, report: Callable[[str], None]) -> None:
    """Wait for the DAGs, the relay's snapshot, and the first checks that pass.

    Raises:
        QualityFailed: there was no progress for _PATIENCE seconds.
    """
    from sluice.catalog import load_catalog

    patience = Patience(_PATIENCE)
    api.ensure_pool(WAREHOUSE_POOL, WAREHOUSE_SLOTS)
    while set(DAGS) - (parsed := set(api.dags())):
        patience.require(frozenset(parsed), "Airflow has not parsed the DAGs", _log("scheduler"))
        time.sleep(_PAUSE)
    total = len(load_catalog(settings.models).tables)
    _wait_for_snapshot(settings, patience, report, total)  # earlier checks are skipped
    _wait_for_checks(settings, api, patience, report, total)


def _wait_for_snapshot(
    settings: Settings, patience: Patience, report: Callable[[str], None], total: int
) -> None:
    from sluice.clients.postgres import PostgresSource

    source, reported = PostgresSource(settings.postgres), time.monotonic()
    while source.find_slot(settings.relay.slot) is None:
        tables, _, rows, *_ = progress = _progress(settings)
        patience.require(progress, "the relay has not finished its snapshot", "sluice logs relay")
        if time.monotonic() - reported > pace.SECONDS:
            reported = time.monotonic()
            amount = Amount(work="first copy: tables drained", done=tables, total=total)
            report(
                Line(f"snapshot: {rows} rows stored, {tables} of {total} tables drained", amount)
            )
        time.sleep(_PAUSE)


def _wait_for_checks(
    settings: Settings,
    api: AirflowApi,
    patience: Patience,
    report: Callable[[str], None],
    total: int,
) -> None:
    before = _run(api, "sluice_quality").get("dag_run_id")
    started = {dag_id: _run(api, dag_id).get("dag_run_id") for dag_id in DAGS}
    api.trigger("sluice_drain")
    report("Airflow drains, rebuilds and checks")
    reported = time.monotonic()
    while True:
        run = _run(api, "sluice_quality")
        if run and run["dag_run_id"] != before and run["state"] in _ENDED:
            if run["state"] == "success":
                report("sluice_quality: ClickHouse equals Postgres")
                return
            before = run["dag_run_id"]
        tables, _, _, facts, checked = _progress(settings)
        what = f"no check of Airflow's has passed (previous runs: {started})"
        patience.require((tables, facts, checked), what, _log("scheduler"))
        if time.monotonic() - reported > pace.SECONDS:
            reported = time.monotonic()
            text = f"{tables} of {total} tables drained, {facts} facts rebuilt, {checked} checked"
            amount = Amount(work="first check: tables compared", done=checked, total=total)
            report(Line(text, amount))
        time.sleep(_PAUSE)


def _progress(settings: Settings) -> tuple[Any, ...]:
    from sluice import wiring

    return wiring.query(settings, _PROGRESS)[1][0]


def _run(api: AirflowApi, dag_id: str) -> dict[str, Any]:
    return api.last_run(dag_id) or {}


def _log(program: str) -> str:
    return f"sluice logs airflow-{program}"
