"""Airflow's LocalExecutor with Sluice's library loaded once, not in the process of each task."""

from __future__ import annotations

from airflow.executors.local_executor import LocalExecutor


class PreloadedExecutor(LocalExecutor):
    """Loads the library before it forks its workers, which fork the processes of tasks.

    Set `AIRFLOW__CORE__EXECUTOR=sluice_airflow.executor.PreloadedExecutor`. Models are not loaded:
    each task reads the current ones.
    """

    def start(self) -> None:
        """Start the executor."""
        import sluice.wiring  # noqa: F401 - what tasks import when they run

        super().start()
