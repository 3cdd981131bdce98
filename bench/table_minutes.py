"""Measures minutes of a whole stack with many tables; run by hand.

    .venv/bin/python bench/table_minutes.py [--tables 4,300] [--minutes 5]
        [--load idle,spread,burst] [--picture FILE.svg]

Starts a stack of its own for each number of tables, with the models of bench/table_models.py, and
lets it run for some minutes under each load: without changes, with 5 changes a second spread over
20 tables a minute, and with these and a burst of 20,000 rows in one table each minute. Prints what
the minutes cost, then JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, Table, text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import table_models
from bench.minute_loop import sluice
from bench.pictures import Bar, bars
from bench.tables import metadata, model_set
from sluice import wiring
from sluice.clients.postgres import opened
from sluice.embedded.stack import Stack
from sluice.settings import Settings
from store_api.database import make_engine
from tests.support.services import started

# Of the programs in the picture.
COLORS = (
    "#2563eb", "#0b7285", "#ca8a04", "#7c3aed", "#64748b", "#db2777", "#16a34a", "#ea580c",
)  # fmt: skip
IDLE, SPREAD, BURST = "idle", "spread", "burst"
RATE, SPREAD_OVER, BURST_ROWS = 5, 20, 20_000
COUNTERS = """
SELECT sumIf(value, event = 'Query'), sumIf(value, event = 'MergeTreeDataWriterBlocks')
FROM system.events
"""
# Scheduled drain -> its minute, and the end of the first checks that followed it.
CHAINS = """
WITH RECURSIVE chain AS (
    SELECT d.id AS origin, d.run_after AS tick, d.id AS run FROM dag_run d
    WHERE d.dag_id = 'sluice_drain' AND d.run_type = 'scheduled'
        AND extract(epoch FROM d.run_after) BETWEEN %s AND %s
    UNION
    SELECT c.origin, c.tick, later.id FROM chain c JOIN dag_run r ON r.id = c.run
    JOIN asset_event e ON e.source_dag_id = r.dag_id AND e.source_run_id = r.run_id
    JOIN dagrun_asset_event x ON x.event_id = e.id JOIN dag_run later ON later.id = x.dag_run_id
)
SELECT extract(epoch FROM min(q.end_date) - c.tick)::float8, max(q.state)
FROM chain c LEFT JOIN dag_run q ON q.id = c.run AND q.dag_id = 'sluice_quality'
GROUP BY c.origin, c.tick ORDER BY c.tick
"""
TASKS = "SELECT count(*) FROM task_instance WHERE extract(epoch FROM end_date) BETWEEN %s AND %s"


class Traffic:
    """Changes of the tables' rows, five in ten of them updates.

    Args:
        rows: number of rows that each table began with.
    """

    def __init__(self, engine: Engine, tables: Sequence[Table], rows: int) -> None:
        self._engine, self._tables, self._rows = engine, tables, rows
        self._numbers = itertools.count(1_000_000)
        self._chance = random.Random(1)

    @contextmanager
    def running(self, load: str) -> Iterator[None]:
        """Change rows during the context."""
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=(load, ended))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _run(self, load: str, ended: threading.Event) -> None:
        minute = -1
        while load != IDLE and not ended.wait(1 / RATE):
            now = int(time.time() // 60)
            if now != minute:
                minute = now
                some = self._chance.sample(self._tables, min(SPREAD_OVER, len(self._tables)))
                if load == BURST:
                    self._insert(some[0], BURST_ROWS)
            self._change(self._chance.choice(some))

    def _change(self, table: Table) -> None:
        if self._chance.random() < 0.5:
            self._insert(table, 1)
            return
        number = self._chance.randint(1, self._rows)
        with self._engine.begin() as connection:
            key = table_models.key(table, number)
            statement = f"UPDATE {table} SET note = :note WHERE id = {key}"
            connection.execute(text(statement), {"note": str(time.time())})

    def _insert(self, table: Table, count: int) -> None:
        first = next(itertools.islice(self._numbers, count - 1, count)) - count + 1
        with self._engine.begin() as connection:
            insertion = table_models.insertion(table, self._rows, first, first + count - 1)
            connection.execute(text(insertion))


class Gauge:
    """Counters of a stack.

    Attributes:
        stack: the stack, whose programs are measured by name.
    """

    def __init__(self, settings: Settings, stack: Stack) -> None:
        self._settings, self.stack = settings, stack

    def cpu(self) -> dict[str, float]:
        """Return program -> CPU seconds of it and its children so far."""
        seconds = {}
        for name, members in self._processes().items():
            times = [process.cpu_times() for process in members if process.is_running()]
            seconds[name] = sum(
                t.user + t.system + t.children_user + t.children_system for t in times
            )
        return seconds

    def memory(self) -> dict[str, float]:
        """Return program -> MB (PSS) of it and its children."""
        return {name: sum(map(_pss, members)) / 1e6 for name, members in self._processes().items()}

    def _processes(self) -> dict[str, list[psutil.Process]]:
        found = {}
        for name, state in self.stack.states().items():
            if state.pid:
                process = psutil.Process(state.pid)
                found[name] = [process, *process.children(recursive=True)]
        return found

    def clickhouse(self) -> tuple[int, int]:
        """Return the queries and the new parts so far."""
        queries, parts = wiring.query(self._settings, COUNTERS)[1][0]
        return int(queries), int(parts)

    def airflow(self, query: str, begun: float, ended: float) -> list[tuple[Any, ...]]:
        """Return the rows of a query on Airflow's metadata about this period."""
        airflow = replace(self._settings.postgres, database="airflow")
        with opened(airflow) as connection, connection.cursor() as cursor:
            cursor.execute(query, [begun, ended])
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _pss(process: psutil.Process) -> int:
    """Return a process's memory in bytes; 0 once it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


def measure(gauge: Gauge, traffic: Traffic, load: str, minutes: int) -> dict[str, Any]:
    """Return the costs of minutes under a load, which begins at the next full minute."""
    with traffic.running(load):
        _sleep_until_a_full_minute()
        begun, cpu, (queries, parts) = time.time(), gauge.cpu(), gauge.clickhouse()
        time.sleep(60 * minutes - time.time() % 60)
        cpu_after, (queries_after, parts_after) = gauge.cpu(), gauge.clickhouse()
        memory, ended = gauge.memory(), time.time()
        # The checks of the last minute may take most of the next one.
        _sleep_until_a_full_minute()
    chains = gauge.airflow(CHAINS, begun - 5, ended - 30)
    seconds = [float(value) for value, _ in chains if value is not None]
    spent = {name: (cpu_after[name] - cpu.get(name, 0.0)) / minutes for name in cpu_after}
    return {
        "load": load,
        "minutes": minutes,
        "tick to end of checks, median s": statistics.median(seconds) if seconds else None,
        "tick to end of checks, worst s": max(seconds, default=None),
        "minutes whose checks did not end": len(chains) - len(seconds),
        "failed checks": sum(state == "failed" for _, state in chains),
        "CPU s a minute": round(sum(spent.values()), 1),
        "CPU s a minute, by program": _rounded(spent),
        "memory, MB (PSS)": _rounded(memory),
        "ClickHouse queries a minute": (queries_after - queries) / minutes,
        "new parts a minute": (parts_after - parts) / minutes,
        "task instances a minute": gauge.airflow(TASKS, begun, ended)[0][0] / minutes,
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def _sleep_until_a_full_minute() -> None:
    time.sleep(60 - time.time() % 60)


def run(tables: int, options: argparse.Namespace) -> dict[str, Any]:
    """Start a stack, measure it under each load; return the results."""
    results: list[dict[str, Any]] = []
    with model_set(tables) as (folder, environment):
        sluice(environment, "generate")
        with started(environment) as (settings, stack):
            engine, listed = make_engine(settings.postgres), metadata(folder).sorted_tables
            with engine.begin() as connection:
                table_models.create(connection, metadata(folder), options.rows)
            seconds = sluice(environment, "up", "--detach", "--no-demo")
            print(f"{tables} tables; up to the first checks: {seconds:.1f} s", flush=True)
            traffic = Traffic(engine, listed, options.rows)
            for load in options.load.split(","):
                results.append(measure(Gauge(settings, stack), traffic, load, options.minutes))
                for name, value in results[-1].items():
                    print(f"{name:40} {value}", flush=True)
            engine.dispose()
    return {"tables": tables, "up_s": seconds, "loads": results}


def in_own_process(tables: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run in a process of its own, as a process imports one package of models; echo its lines."""
    command = [sys.executable, __file__, "--tables", str(tables), "--minutes", str(options.minutes)]
    command += ["--load", options.load, "--rows", str(options.rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    result: dict[str, Any] = json.loads(line)
    return result


def picture(results: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the CPU seconds of a minute, by program, for each stack and load."""
    spent: dict[str, Mapping[str, float]] = {
        f"{result['tables']} tables, {load['load']}": load["CPU s a minute, by program"]
        for result in results
        for load in result["loads"]
    }
    programs = dict.fromkeys(program for by in spent.values() for program in by)
    colours = dict(zip(programs, COLORS, strict=False))
    return bars(
        "CPU seconds of a minute",
        [
            Bar(
                name,
                [(by[program], colours[program]) for program in by],
                f"{sum(by.values()):.0f} s",
            )
            for name, by in spent.items()
        ],
        legend=colours,
    )


def main() -> None:
    """Measure each number of tables, print the results, and write the picture if it is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", default="4,300", help="numbers of tables")
    parser.add_argument("--minutes", type=int, default=5, help="minutes under each load")
    parser.add_argument("--load", default=f"{IDLE},{SPREAD},{BURST}")
    parser.add_argument("--rows", type=int, default=100, help="rows of each table")
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    options = parser.parse_args()
    numbers = [int(number) for number in options.tables.split(",")]
    if len(numbers) == 1:
        print(json.dumps(run(numbers[0], options)))
        return
    results = [in_own_process(tables, options) for tables in numbers]
    if options.picture:
        options.picture.write_text(picture(results))


if __name__ == "__main__":
    main()
