"""Runs the pipeline's steps on the command line, by the same code as the DAGs."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sluice.cli import completion
from sluice.cli.help import LOOK, REPAIR, RUN, SET_UP
from sluice.cli.output import say, say_json
from sluice.errors import RowsRejected, StaleGenerated, WrongUsage
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.catalog import Fact
    from sluice.star.rebuild import RebuildReport

app = typer.Typer()

_DAY = ["%Y-%m-%d"]
_LAST_OFFSET = 2**63 - 1
TABLES = Annotated[
    list[str] | None,
    typer.Argument(help="Source tables; all by default.", autocompletion=completion.tables),
]


@app.command(rich_help_panel=SET_UP)
def generate(
    context: typer.Context,
    models: Annotated[str, typer.Option(help="The module with the models.")] = "",
    out: Annotated[Path | None, typer.Option(help="The folder to write to.")] = None,
    profile: Annotated[
        str, typer.Option(help="Type mapping: lossless or compact; by default the last one used.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; print what is stale, and exit 1.")
    ] = False,
) -> None:
    """Generate schemas, DDL and queries from the models."""
    from sluice.catalog import read_models
    from sluice.data_types.mapping import PROFILES
    from sluice.generate.files import difference, write_files

    settings: Settings = context.obj
    if profile not in {"", *PROFILES}:
        raise WrongUsage(f"no profile {profile!r} (known: {', '.join(PROFILES)})")
    logging.getLogger("sluice.catalog").setLevel(logging.INFO)  # why there is no catalog's file
    catalog, out = read_models(models or settings.models, profile), out or settings.out
    cluster = settings.clickhouse.cluster
    say(*map(str, catalog.left_out))
    if check:
        stale = difference(catalog, out, cluster)
        say(*(stale or "generated files are current").rstrip("\n").split("\n"))
        if stale:
            raise StaleGenerated(remedy="run: sluice generate")
        return
    changed = write_files(catalog, out, cluster)
    for path in changed:
        say(f"wrote {path}" if (out / path).exists() else f"removed {path}")
    say(f"{len(changed)} files changed")


@app.command(rich_help_panel=SET_UP)
def init(
    context: typer.Context,
    new_mask_key: Annotated[
        bool,
        typer.Option(
            "--new-mask-key", help="SLUICE_MASK_KEY was changed on purpose, for all processes."
        ),
    ] = False,
) -> None:
    """Create or update topics, publication, ClickHouse tables and views to match the models."""
    from sluice.catalog import load_catalog
    from sluice.wiring import initialise

    say(*map(str, load_catalog(context.obj.models).left_out))
    logging.getLogger("sluice.star").setLevel(logging.INFO)  # progress with many tables
    for line in initialise(context.obj, new_mask_key=new_mask_key):
        say(line)
    say("topics, publication, tables and views match the models")


@app.command(rich_help_panel=RUN)
def relay(
    context: typer.Context,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Copy all tables again first.")
    ] = False,
) -> None:
    """Run the relay in the foreground: stream PostgreSQL's changes to the topics."""
    from sluice.capture.relay import run
    from sluice.catalog import load_catalog
    from sluice.wiring.bulk import first_loads

    settings: Settings = context.obj
    logging.getLogger("sluice").setLevel(logging.INFO)
    catalog = load_catalog(settings.models)
    run(settings, catalog, snapshot=snapshot, loads=partial(first_loads, settings))


@app.command(rich_help_panel=SET_UP)
def source(
    context: typer.Context,
    name: Annotated[Literal["relay", "connect"], typer.Argument(help="The new source.")],
) -> None:
    """Switch to another change source, after the current one was stopped and drained."""
    from sluice import wiring

    for line in wiring.change_source(context.obj, name) or [f"{name} is the source of all tables"]:
        say(line)


