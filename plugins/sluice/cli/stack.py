"""Starts, stops and shows the embedded stack on the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sluice.cli.compose import write_compose_secrets
from sluice.cli.output import say, say_json
from sluice.cli.tables import print_table
from sluice.clients import slot_loss
from sluice.errors import NotReady, QualityFailed, SluiceError, WrongUsage
from sluice.settings import (
    WAREHOUSE_POOL,
    WAREHOUSE_SLOTS,
    Settings,
    read_secrets,
    read_settings,
)

app = typer.Typer()

_DAGS = ("sluice_drain", "sluice_rebuild", "sluice_quality")
_REVENUE = """
SELECT customer_country AS country, product_category AS category,
    sum(quantity * price) AS revenue, count() AS items
FROM olap.fact_order_item
GROUP BY country, category ORDER BY revenue DESC LIMIT 10
"""


@app.command()
def up(
    context: typer.Context,
    demo: Annotated[bool, typer.Option(help="Load demo traffic into an empty store.")] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is healthy.")] = False,
) -> None:
    """Start the whole pipeline on this machine, and show the first facts."""
    from sluice import wiring
    from sluice.embedded.airflow_service import migrate_command
    from sluice.embedded.clickhouse import fetch_library
    from sluice.embedded.postgres import ensure_database
    from sluice.embedded.programs import AIRFLOW, PIPELINE, STORES
    from sluice.embedded.stack import Stack
    from store_api.database import create_tables

    report = _clock()
    fetch_library()
    stack = Stack(context.obj)
    stack.launch()
    settings = read_settings({**os.environ, "SLUICE_HOME": str(context.obj.home)})
    stack = Stack(settings)  # the password is known now
    stack.start(STORES, report)
    for name in (settings.postgres.database, "airflow"):
        ensure_database(settings.postgres, name)
    scripts = Path(stack.programs["airflow-scheduler"].command[0]).parent
    migration = stack.begin("airflow-migrate", migrate_command(scripts))
    create_tables(settings.postgres)
    wiring.initialise(settings)
    report("topics, tables and views are ready")
    stack.restart(PIPELINE, report)
    if migration.wait():
        raise NotReady("airflow db migrate failed", remedy=f"see: {stack.logs}/airflow-migrate.log")
    report("Airflow's metadata database is ready")
    if demo:
        _load_demo(settings, report)
    stack.start(AIRFLOW, report)
    _first_facts(settings, report)
    _show(settings)
    if not detach:
        _follow(stack.logs)
        stack.stop()


@app.command()
def down(
    context: typer.Context,
    wipe: Annotated[bool, typer.Option("--wipe", help="Also delete all data.")] = False,
) -> None:
    """Stop everything that `up` started; keep the data."""
    from sluice.embedded.stack import Stack

    settings: Settings = context.obj
    ended = "stopped" if Stack(settings).stop() else "nothing was running"
    if wipe:
        shutil.rmtree(settings.home, ignore_errors=True)
    kept = f"data is kept in {settings.home}" if settings.home.exists() else "no data is kept"
    say(f"{ended}; {kept}")


@app.command()
def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show services, rows on both sides, freshness, the slot and the last DAG runs."""
    state = read_status(context.obj)
    if as_json:
        say_json(state, indent=2)
    else:
        _print_status(state)
    if not state["healthy"]:
        raise NotReady("the pipeline is not healthy", remedy="see: sluice logs NAME")


@app.command()
def logs(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A service, as `sluice status` lists it.")],
    follow: Annotated[bool, typer.Option("-f", help="Follow the log.")] = False,
) -> None:
    """Print the last lines of a service's log."""
    settings: Settings = context.obj
    path = settings.home / "logs" / f"{name}.log"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.log")))
        raise WrongUsage(f"there is no log {name!r} (known: {known or 'none yet'})")
    _tail("-n", "100", *(["-f"] if follow else []), str(path))


