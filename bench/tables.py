"""Measures every step at 4 to 1,000 tables; run by hand.

    .venv/bin/python bench/tables.py [--tables 4,300] [--only generate,init,...] [--rows 100]
        [--days 0] [--screenshot FILE.png]

For each number of tables it writes a package of models (bench/table_models.py), starts its own
services, and runs each step once, in a new process. Prints seconds, CPU seconds of the step's
process, and the queries that ClickHouse got; then JSON. With `--days` the page has a history of so
many days, in which every table had changes and checks in every minute. bench/table_minutes.py
measures minutes of a whole stack with these models.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import table_models
from bench.page import measured, write_history
from sluice import wiring
from sluice.catalog import load_catalog
from sluice.clients.clickhouse import ClickHouse
from sluice.clients.postgres import PostgresSource
from sluice.embedded.stack import Stack
from sluice.settings import PROJECT, Settings
from store_api.database import make_engine
from tests.support.airflow import airflow_environment, api_server
from tests.support.browser import chromium, log_in
from tests.support.services import migrate, stack_environment, started

SLUICE = Path(sys.executable).parent / "sluice"
QUERIES = "SELECT sum(value) FROM system.events WHERE event = 'Query'"
# CPU seconds of a DAG file beyond Airflow's own import.
IMPORT = """
import runpy, sys, time
import airflow.sdk
sys.path[:0] = {paths}
begun = time.process_time()
runpy.run_path({file!r})
print(time.process_time() - begun)
"""
PAGES = (
    "/sluice/",
    "/sluice/?range=30d",
    "/sluice/api/v1/overview",
    "/sluice/metrics",
    "/sluice/tables/{table}",
    "/sluice/tables/{table}?range=30d",
)
# Of bench/page.py, what the steps write for each table or fact.
KEPT = ("drains", "rebuilds", "quality_checks")
DESK = {"width": 1280, "height": 900}
REPEATS = 7  # of a page's request
STEPS = ("generate", "imports", "init", "snapshot", "drain", "quality", "status", "page")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The cost of one step; None where it is not measured.

    Attributes:
        cpu: CPU seconds of the step's process.
        queries: queries that ClickHouse got.
        kilobytes: size of the answer.
    """

    tables: int
    step: str
    seconds: float
    cpu: float | None = None
    queries: int | None = None
    kilobytes: float | None = None

    def line(self) -> str:
        """Return the measure as a row of a table in Markdown."""
        values = (f"{self.seconds:.2f}", _shown(self.cpu), _shown(self.queries))
        return f"| {self.tables} | {self.step} | {' | '.join(values)} | {_shown(self.kilobytes)} |"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