@app.command(rich_help_panel=RUN)
def drain(
    context: typer.Context,
    tables: TABLES = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="Drain everything that is on the topics now.")
    ] = False,
    fail_on_reject: Annotated[
        bool, typer.Option("--fail-on-reject", help="Exit 1 when events were rejected.")
    ] = False,
    pass_rejects: Annotated[
        bool,
        typer.Option(
            "--pass-rejects",
            help="Accept any number of invalid events as dead letters, of the named tables.",
        ),
    ] = False,
    skip: Annotated[
        int | None,
        typer.Option(
            "--skip",
            min=0,
            metavar="OFFSET",
            help="Only skip the record at this offset, which must be the named table's next.",
        ),
    ] = None,
) -> None:
    """Drain the topics' changes into ClickHouse, once."""
    from sluice import wiring
    from sluice.execution.outcomes import Outcomes

    logging.getLogger("sluice.drain.drain").setLevel(logging.INFO)  # progress of a long drain
    settings: Settings = context.obj
    if skip is not None:
        if not tables or len(tables) > 1 or until_empty or pass_rejects or fail_on_reject:
            raise WrongUsage("--skip takes one table, and no other option")
        if skip > _LAST_OFFSET:
            raise WrongUsage(f"--skip {skip}: no topic has such an offset")
        say(wiring.skip(settings, tables[0], skip))
        say(f"its changes may be missing; run: sluice resync {tables[0]}")
        return
    if pass_rejects and not tables:
        raise WrongUsage("--pass-rejects: name the tables")
    rounds = (
        wiring.drain_until_empty(settings, tables or (), pass_rejects=pass_rejects)
        if until_empty
        else [wiring.drain_all(settings, tables or (), pass_rejects=pass_rejects)]
    )
    rejected, outcomes = Counter[str](), Outcomes()
    for done in rounds:
        outcomes.troubles.update(done.troubles)
        for report in done.reports:
            say(report.sentence())
            rejected[report.table] += report.rejected
    if not rejected and not outcomes.troubles:
        say("no events")
    for table, count in rejected.items():
        if count and fail_on_reject:
            with outcomes.of(table):
                raise RowsRejected(
                    f"{table}: {count} events were rejected",
                    remedy=f"see: sluice dead-letters list --table {table}",
                )
    outcomes.require()


@app.command(rich_help_panel=RUN)
def rebuild(
    context: typer.Context,
    full: Annotated[
        bool, typer.Option("--full", help="Rebuild all rows in a shadow table, then exchange it.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Undo the last full rebuild.")
    ] = False,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=_DAY, help="First day to recompute (UTC).")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=_DAY, help="Last day to recompute.")
    ] = None,
) -> None:
    """Update the facts with the drained changes."""
    from sluice import wiring
    from sluice.catalog import load_catalog
    from sluice.execution.outcomes import each

    settings: Settings = context.obj
    if full + rollback + (first is not None or last is not None) > 1:
        raise WrongUsage("--full, --rollback and --from with --to exclude one another")
    if (first is None) != (last is None):
        raise WrongUsage("--from and --to go together")
    logging.getLogger("sluice.star.rebuild").setLevel(logging.INFO)
    if not (full or rollback or first):
        done = wiring.rebuild_all(settings)
        for report in done.results:
            say(report.sentence())
        if not done.results and not done.troubles:
            say("no changes")
        done.require()
        return
    facts = load_catalog(settings.models).facts
    if first is not None:
        facts = tuple(fact for fact in facts if fact.date) or facts

    def step(fact: Fact) -> RebuildReport:
        if first is not None and last is not None:
            return wiring.backfill(settings, fact.name, first.date(), last.date())
        if rollback:
            return wiring.rollback(settings, fact.name)
        return wiring.rebuild(settings, fact.name, full=True)

    for report in each(step, facts):
        say(report.sentence())


