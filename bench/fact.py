"""Measures the fact on its own ClickHouse; run by `make bench`, and alone:

    .venv/bin/python bench/fact.py 1000000 10000000 [PICTURE.svg]

Each number is a size in order items, with 0.3 orders, 0.1 customers and 0.01 products per item.
Prints the results, then tables with their ratios; the picture shows the dashboards' ratios. Source
rows are generated in ClickHouse. Ids follow dates; products and customers are random.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.pictures import OWN, Bar, bars
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.star import create as warehouse
from tests.support.services import stack_environment, started, temporary_home

Before = Callable[[int], object] | None
DAYS = 730
DATE = f"toDateTime64('2024-01-01', 6, 'UTC') + intDiv(number * {DAYS} * 86400, {{rows}})"
# Storage -> source table, its rows per item, and the columns of row `number`.
SOURCES = {
    "dim_customer": (
        "customers",
        0.1,
        "concat(toString(number), '@example.org'), concat('Customer ', toString(number)),"
        " concat('Country ', toString(cityHash64(number) % 50)),"
        " concat('City ', toString(cityHash64(number) % 500)),"
        " toDateTime64('2024-01-01', 6, 'UTC')",
    ),
    "dim_product": (
        "products",
        0.01,
        "concat('Product ', toString(number)), concat('Category ', toString(number % 20)),"
        " toDecimal64(number % 1000, 2), toDateTime64('2024-01-01', 6, 'UTC')",
    ),
    "dim_order": (
        "orders",
        0.3,
        f"1 + cityHash64(number, 1) % {{customers}}, {DATE}, 'paid', toDecimal64(number % 1000, 2)",
    ),
    "src_order_item": (
        "order_items",
        1.0,
        "1 + intDiv(number * 3, 10), 1 + cityHash64(number, 2) % {products}, 1 + number % 5,"
        " toDecimal64(number % 100, 2)",
    ),
}
RECENT = "id > (SELECT max(id) FROM cdc.src_order_item) - 2500"
RANDOM = "cityHash64(id, 3) % {items} < 2500"
# States of the fact that dashboards read; tables and the picture have them in this order.
STATES = ("merged", "newest changed", "random changed")
DASHBOARDS = {
    "revenue by country, all": "SELECT customer_country, sum(quantity * price) FROM {t} GROUP BY 1",
    "revenue by category, a month": "SELECT product_category, sum(quantity * price) FROM {t}"
    " WHERE order_date >= '2025-06-01' AND order_date < '2025-07-01' GROUP BY 1",
    "one order": "SELECT * FROM {t} WHERE order_id = 1234",
    "one product": "SELECT count(), sum(quantity) FROM {t} WHERE product_id = 77",
    "best customers": "SELECT customer_id, sum(price) AS s FROM {t} GROUP BY 1 ORDER BY s DESC"
    " LIMIT 10",
}
# Queries on the rollup `revenue_by_day` with the same results.
ROLLUPS = {
    "revenue by country, all": "SELECT country, sum(revenue) FROM olap.revenue_by_day GROUP BY 1",
    "revenue by category, a month": "SELECT category, sum(revenue) FROM olap.revenue_by_day"
    " WHERE day >= '2025-06-01' AND day < '2025-07-01' GROUP BY 1",
}


class Bench:
    """The measurements of one size."""

    def __init__(self, clickhouse: ClickHouse, server: psutil.Process, items: int) -> None:
        self._execute, self._server = clickhouse.execute, server
        self.rebuild = replace(
            warehouse.make_rebuild(clickhouse, load_catalog("models").facts[0]), progress=print
        )
        self.items = items
        self.sizes = {table: int(items * share) for table, share, _ in SOURCES.values()}
        self.seen = dict(self.sizes)

    def fill(self) -> None:
        """Write the source rows, as drained."""
        for (name,) in self._execute(
            "SELECT name FROM system.tables WHERE database = 'cdc' AND engine LIKE '%MergeTree'"
        ):
            self._execute(f"TRUNCATE TABLE cdc.{name}")
        for storage, (table, _, columns) in SOURCES.items():
            self._execute(f"DROP VIEW IF EXISTS cdc.history_{table}_feed")
            values = columns.format(rows=self.sizes[table], **self.sizes)
            self._execute(
                f"INSERT INTO cdc.{storage} SELECT number + 1, {values}, 1, 0, number + 1,"
                f" now64(3), now64(3) FROM numbers({self.sizes[table]})"
            )
            self._checkpoint(table)

    def _checkpoint(self, table: str) -> None:
        self._execute(
            "INSERT INTO cdc.checkpoints (source_table, generation, next_offset)"
            f" VALUES ('{table}', {self.seen[table]}, {self.seen[table]})"
        )

    def change(self, storage: str, where: str, replaced: str) -> None:
        """Change a value of rows, as drained."""
        table = SOURCES[storage][0]
        before = self.seen[table]
        self._execute(
            f"INSERT INTO cdc.{storage} SELECT * REPLACE ({replaced}, {before} + 1 AS _version,"
            f" {before} + rowNumberInAllBlocks() + 1 AS _seq) FROM cdc.{storage} FINAL"
            f" WHERE {where.format(items=self.items)}"
        )
        self.seen[table] = self._execute(f"SELECT max(_seq) FROM cdc.{storage}")[0][0]
        self._checkpoint(table)

    def cost(self, name: str, act: Callable[[], object], before: Before = None) -> dict[str, float]:
        """Return elapsed seconds and ClickHouse's CPU seconds of a call.

        With `before`, which runs before each call, the median of three calls.
        """
        seconds, cpu = [], []
        for repeat in range(3 if before else 1):
            if before:
                before(repeat)
            started, used = time.monotonic(), cpu_seconds(self._server)
            act()
            seconds.append(time.monotonic() - started)
            cpu.append(cpu_seconds(self._server) - used)
        return {f"{name}, s": statistics.median(seconds), f"{name}, CPU s": statistics.median(cpu)}

    def copy(self) -> None:
        """Copy the fact's rows."""
        self._execute("INSERT INTO cdc.copy SELECT * FROM cdc.fact_order_item")

    def full_rebuild(self) -> dict[str, float]:
        """Return the cost of a full rebuild until readers see it, and of the merge afterwards."""
        passed: dict[str, tuple[float, float]] = {}

        def reached(point: str) -> None:
            passed[point] = (time.monotonic(), cpu_seconds(self._server))

        reached("begun")
        assert replace(self.rebuild, reached=reached).run(full=True).mode == "full"
        reached("merged")
        measures: dict[str, float] = {}
        for name, since, until in (
            ("full rebuild", "begun", "kept"),
            ("merge after it", "kept", "merged"),
        ):
            seconds, cpu = (b - a for a, b in zip(passed[since], passed[until], strict=True))
            measures |= {f"{name}, s": seconds, f"{name}, CPU s": cpu}
        return measures

    def dashboards(self, state: str) -> dict[str, float]:
        """Return the cost of each query on the view and on the plain copy, medians of five."""
        measures = {}
        while self._execute("SELECT count() FROM system.merges")[0][0]:
            time.sleep(0.1)  # the copy's parts are merged as well
        for name, query in DASHBOARDS.items():
            texts = {
                f"{state}, {name}": query.format(t="olap.fact_order_item"),
                f"plain copy, {name}": query.format(t="cdc.copy"),
            }
            if name in ROLLUPS:
                texts[f"{state}, {name}, rollup"] = ROLLUPS[name]
            for what, text in texts.items():
                seconds, used = [], cpu_seconds(self._server)
                for _ in range(5):
                    started = time.monotonic()
                    self._execute(text)
                    seconds.append(time.monotonic() - started)
                measures[f"{what}, s"] = statistics.median(seconds)
                measures[f"{what}, CPU s"] = (cpu_seconds(self._server) - used) / 5
        return measures

    def require_same(self) -> None:
        """Assert that the rollup's sums equal those of the fact."""
        for name, query in ROLLUPS.items():
            fact = DASHBOARDS[name].format(t="olap.fact_order_item")
            assert sorted(self._execute(query)) == sorted(self._execute(fact)), name

    def measure(self) -> dict[str, float]:
        """Return every result of this size."""
        self.fill()
        with peak_memory(self._server) as peak:
            measures = self.full_rebuild()
        measures["peak memory of ClickHouse, MB"] = peak[0]
        self._execute("DROP TABLE IF EXISTS cdc.copy SYNC")
        self._execute(
            "CREATE TABLE cdc.copy ENGINE = MergeTree ORDER BY order_item_id EMPTY AS"
            " SELECT * FROM cdc.fact_order_item"
        )
        measures |= self.cost("plain copy", self.copy)
        measures |= self.dashboards("merged")
        for name, storage, where, replaced in (
            ("2,500 newest items", "src_order_item", RECENT, "quantity + 1 AS quantity"),
            ("2,500 random items", "src_order_item", RANDOM, "quantity + 1 AS quantity"),
            ("a product's name", "dim_product", "id = 50", "'new {repeat}' AS name"),
        ):
            change = partial(self.change_again, storage, where, replaced)
            measures |= self.cost(f"incremental, {name}", self.rebuild.run, change)
            if where == RECENT:
                measures |= self.dashboards("newest changed")
        measures |= self.dashboards("random changed")
        self.require_same()
        return measures

    def change_again(self, storage: str, where: str, replaced: str, repeat: int) -> None:
        """Change the same rows to another value."""
        self.change(storage, where, replaced.format(repeat=repeat))


