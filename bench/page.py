"""Measures the CDC page over a long history, as a user of a real api-server receives it.

    .venv/bin/python bench/page.py [ITEMS [DAYS]]

Starts its own stores with ITEMS (10,000,000) order items, their fact and history. Each table of
`cdc` that the page reads has a row for every minute of DAYS (30), table and check. Prints the
median and the worst time of repeated requests, in milliseconds, and their size; then JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.fact import Bench, server_of
from sluice.catalog import Catalog, load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.settings import Settings
from sluice_airflow.page.limits import KEPT_S
from store_api.demo import load
from tests.support.airflow import airflow_environment, api_server
from tests.support.pipeline import checked, relaying
from tests.support.services import migrate, running_services, temporary_home

REPEATS = 21
AIM_MS = 300.0
PATHS = (
    "/sluice/",
    "/sluice/?range=30d",
    "/sluice/tables/order_items",
    "/sluice/tables/order_items?range=30d&key={key}",
    "/sluice/api/v1/overview",
    "/sluice/api/v1/findings",
    "/sluice/api/v1/trends",
    "/sluice/api/v1/trends?range=7d",
    "/sluice/api/v1/trends?range=30d",
    "/sluice/api/v1/trends?range=30d&table=order_items",
    "/sluice/api/v1/tables/order_items/runs",
    "/sluice/api/v1/tables/order_items/versions?key={key}",
    "/sluice/api/v1/dead-letters",
    "/sluice/metrics",
    "/api/v2/version",  # Airflow's own API, for comparison
)
MINUTE = "now64(3) - toIntervalMinute(number)"
NOISE = "(cityHash64(number, table) % 1000) / 1000"
CHECKS = "['caught_up', 'gap', 'row_count']"
# Table -> its columns and the query of its history; `number` counts minutes back, `table` is a
# source table, `fact` a fact.
HISTORY = {
    "drains": (
        "*",
        f"SELECT table, {MINUTE}, 'e', number * 50, number * 50 + 50, 50, 0, {NOISE},"
        f" 30 + 30 * {NOISE} FROM minutes, tables",
    ),
    "checkpoints": (
        "* EXCEPT (server)",
        "SELECT table, {minutes} - number, 'w', 'relay', 1, 'e', {minutes} - number,"
        f" 0, 0, toUnixTimestamp64Milli({MINUTE}), {MINUTE}, 't' FROM minutes, tables",
    ),
    "rebuilds": (
        "fact, storage, version, mode, seen, rows, deleted, seconds, finished_at, rebuild",
        "SELECT fact, toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0'), {minutes} - number,"
        f" 'incremental', map('order_items', number), 50, 0, 0.2, {MINUTE}, generateUUIDv4()"
        " FROM minutes, facts",
    ),
    "quality_checks": (
        "run, checked_at, source_table, check, status, fence, postgres, clickhouse",
        f"SELECT toString(number), {MINUTE}, table, check, 'pass', '0/1', 7, 7"
        f" FROM minutes, tables ARRAY JOIN {CHECKS} AS check"
        f" UNION ALL SELECT toString(number), {MINUTE}, fact, 'fact_row_count', 'pass',"
        " '0/1', 7, 7 FROM minutes, facts",
    ),
    "resyncs": (
        "source_table, finished_at, selection, fence, rows, deleted, seconds",
        f"SELECT table, {MINUTE}, '1 keys', '0/1', 1, 0, 0.5 FROM minutes, tables",
    ),
    "dead_letters": (
        "source_table, broker_epoch, offset, key, value, reason, schema_version, rejected_at,"
        " epoch",
        "SELECT table, 'e', number, concat('{{\"id\":', toString(number), '}}'),"
        " randomPrintableASCII(1000), 'price: Input should be a valid decimal', 's',"
        f" {MINUTE}, 1 FROM minutes, tables",
    ),
}


def fill(clickhouse: ClickHouse, home: Path, items: int, days: int) -> None:
    """Write the data, and the pipeline's records of `days`, one part for each day."""
    data = Bench(clickhouse, server_of(home), items)
    data.fill()
    data.full_rebuild()
    clickhouse.execute("INSERT INTO cdc.history_order_items SELECT * FROM cdc.src_order_item")
    clickhouse.execute("TRUNCATE TABLE cdc.checkpoints")
    write_history(clickhouse, load_catalog("models"), days, HISTORY)


def write_history(
    clickhouse: ClickHouse, catalog: Catalog, days: int, chosen: Collection[str]
) -> None:
    """Write a row a minute for each table and check, or fact, one part for each day.

    Args:
        chosen: keys of HISTORY.
    """
    tables = ", ".join(f"'{table.name}'" for table in catalog.tables)
    facts = ", ".join(f"'{fact.name}'" for fact in catalog.facts)
    for table in chosen:
        columns, query = HISTORY[table]
        for day in range(days):
            clickhouse.execute(
                f"INSERT INTO cdc.{table} ({columns})\n"
                f"WITH minutes AS (SELECT number FROM numbers({day * 1440}, 1440)),\n"
                f"    tables AS (SELECT arrayJoin([{tables}]) AS table),\n"
                f"    facts AS (SELECT arrayJoin([{facts}]) AS fact)\n"
                + query.format(minutes=days * 1440)
            )


def measure(address: str, key: int) -> dict[str, dict[str, float]]:
    """Return median and worst milliseconds, and kB of the response, by path."""
    with httpx.Client(base_url=address, timeout=60) as client:
        login = {"username": "user", "password": "user"}  # who may see rows
        token = client.post("/auth/token", json=login).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        return {path: measured(client, path.format(key=key)) for path in PATHS}


def measured(client: httpx.Client, path: str, repeats: int = REPEATS) -> dict[str, float]:
    """Return median and worst milliseconds, and kB of the response, of repeated requests.

    They are so far apart that they share no answers.
    """
    client.get(path).raise_for_status()  # the first request loads code and caches
    times, length = [], 0
    for _ in range(repeats):
        time.sleep(KEPT_S)
        started = time.monotonic()
        answer = client.get(path)
        times.append((time.monotonic() - started) * 1000)
        answer.raise_for_status()
        length = len(answer.content)
    return {"median": statistics.median(times), "worst": max(times), "kB": length / 1000}


@contextmanager
def stores() -> Iterator[Settings]:
    """Run PostgreSQL, broker and ClickHouse, with a slot and changes of the store on the topics."""
    with temporary_home() as home, running_services(home) as settings:
        load(settings, customers=100, orders=400, seed=1)
        with relaying(settings):
            checked(settings)
            yield settings


def main() -> None:
    """Fill the stores, measure, and print the results."""
    items, days = [*map(int, sys.argv[1:]), *(10_000_000, 30)[len(sys.argv) - 1 :]]
    with stores() as settings, TemporaryDirectory() as home:
        with closing(ClickHouse(settings.clickhouse)) as clickhouse:
            fill(clickhouse, settings.home, items, days)
        migrate(Path(home))
        with api_server(airflow_environment(Path(home), settings)) as address:
            results = measure(address, key=items // 2)
    print(f"{items} order items, {days} days; {REPEATS} repeats")
    for path, values in results.items():
        late = "" if values["median"] < AIM_MS else f"  over {AIM_MS:.0f} ms"
        print(
            f"{path:60} {values['median']:7.0f} ms, worst {values['worst']:5.0f}"
            f" {values['kB']:7.1f} kB{late}"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
