"""Starts, stops and shows the embedded stack on the command line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli import completion, model_tables
from sluice.cli.compose import write_compose_secrets
from sluice.cli.extras import require_embedded
from sluice.cli.help import LOOK, RUN, SET_UP
from sluice.cli.output import say, say_json, say_progress
from sluice.cli.places import addresses
from sluice.cli.status import print_status, print_tables, read_status
from sluice.cli.table_status import print_table_status
from sluice.cli.tables import print_table
from sluice.cli.their_broker import require_broker
from sluice.errors import NotReady, WrongUsage
from sluice.execution.progress import Line
from sluice.settings import Settings, read_secrets, read_settings, require_project

if TYPE_CHECKING:
    from sluice.embedded.stack import Stack

app = typer.Typer()

_EXAMPLE = "fact_order_item"
_NAMED = 5
_REVENUE = """
SELECT customer_country AS country, product_category AS category,
    sum(quantity * price) AS revenue, count() AS items
FROM olap.fact_order_item
GROUP BY country, category ORDER BY revenue DESC LIMIT 10
"""


@app.command(rich_help_panel=RUN)
def up(
    context: typer.Context,
    demo: Annotated[bool, typer.Option(help="Load demo traffic into an empty store.")] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is healthy.")] = False,
    create_tables: Annotated[
        bool,
        typer.Option(
            "--create-tables",
            help="Create the missing tables of your models, in this stack's PostgreSQL only.",
        ),
    ] = False,
) -> None:
    """Start the whole pipeline on this machine, and show the first facts."""
    require_embedded()
    if create_tables:
        model_tables.require_own_server(context.obj)
    from sluice import wiring
    from sluice.cli import first_facts
    from sluice.embedded.airflow_service import migrate_command
    from sluice.embedded.clickhouse import fetch_library
    from sluice.embedded.kafka import fetch_kafka
    from sluice.embedded.postgres import ensure_database
    from sluice.embedded.programs import PIPELINE, STORES, is_example
    from sluice.embedded.stack import Stack

    report = _clock()
    _check_code(context.obj)
    theirs = not context.obj.kafka.embedded
    known = require_broker(context.obj, report) if theirs else True
    if not context.obj.postgres.embedded:
        model_tables.require_tables(context.obj)
    fetch_library()
    if not theirs:
        fetch_kafka(context.obj.maven)
    stack = Stack(context.obj)
    stack.launch()
    settings = read_settings({**os.environ, "SLUICE_HOME": str(context.obj.home)})
    stack = Stack(settings)  # the password is known now
    stack.start([name for name in STORES if name in stack.programs], report)
    ensure_database(settings.metadata, "airflow")
    if settings.postgres.embedded:
        ensure_database(settings.postgres, settings.postgres.database)
        if not is_example(settings):
            model_tables.prepare(settings, report, create=create_tables)
    scripts = Path(stack.programs["airflow-scheduler"].command[0]).parent
    migration = stack.begin("airflow-migrate", migrate_command(scripts))
    _create_example(settings)
    for line in wiring.initialise(settings):
        report(line)
    if not known:
        require_broker(settings, report)
    report("topics, tables and views are ready")
    stack.restart([name for name in PIPELINE if name in stack.programs], report)
    stack.note_settings()  # which the pipeline's programs have now
    if migration.wait():
        raise NotReady("airflow db migrate failed", remedy=f"see: {stack.logs}/airflow-migrate.log")
    report("Airflow's metadata database is ready")
    if demo and is_example(settings):
        _load_demo(settings, report)
    _start_airflow(stack, settings.models, report)
    # A busy machine may take long for the first answers.
    first_facts.wait(settings, stack.airflow(seconds=60), report)
    _show(settings)
    if not detach:
        _follow(stack)


@app.command(rich_help_panel=RUN)
def down(
    context: typer.Context,
    wipe: Annotated[bool, typer.Option("--wipe", help="Also delete all data, once asked.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
) -> None:
    """Stop everything that `up` started; keep the data."""
    require_embedded()
    from sluice.embedded.stack import Stack

    settings: Settings = context.obj
    stack = Stack(settings)
    if wipe and not yes and stack.data():
        _confirm_wipe(settings)
    ended = "stopped" if stack.stop() else "nothing was running"
    if wipe:
        stack.wipe()
    kept = f"data is kept in {settings.home}" if stack.data() else "no data is kept"
    say(f"{ended}; {kept}")


def _confirm_wipe(settings: Settings) -> None:
    """Ask whether to delete the data; the answer no ends the command, and nothing is changed."""
    if not sys.stdin.isatty():
        raise WrongUsage(
            f"--wipe deletes the data in {settings.home}, and nobody can be asked: stdin is no"
            " terminal",
            remedy="run: sluice down --wipe --yes",
        )
    say(f"This deletes the databases, Airflow's history, logs and passwords in {settings.home}.")
    typer.confirm("Delete them?", abort=True)


@app.command(rich_help_panel=LOOK)
def status(
    context: typer.Context,
    table: Annotated[
        str,
        typer.Argument(
            help="A source table, for its checks and repairs.", autocompletion=completion.tables
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Print every table, also of more than 20.")
    ] = False,
) -> None:
    """Show services, rows on both sides, freshness, the slot and the last DAG runs."""
    from sluice import wiring

    if table and every:
        raise WrongUsage("--all excludes a table's name")
    require_project(os.environ, context.obj.models)
    state = wiring.table_status(context.obj, table) if table else read_status(context.obj)
    if as_json:
        say_json(state, indent=2)
    elif table:
        print_table_status(state)
    else:
        print_status(state, every=every)
    if not state["healthy"]:
        raise NotReady(
            f"{table or 'the pipeline'} is not healthy",
            remedy="run the commands named with its problems",
        )


@app.command(rich_help_panel=LOOK)
def logs(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A service, as `sluice status` lists it.", autocompletion=completion.logs
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=1_000_000, help="The last lines to print.")
    ] = 100,
) -> None:
    """Print the last lines of a service's log."""
    settings: Settings = context.obj
    _require_own(settings, name)
    paths = {path.stem: path for path in (settings.home / "logs").glob("*.log")}
    if name not in paths:
        known = ", ".join(sorted(paths))
        remedy = None if paths else "start the stack, which writes them: sluice up"
        raise WrongUsage(f"there is no log {name!r} (known: {known or 'none yet'})", remedy=remedy)
    # -F: the supervisor replaces a log that grows too large.
    _tail("-n", str(lines), *(["-F"] if follow else []), str(paths[name]))