def cpu_seconds(server: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    used = server.cpu_times()
    return float(used.user + used.system)


def server_of(home: Path) -> psutil.Process:
    """Return the ClickHouse process of a home."""
    return next(
        process
        for process in psutil.process_iter(["cmdline"])
        if f"{home}/clickhouse" in (process.info["cmdline"] or ())
    )


@contextmanager
def peak_memory(server: psutil.Process) -> Iterator[list[float]]:
    """Record the highest memory (RSS, MB) of a process within the context."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], server.memory_info().rss / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def tables(results: dict[int, dict[str, float]]) -> Iterator[str]:
    """Yield Markdown lines: the cost of rebuilds, and of dashboards on the view and on a copy."""
    yield "| s, and the part of the full rebuild |" + "".join(f" {n:,} items |" for n in results)
    yield "|---|" + "---:|" * len(results)
    rebuilds = [name for name in next(iter(results.values())) if name.startswith("incremental")]
    for name in ("full rebuild, s", "plain copy, s", "merge after it, s", *rebuilds):
        if name.endswith(", s"):
            cells = (
                f" {m[name]:.2f} ({m[name] / m['full rebuild, s']:.1%}) |" for m in results.values()
            )
            yield f"| {name[:-3]} |" + "".join(cells)
    memory = "peak memory of ClickHouse, MB"
    yield f"| {memory} |" + "".join(f" {m[memory]:,.0f} |" for m in results.values())
    for items, measures in results.items():
        yield f"\n| {items:,} items | copy, ms |" + "".join(f" {state} |" for state in STATES)
        yield "|---|---:|" + "---:|" * len(STATES)
        for query, of in queried():
            copy = measures[f"plain copy, {query}, s"]
            states = (measures[f"{state}, {query}{of}, s"] for state in STATES)
            cells = (f" {seconds * 1000:.0f} ({seconds / copy:.1f} x) |" for seconds in states)
            yield f"| {query}{of} | {copy * 1000:.0f} |" + "".join(cells)


def queried() -> Iterator[tuple[str, str]]:
    """Yield each dashboard's name, with an empty suffix, or `, rollup` for a query on a rollup."""
    for query in DASHBOARDS:
        yield query, ""
        if query in ROLLUPS:
            yield query, ", rollup"


def picture(measures: dict[str, float]) -> str:
    """Return an SVG of each dashboard's time on the view, as a multiple of a plain copy."""
    rows: list[Bar | str] = []
    for query, of in queried():
        copy = measures[f"plain copy, {query}, s"]
        ratios = {state: measures[f"{state}, {query}{of}, s"] / copy for state in STATES}
        rows.append(f"{query}{of}")
        rows += [Bar(state, [(ratio, OWN)], f"{ratio:.1f} x") for state, ratio in ratios.items()]
    return bars("time of a query, as a multiple of that on a plain copy", rows, mark=1.5)


def main() -> None:
    """Print the results of each size, the tables, and JSON."""
    sizes = [int(size) for size in sys.argv[1:] if size.isdigit()] or [1_000_000, 10_000_000]
    results = {}
    with (
        temporary_home() as home,
        started(stack_environment(home), ("clickhouse",)) as (settings, _),
        closing(ClickHouse(settings.clickhouse)) as clickhouse,
    ):
        warehouse.create_warehouse(clickhouse, load_catalog("models"))
        for size in sizes:
            results[size] = Bench(clickhouse, server_of(home), size).measure()
            for name, value in results[size].items():
                print(f"{size:>10} items  {name:70} {value:12.3f}", flush=True)
    print("\n".join(tables(results)))
    if sys.argv[-1].endswith(".svg"):
        Path(sys.argv[-1]).write_text(picture(results[sizes[-1]]))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