@app.command()
def env(
    context: typer.Context,
    write: Annotated[
        bool, typer.Option("--write", help="Write Docker Compose's secrets to ./.env instead.")
    ] = False,
) -> None:
    """Print export lines for other clients, with addresses and passwords."""
    if write:
        added = write_compose_secrets(Path(".env"))
        say(f".env: {', '.join(added) or 'nothing'} added")
        return
    settings: Settings = context.obj
    postgres, clickhouse = settings.postgres, settings.clickhouse
    values = {
        "PGHOST": postgres.host,
        "PGPORT": postgres.port,
        "PGUSER": postgres.user,
        "PGPASSWORD": postgres.password.get_secret_value(),
        "PGDATABASE": postgres.database,
        "CLICKHOUSE_HOST": clickhouse.host,
        "CLICKHOUSE_PORT": clickhouse.port,
        "CLICKHOUSE_HTTP_PORT": clickhouse.http_port,
        "CLICKHOUSE_USER": clickhouse.user,
        "CLICKHOUSE_PASSWORD": clickhouse.password.get_secret_value(),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap,
        "AIRFLOW_URL": f"http://127.0.0.1:{settings.airflow_port}",
        "AIRFLOW_USER": "admin",
        "AIRFLOW_PASSWORD": read_secrets(settings.home).get("airflow", ""),
    }
    for name, value in values.items():
        text = str(value).replace("'", "'\\''")
        typer.echo(f"export {name}='{text}'")  # as it is: a shell reads it


def read_status(settings: Settings) -> dict[str, Any]:
    """Return the status that `sluice status --json` prints; parts that do not answer are empty."""
    from sluice import wiring
    from sluice.capture import metrics as telemetry
    from sluice.embedded.stack import Stack

    state: dict[str, Any] = {"services": {}, "tables": {}, "fact": {}, "slot": {}, "dags": {}}
    errors: list[str] = []
    try:
        services = Stack(settings).states()
        state["services"] = {name: asdict(service) for name, service in services.items()}
    except SluiceError as error:
        errors.append(str(error))
    metrics = settings.relay.metrics
    state["relay"] = telemetry.read_status(*metrics) if metrics else {}
    healthy = all(service["state"] == "running" for service in state["services"].values())
    try:
        state.update(wiring.status(settings))
        state["dags"] = _dag_states(settings)
    except SluiceError as error:
        errors.append(str(error))
    if errors:
        state["error"] = "\n".join(errors)
    failed = any(dag["last_state"] == "failed" for dag in state["dags"].values())
    return {**state, "healthy": healthy and not failed and not errors and not state.get("troubles")}


def _dag_states(settings: Settings) -> dict[str, Any]:
    from sluice.embedded.stack import Stack

    api = Stack(settings).airflow()
    states = {}
    for dag_id in sorted(api.dag_ids()):
        run = api.last_run(dag_id) or {}
        states[dag_id] = {
            "last_state": run.get("state"),
            "last_end": run.get("end_date"),
            "last_duration_s": run.get("duration"),
        }
    return states


def _load_demo(settings: Settings, report: Callable[[str], None]) -> None:
    from store_api.demo import load

    loaded = load(settings)
    if loaded:
        report("demo traffic: " + ", ".join(f"{count} {name}" for name, count in loaded.items()))


def _first_facts(settings: Settings, report: Callable[[str], None]) -> None:
    """Wait until Airflow has drained, rebuilt and checked."""
    from sluice.clients.postgres import PostgresSource
    from sluice.embedded.stack import Stack

    # A busy machine may take long for the first answers, and giving up helps no one.
    api, deadline = Stack(settings).airflow(seconds=60), time.monotonic() + 480
    api.ensure_pool(WAREHOUSE_POOL, WAREHOUSE_SLOTS)
    while set(_DAGS) - api.dag_ids():
        _pause(deadline, "Airflow has not parsed the DAGs")
    source = PostgresSource(settings.postgres)
    while source.find_slot(settings.relay.slot) is None:  # earlier checks are skipped
        _pause(deadline, "the relay has not finished its snapshot", "sluice logs relay")
    before = (api.last_run("sluice_quality") or {}).get("dag_run_id")
    started = {dag_id: (api.last_run(dag_id) or {}).get("dag_run_id") for dag_id in _DAGS}
    api.trigger("sluice_drain")
    report("Airflow drains, rebuilds and checks")
    while True:
        run = api.last_run("sluice_quality")
        if run and run["dag_run_id"] != before and run["state"] in {"success", "failed"}:
            if run["state"] == "success":
                report("sluice_quality: ClickHouse equals Postgres")
                return
            before = run["dag_run_id"]
        _pause(deadline, f"no check of Airflow's has passed (previous runs: {started})")