@app.command(rich_help_panel=LOOK)
def quality(
    context: typer.Context,
    tables: TABLES = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every column of every row.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do not resume an interrupted deep check.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare PostgreSQL with ClickHouse as of one point of the WAL; exit 1 if a check fails."""
    from sluice import wiring

    if deep:
        logging.getLogger("sluice.quality.deep_check").setLevel(logging.INFO)
    report = wiring.quality(context.obj, tables or (), deep=deep, restart=restart)
    if as_json:
        checks = [asdict(check) | {"repair": check.advice} for check in report.checks]
        say_json({"checks": checks, "passed": report.passed}, indent=2)
    else:
        for line in [*report.findings, *report.sums]:
            say(line)
        if report.unequal:
            say(f"for the values of both sides run: sluice status {report.unequal[0]}")
    report.require_passed()


@app.command(rich_help_panel=REPAIR)
def resync(
    context: typer.Context,
    tables: TABLES = None,
    from_key: Annotated[str, typer.Option(help="First key; parts separated by commas.")] = "",
    to_key: Annotated[str, typer.Option(help="Last key, included.")] = "",
    key: Annotated[list[str] | None, typer.Option(help="Only this key; may be repeated.")] = None,
    diff: Annotated[
        bool,
        typer.Option(
            "--diff", help="Compare first, and read only what differs; all tables by default."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare, and print what would change.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do not resume an interrupted run.")
    ] = False,
) -> None:
    """Read rows again from PostgreSQL, while the pipeline keeps running."""
    from sluice import wiring
    from sluice.catalog import load_catalog
    from sluice.execution.outcomes import Outcomes

    settings: Settings = context.obj
    logging.getLogger("sluice").setLevel(logging.INFO)
    chosen = load_catalog(settings.models).select(tables or [])
    if not (tables or diff or dry_run):
        raise WrongUsage("no table is named", remedy="for all tables run: sluice resync --diff")
    if (from_key or to_key or key) and (diff or len(chosen) > 1):
        raise WrongUsage("keys need exactly one table, and exclude --diff")
    if diff and not dry_run:
        for line in wiring.repair(settings, tables or ()):
            say(line)
        return
    rows: dict[str, Any] = {"lower": from_key, "upper": to_key, "keys": key or ()}
    outcomes = Outcomes()
    for table in chosen:
        with outcomes.of(table.name):
            if dry_run:
                say(wiring.forecast(settings, table.name, **rows))
                continue
            report = wiring.resync(settings, table.name, **rows, restart=restart)
            say(report.sentence())
            report.require_stored()
    outcomes.require()


@app.command(rich_help_panel=REPAIR)
def erase(
    context: typer.Context,
    table: Annotated[
        str, typer.Argument(help="The source table.", autocompletion=completion.tables)
    ],
    key: Annotated[str, typer.Option(help="The row's key; parts separated by commas.")],
    reason: Annotated[str, typer.Option(help="Why, for the record in cdc.erasures.")],
    former: Annotated[
        bool,
        typer.Option("--former", help="Keep the present row of PostgreSQL; erase what it was."),
    ] = False,
) -> None:
    """Erase a row from history, facts, dead letters and topic, after PostgreSQL deleted it."""
    from sluice import wiring

    for line in wiring.erase(context.obj, table, key, reason=reason, former=former):
        say(line)


@app.command(rich_help_panel=REPAIR)
def recover(context: typer.Context) -> None:
    """Recover from a lost slot, a failover or a gap: compare and repair all tables."""
    from sluice import wiring

    logging.getLogger("sluice").setLevel(logging.INFO)
    for line in wiring.recover(context.obj):
        say(line)


@app.command(rich_help_panel=RUN)
def maintain(
    context: typer.Context,
    guard_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Keep delete markers younger than this, in days.")
    ] = 30,
) -> None:
    """Remove old delete markers and history, merge parts; exit 1 if parts or disks are critical."""
    from sluice import wiring

    report = wiring.maintain(context.obj, timedelta(days=guard_days))
    for line in report.done or ("nothing to clean up",):
        say(line)
    report.require_calm()


@app.command(rich_help_panel=RUN)
def demo(
    context: typer.Context,
    rate: Annotated[float, typer.Option(min=0.1, help="Changes per second.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration in seconds.")] = 60.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same traffic.")] = 42,
) -> None:
    """Generate store traffic: inserts, updates and deletes in PostgreSQL."""
    try:
        from store_api.demo import run
    except ImportError as error:
        raise WrongUsage("the demo needs the example's models and store_api") from error

    operations = run(context.obj, rate=rate, seconds=seconds, seed=seed, report=say)
    conflicts = operations.pop("conflicts", 0)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(operations.items()))
    say(f"{sum(operations.values())} changes: {listed}")
    if conflicts:
        say(f"{conflicts} more were left out, as other sessions changed the same rows")