class Bench:
    """The steps on the services of one model set.

    Args:
        folder: where the package of models is.
        environment: the variables of the services.

    Attributes:
        settings: of the services, once they run.
        measures: the measures so far.
    """

    def __init__(self, folder: Path, tables: int, environment: dict[str, str]) -> None:
        self.folder, self.tables, self.environment = folder, tables, environment
        self.settings: Settings | None = None
        self.measures: list[Measure] = []

    def note(self, step: str, seconds: float, **values: Any) -> None:
        """Keep and print a measure."""
        self.measures.append(Measure(tables=self.tables, step=step, seconds=seconds, **values))
        print(self.measures[-1].line(), flush=True)

    def sluice(self, step: str, *arguments: str) -> None:
        """Measure a command; a failed one says so in its name."""
        before = queries(self.settings) if self.settings else 0
        begun, cpu = time.monotonic(), _children()
        done = subprocess.run(
            [SLUICE, *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, cpu = time.monotonic() - begun, _children() - cpu
        asked = queries(self.settings) - before - 1 if self.settings else None
        failed = f" (exit {done.returncode}: {done.stderr[:300]!r})" if done.returncode else ""
        self.note(step + failed, seconds, cpu=cpu, queries=asked)

    def imports(self) -> None:
        """Measure the import of each DAG file."""
        paths = [str(PROJECT), str(PROJECT / "plugins"), str(self.folder)]
        for file in sorted((PROJECT / "dags").glob("*.py")):
            begun = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", IMPORT.format(paths=paths, file=str(file))],
                env={**self.environment, "AIRFLOW_HOME": str(self.folder / "airflow")},
                capture_output=True,
                text=True,
                check=True,
            )
            cpu = float(done.stdout.split()[-1])
            self.note(f"import of {file.name}", time.monotonic() - begun, cpu=cpu)

    def snapshot(self, settings: Settings, stack: Stack) -> None:
        """Measure the relay's first snapshot until the broker has it; the relay keeps running."""
        begun, source = time.monotonic(), PostgresSource(settings.postgres)
        stack.start(["relay"], lambda _: None)
        while source.find_slot(settings.relay.slot) is None:
            time.sleep(0.05)
        relay = psutil.Process(stack.states()["relay"].pid).cpu_times()
        self.note("snapshot", time.monotonic() - begun, cpu=relay.user + relay.system)

    def page(self, settings: Settings, days: int, screenshot: Path | None) -> None:
        """Measure the page's addresses: the median of repeated requests."""
        if days:
            with closing(ClickHouse(settings.clickhouse)) as clickhouse:
                write_history(clickhouse, load_catalog(settings.models), days, KEPT)
        table = next(iter(metadata(self.folder).tables))
        with TemporaryDirectory() as home:
            migrate(Path(home))
            environment = {**self.environment, **airflow_environment(Path(home), settings)}
            environment["PYTHONPATH"] += f"{os.pathsep}{self.folder}"
            with api_server(environment) as address, logged_in(address) as client:
                for path in PAGES:
                    answer = measured(client, path.format(table=table), REPEATS)
                    self.note(path, answer["median"] / 1000, kilobytes=answer["kB"])
                if screenshot:
                    with chromium() as browser:
                        page = log_in(browser, address, "user", "user", viewport=DESK)
                        page.goto("/sluice/")
                        page.screenshot(path=screenshot)


@contextmanager
def logged_in(address: str) -> Iterator[httpx.Client]:
    """Open a client of an Airflow as a user who may see rows."""
    with httpx.Client(base_url=address, timeout=120) as client:
        login = {"username": "user", "password": "user"}
        token = client.post("/auth/token", json=login).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def queries(settings: Settings) -> int:
    """Return the number of queries that ClickHouse has got, this one included."""
    return int(wiring.query(settings, QUERIES)[1][0][0])


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def metadata(folder: Path) -> Any:
    """Return the metadata of the models below a folder, imported once."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(table_models.PACKAGE).Base.metadata


@contextmanager
def model_set(tables: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """Write models; yield their folder, and the variables of a stack that has them."""
    with TemporaryDirectory(prefix="sluice-bench-", ignore_cleanup_errors=True) as home:
        folder = Path(home) / "project"
        table_models.write_models(folder, tables)
        environment = stack_environment(Path(home) / "home") | {
            "SLUICE_MODELS": table_models.PACKAGE,
            "SLUICE_OUT": str(folder),
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "plugins"), str(folder)]),
        }
        os.environ.update(environment)  # of which the stack reads
        yield folder, environment


def measure(tables: int, options: argparse.Namespace) -> list[Measure]:
    """Measure the chosen steps at a number of tables; those that they need run as well."""
    chosen = options.only.split(",")
    with model_set(tables) as (folder, environment):
        environment |= {"SLUICE_RELAY_ACK": "broker"}  # the snapshot waits for no drain
        os.environ.update(environment)
        bench = Bench(folder, tables, environment)
        bench.sluice("generate", "generate")
        if "imports" in chosen:
            bench.imports()
        if set(chosen) & set(STEPS[2:]):
            with started(environment) as (settings, stack):
                bench.settings = settings
                with make_engine(settings.postgres).begin() as connection:
                    table_models.create(connection, metadata(folder), options.rows)
                _with_services(bench, settings, stack, options)
    return bench.measures


def _with_services(
    bench: Bench, settings: Settings, stack: Stack, options: argparse.Namespace
) -> None:
    chosen = options.only.split(",")
    bench.sluice("init, first", "init")
    if "init" in chosen:
        bench.sluice("init, again", "init")
    if set(chosen) & set(STEPS[3:]):
        bench.snapshot(settings, stack)
        bench.sluice("drain, first", "drain", "--until-empty")
    if "drain" in chosen:
        bench.sluice("rebuild, first", "rebuild")
        bench.sluice("drain, empty", "drain")
        bench.sluice("rebuild, empty", "rebuild")
    if "quality" in chosen or "page" in chosen:
        bench.sluice("quality", "quality")
    if "status" in chosen:
        bench.sluice("status --json", "status", "--json")
        bench.sluice("doctor", "doctor")
    if "page" in chosen:
        bench.page(settings, options.days, options.screenshot)


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", default="4,300", help="numbers of tables")
    parser.add_argument("--only", default=",".join(STEPS), help=f"of {', '.join(STEPS)}")
    parser.add_argument("--rows", type=int, default=100, help="rows of each table")
    parser.add_argument("--days", type=int, default=0, help="days of history behind the page")
    parser.add_argument("--screenshot", type=Path, help="a PNG of the page to write")
    return parser.parse_args()


def in_own_process(tables: int, options: argparse.Namespace) -> None:
    """Measure in a process of its own, as a process imports one package of models."""
    command = [sys.executable, __file__, "--only", options.only, "--rows", str(options.rows)]
    command += ["--days", str(options.days)]
    command += ["--screenshot", str(options.screenshot)] if options.screenshot else []
    subprocess.run([*command, "--tables", str(tables)], check=True)


def main() -> None:
    """Measure each number of tables, and print the results."""
    options = parsed()
    numbers = [int(number) for number in options.tables.split(",")]
    if len(numbers) > 1:
        for tables in numbers:
            in_own_process(tables, options)
        return
    print("| tables | step | seconds | CPU s | queries | kB |\n|---|---|---|---|---|---|")
    measures = measure(numbers[0], options)
    print(json.dumps([asdict(one) for one in measures]))


if __name__ == "__main__":
    main()