def _pause(deadline: float, what: str, log: str = "sluice logs airflow-scheduler") -> None:
    if time.monotonic() > deadline:
        raise QualityFailed(what, remedy=f"see: sluice status, {log}")
    time.sleep(0.5)


def _show(settings: Settings) -> None:
    from sluice import wiring

    _print_tables(wiring.status(settings))
    say("", "Revenue by country and category, from olap.fact_order_item:")
    print_table(*wiring.query(settings, _REVENUE))
    password = read_secrets(settings.home)["airflow"]
    say("", f"Airflow     http://127.0.0.1:{settings.airflow_port}  (admin / {password})")
    say(f"Store API   http://127.0.0.1:{settings.api_port}/docs")
    clickhouse = settings.clickhouse
    play = f"http://127.0.0.1:{clickhouse.http_port}/play?user={clickhouse.user}"
    say(f"ClickHouse  {play}  ({clickhouse.password.get_secret_value()})")
    say('Other clients: eval "$(.venv/bin/sluice env)"; stop the stack: make down')


def _print_status(state: dict[str, Any]) -> None:
    services = [
        (name, service["state"], service["pid"] or "", service["address"])
        for name, service in state["services"].items()
    ]
    print_table(["service", "state", "pid", "address"], services)
    if state["tables"]:
        _print_tables(state)
    if state["slot"]:
        say(_slot_line(state["slot"]))
    if state["relay"]:
        relay = state["relay"]
        snapshot = relay["snapshot"]
        say(
            f"relay: {relay['state']}, {relay['events_per_second']} events/s,"
            f" {relay['seconds_behind']} s behind; snapshot: {snapshot['rows']} rows,"
            f" {snapshot['ranges_done']} of {snapshot['ranges']} ranges"
        )
    for dag_id, dag in state["dags"].items():
        say(f"{dag_id}: {dag['last_state']} at {dag['last_end']}")
    for name, trouble in state.get("troubles", {}).items():
        say(*f"{name}: {trouble}".split("\n"), err=True)
    if "error" in state:
        say(*state["error"].split("\n"), err=True)


def _slot_line(slot: dict[str, Any]) -> str:
    name, reason = slot["name"], slot["invalidation"]
    if reason:
        return f"slot {name}: invalidated, {slot_loss.cause(reason)}; {slot_loss.remedy(reason)}"
    if slot["wal_status"] is None:
        return f"slot {name}: does not exist"
    return f"slot {name}: WAL {slot['wal_status']}, {slot['lag_bytes']:,} bytes unconfirmed"


def _print_tables(state: dict[str, Any]) -> None:
    names = ["table", "Postgres rows", "ClickHouse rows", "pending", "dead letters", "freshness s"]
    rows = [
        (name, *("" if value is None else value for value in table.values()))
        for name, table in state["tables"].items()
    ]
    rows += [
        (name, *("" if rows is None else rows for rows in (fact["expected_rows"], fact["rows"])))
        for name, fact in state["facts"].items()
    ]
    print_table(names, [(*row, *[""] * (len(names) - len(row))) for row in rows])


def _follow(folder: Path) -> None:
    say("", "Following the logs; Ctrl-C stops the stack.")
    with suppress(KeyboardInterrupt):
        _tail("-n", "0", "-F", *map(str, sorted(folder.glob("*.log"))))


def _tail(*arguments: str) -> None:
    """Print the output of `tail`, escaped: logs of services contain foreign text."""
    with subprocess.Popen(["tail", *arguments], stdout=subprocess.PIPE) as tail:  # noqa: S607
        assert tail.stdout is not None
        try:
            for line in tail.stdout:
                say(line.decode(errors="backslashreplace").removesuffix("\n"))
        finally:
            tail.terminate()


def _clock() -> Callable[[str], None]:
    started = time.monotonic()

    def report(text: str) -> None:
        say(f"[{time.monotonic() - started:5.1f} s] {text}")

    return report