def _require_own(settings: Settings, name: str) -> None:
    """Require that a service of this name is one of this stack."""
    if address := settings.external.get(name):
        raise WrongUsage(
            f"the {name} at {address} is not of this stack, which has no log of it",
            remedy="see its log where it runs; what it answers: sluice doctor",
        )


@app.command(rich_help_panel=SET_UP)
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
        **_kafka_options(settings.kafka.options),
        "AIRFLOW_URL": f"http://127.0.0.1:{settings.airflow_port}",
        "AIRFLOW_USER": "admin",
        "AIRFLOW_PASSWORD": read_secrets(settings.home).get("airflow", ""),
    }
    for name, value in values.items():
        text = str(value).replace("'", "'\\''")
        typer.echo(f"export {name}='{text}'")  # as it is: a shell reads it


def _kafka_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return how to connect to the broker, under the names that redpanda-connect.yaml reads."""
    names = {
        "KAFKA_SASL_MECHANISM": "sasl.mechanisms",
        "KAFKA_SASL_USERNAME": "sasl.username",
        "KAFKA_SASL_PASSWORD": "sasl.password",
        "KAFKA_TLS_CA_FILE": "ssl.ca.location",
    }
    tls = str(options.get("security.protocol", "")).upper() in {"SSL", "SASL_SSL"}
    known = {name: options[option] for name, option in names.items() if option in options}
    return {**known, **({"KAFKA_TLS": "true"} if tls else {})}


def _check_code(settings: Settings) -> None:
    """Name faults of the models before anything starts, and code that is not the user's alone."""
    from sluice.catalog import load_catalog

    load_catalog(settings.models)
    warn_of_open_code(settings)


