"""Measures the minute loop on its own stack; prints medians. Run by `make bench`.

Measures the warm start, the memory (PSS) of the whole stack, the time from the minute's tick to the
end of the quality run without changes, and the time from a committed row to its fact row.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import text

from sluice import wiring
from sluice.embedded.stack import Stack
from sluice.settings import PROJECT, Settings, read_settings
from store_api.database import make_engine
from tests.support.services import stack_environment

REPEATS = 3
SECONDS = (15, 25, 35, 45, 55)  # of the minute; the loop runs at its beginning
SLUICE = Path(sys.executable).parent / "sluice"


def sluice(environment: dict[str, str], *arguments: str) -> float:
    """Run a command; return the seconds it took."""
    started = time.monotonic()
    subprocess.run(
        [SLUICE, *arguments], env=environment, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - started


def memory(home: str) -> float:
    """Return the PSS of all processes of the stack, in MB."""
    total = 0
    for process in psutil.process_iter():
        try:
            members = [" ".join(process.cmdline()), process.environ().get("SLUICE_HOME", "")]
            if any(home in member for member in members):
                total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e6


def chain(settings: Settings) -> float:
    """Return seconds from a minute's tick to the end of the quality run that follows it."""
    api = Stack(settings).airflow()
    before = (api.last_run("sluice_quality") or {}).get("dag_run_id")
    while True:
        run: Any = api.last_run("sluice_quality")
        if run and run["dag_run_id"] != before and run["end_date"]:
            ended = datetime.fromisoformat(run["end_date"])
            return ended.timestamp() % 60
        time.sleep(0.5)


def commit_to_fact(settings: Settings, second: int) -> float:
    """Return seconds from a commit at this second of a minute to its fact row."""
    engine, name = make_engine(settings.postgres), f"bench {time.time()}"
    time.sleep((second - time.time()) % 60)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE products SET name = :name"
                " WHERE id = (SELECT min(product_id) FROM order_items)"
            ),
            {"name": name},
        )
    started = time.monotonic()
    query = f"SELECT count() FROM olap.fact_order_item WHERE product_name = '{name}'"
    while not wiring.query(settings, query)[1][0][0]:
        time.sleep(0.2)
    engine.dispose()
    return time.monotonic() - started


def main() -> None:
    """Print the results as a table and as JSON."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as home:
        environment = stack_environment(Path(home))
        first = sluice(environment, "up", "--detach")
        sluice(environment, "down")
        warm = sluice(environment, "up", "--detach")
        os.environ.update(environment)
        settings = read_settings(environment)
        try:
            arrivals = [commit_to_fact(settings, second) for second in SECONDS]
            measures = {
                "first start, packages fetched, s": first,
                "warm start to checked facts, s": warm,
                "memory of the stack (PSS), MB": memory(home),
                "minute tick to end of quality, idle, s": statistics.median(
                    chain(settings) for _ in range(REPEATS)
                ),
                "committed row to fact row, median, s": statistics.median(arrivals),
                "committed row to fact row, worst, s": max(arrivals),
            }
        finally:
            sluice(environment, "down")
    for name, value in measures.items():
        print(f"{name:45} {value:8.1f}")
    print(json.dumps(measures))


if __name__ == "__main__":
    main()