def warn_of_open_code(settings: Settings) -> None:
    """Say what every account of this machine may change of the code that Airflow runs."""
    from sluice.embedded.airflow_service import code_open_to_all

    if found := code_open_to_all(settings):
        places = " ".join(shlex.quote(str(path)) for path in found[:_NAMED])
        rest = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        say(
            f"warning: every account of this machine may change code that Airflow runs as you;"
            f" run: chmod o-w {places}{rest}",
            err=True,
        )


def _create_example(settings: Settings) -> None:
    from sluice.embedded.programs import is_example

    if is_example(settings):
        from store_api.database import create_tables

        create_tables(settings.postgres)


def _load_demo(settings: Settings, report: Callable[[str], None]) -> None:
    from store_api.demo import load

    loaded = load(settings)
    if loaded:
        report("demo traffic: " + ", ".join(f"{count} {name}" for name, count in loaded.items()))


def _show(settings: Settings) -> None:
    from sluice import wiring
    from sluice.embedded.programs import is_example

    state = wiring.status(settings)
    print_tables(state)
    if _EXAMPLE in state["facts"]:
        say("", f"Revenue by country and category, from olap.{_EXAMPLE}:")
        print_table(*wiring.query(settings, _REVENUE))
    password = read_secrets(settings.home)["airflow"]
    say("", f"Airflow     http://127.0.0.1:{settings.airflow_port}  (admin / {password})")
    places = addresses(settings)
    if is_example(settings):
        say(f"Store API   {places['store']}")
    secret = settings.clickhouse.password.get_secret_value()
    say(f"ClickHouse  {places['play']}  ({secret})")
    program = sys.argv[0]
    say(f'Other clients: eval "$({program} env)"; stop the stack: {program} down')


def _start_airflow(stack: Stack, models: str, report: Callable[[str], None]) -> None:
    """Start Airflow; if the models changed, its API server again, whose page shows them."""
    from sluice.catalog.stored import generated_at
    from sluice.embedded.programs import AIRFLOW

    stack.halt_older("airflow-api-server", generated_at(models))
    stack.start(AIRFLOW, report)


def _follow(stack: Stack) -> None:
    """Print the logs until Ctrl-C, which stops the stack, or until another command stops it."""
    own = stack.supervisor()

    def runs() -> bool:
        return stack.supervisor() == own

    say("", "Following the logs; Ctrl-C stops the stack.")
    with suppress(KeyboardInterrupt):
        _tail("-n", "0", "-F", *map(str, sorted(stack.logs.glob("*.log"))), during=runs)
    if runs():
        stack.stop()
    else:
        say("another command stopped the stack")


def _tail(*arguments: str, during: Callable[[], bool] = lambda: True) -> None:
    """Print the output of `tail`, escaped: logs of services contain foreign text.

    Args:
        during: asked every second; the output ends when it returns false.
    """

    def watch(tail: subprocess.Popen[bytes]) -> None:
        while tail.poll() is None:
            if not during():
                tail.terminate()
            time.sleep(1)

    with subprocess.Popen(["tail", *arguments], stdout=subprocess.PIPE) as tail:  # noqa: S607
        assert tail.stdout is not None
        threading.Thread(target=watch, args=[tail], daemon=True).start()
        try:
            for line in tail.stdout:
                say(line.decode(errors="backslashreplace").removesuffix("\n"))
        finally:
            tail.terminate()


def _clock() -> Callable[[str], None]:
    started = time.monotonic()

    def report(text: str) -> None:
        line = f"[{time.monotonic() - started:5.1f} s] {text}"
        say_progress(Line(line, text.amount) if isinstance(text, Line) else line)

    return report
