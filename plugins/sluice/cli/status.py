"""Reads and prints `sluice status`: of many tables those with problems and the sum of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sluice.cli.extras import has_embedded
from sluice.cli.output import say
from sluice.cli.tables import print_table
from sluice.clients import slot_loss
from sluice.errors import SluiceError
from sluice.settings import SOURCE, Settings, started_file

_DEEP = "sluice_deep_quality"
_NAMES = ["table", "Postgres rows", "ClickHouse rows", "pending", "dead letters", "freshness s"]
_FIELDS = ("postgres_rows", "clickhouse_rows", "pending_events", "dead_letters", "freshness_s")
_UNKNOWN = "?"
_ROWS = 20  # so many tables are all shown; of more, at most as many with problems


def read_status(settings: Settings) -> dict[str, Any]:
    """Return the status that `sluice status --json` prints.

    A part that cannot be read is empty or None; `errors` has its error.
    """
    from sluice import wiring
    from sluice.capture import metrics as telemetry

    state: dict[str, Any] = {"services": {}, "tables": {}, "fact": {}, "slot": {}, "dags": {}}
    errors: dict[str, str] = {}
    stack = _has_stack(settings)
    if stack:
        with _part("supervisor", errors):
            state["services"] = _services(settings)
    metrics = settings.relay.metrics
    state["relay"] = telemetry.read_status(*metrics) if metrics else {}
    with _part("models", errors):
        state.update(wiring.status(settings))
    errors |= state.pop("errors", {})
    broken: list[str] = []
    if stack:
        with _part("airflow", errors):
            runs, by_hand = _last_runs(settings)
            state["dags"] = {dag_id: _dag_state(run) for dag_id, run in runs.items()}
            broken = [
                dag_id
                for dag_id, run in runs.items()
                if dag_id not in by_hand and _is_broken(dag_id, run, state["tables"])
            ]
    state["services"] = {**_external(settings, errors), **state["services"]}
    state["errors"] = errors
    if errors:
        state["error"] = "\n".join(dict.fromkeys(errors.values()))
    state["concerns"] = [
        *_ended(state["services"]),
        *_failed(broken, settings),
        *state.get("concerns", ()),
    ]
    bad = any(concern["severity"] == "bad" for concern in state["concerns"])
    return {**state, "healthy": not (bad or errors or state.get("troubles"))}


def _has_stack(settings: Settings) -> bool:
    """Whether a stack of this machine belongs to the pipeline.

    Where every service is somebody else's, so may be relay and Airflow, unless `sluice up` ran.
    """
    servers = (settings.postgres, settings.kafka, settings.clickhouse)
    own = any(server.embedded for server in servers)
    return has_embedded() and (own or started_file(settings.home).exists())


@contextmanager
def _part(name: str, errors: dict[str, str]) -> Iterator[None]:
    """Read a part of the status; note its error if that fails."""
    try:
        yield
    except SluiceError as error:
        errors[name] = str(error)


def _services(settings: Settings) -> dict[str, Any]:
    from sluice.embedded.stack import Stack

    return {
        name: {**asdict(service), "external": False, "error": ""}
        for name, service in Stack(settings).states().items()
    }


def _external(settings: Settings, errors: Mapping[str, str]) -> dict[str, Any]:
    """Return the services that are not this stack's, each with its error if it has one."""
    services = {}
    for name, address in settings.external.items():
        error = errors.get("postgres" if name == SOURCE else name, "")
        state = "does not answer" if error else "unknown" if "models" in errors else "answers"
        services[name] = {
            "state": state,
            "pid": None,
            "address": address,
            "external": True,
            "error": error,
        }
    return services


def _ended(services: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a concern for each of the stack's services that does not run; one where none does."""
    own = {name: of["state"] for name, of in services.items() if not of["external"]}
    ended = {name: state for name, state in own.items() if state != "running"}
    if ended and set(ended.values()) == {"stopped"} and len(ended) == len(own):
        return [_concern("the stack does not run", "sluice up")]
    return [
        _concern(f"service {name} is {state}", f"sluice logs {name}")
        for name, state in ended.items()
    ]


def _failed(dag_ids: Sequence[str], settings: Settings) -> list[dict[str, Any]]:
    """Return a concern for each DAG whose failed run means that the pipeline does not work."""
    dags = f"http://127.0.0.1:{settings.airflow_port}/dags"
    return [
        _concern(f"the last run of {name} failed", f"its log: {dags}/{name}") for name in dag_ids
    ]


def _concern(what: str, remedy: str) -> dict[str, Any]:
    concern = {"severity": "bad", "what": what, "remedy": remedy}
    return {**concern, "table": None, "follows": ()}


def _last_runs(settings: Settings) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Return DAG -> its last run, empty before the first, and the DAGs that people start."""
    from sluice.embedded.stack import Stack

    api = Stack(settings).airflow()
    dags = api.dags()
    runs = {dag_id: api.last_run(dag_id) or {} for dag_id in sorted(dags)}
    return runs, {dag_id for dag_id, scheduled in dags.items() if not scheduled}


def _dag_state(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "last_state": run.get("state"),
        "last_start": run.get("start_date"),
        "last_end": run.get("end_date"),
        "last_duration_s": run.get("duration"),
    }


def _is_broken(dag_id: str, run: Mapping[str, Any], tables: Mapping[str, Any]) -> bool:
    """Whether the last run of a scheduled DAG means that the pipeline does not work.

    A deep check fails when it finds a difference, which is a concern until it ends. Its failure
    counts where it did not compare all of its tables, and nothing has since.
    """
    if run.get("state") != "failed":
        return False
    if dag_id != _DEEP:
        return True
    begun = run.get("start_date") or run["run_after"]
    names = (run.get("conf") or {}).get("tables") or tables
    compared = [tables[name]["compared_at"] for name in names if name in tables]
    return any(at is None or _moment(at) < _moment(begun) for at in compared)


def print_status(state: dict[str, Any], *, every: bool = False) -> None:
    """Print a status for people, with local times; see `print_tables`.

    A part that could not be read says so; its error follows at the end, on stderr.
    """
    errors = state["errors"]
    if state["services"]:
        services = [
            (name, service["state"], service["pid"] or "", service["address"])
            for name, service in state["services"].items()
        ]
        print_table(["service", "state", "pid", "address"], services)
    if "supervisor" in errors:
        say("services: not known, as the supervisor did not answer")
    if state["tables"]:
        print_tables(state, every=every)
        say(_compared_line(state))
    elif "models" in errors:
        say("tables: not known, as the models could not be read")
    if state["slot"]:
        say(_slot_line(state["slot"]))
    elif "postgres" in errors:
        say("slot: not known, as PostgreSQL did not answer")
    if state["relay"]:
        say(_relay_line(state["relay"]))
    for dag_id, dag in state["dags"].items():
        say(f"{dag_id}: {_run_words(dag)}")
    if "airflow" in errors:
        say("DAG runs: not known, as Airflow did not answer")
    print_concerns(state.get("concerns", ()))
    _print_verdict(state)


def _print_verdict(state: Mapping[str, Any]) -> None:
    for name, trouble in state.get("troubles", {}).items():
        say(*f"{name}: {trouble}".split("\n"), err=True)
    if state["errors"]:
        say(*state["error"].split("\n"), err=True)
    if state.get("healthy"):
        say("healthy")


def print_concerns(concerns: Sequence[Mapping[str, Any]]) -> None:
    """Print each problem with the command that helps, the gravest first.

    Those that follow from others come behind these, indented.
    """
    from sluice.quality.checks import follows_words

    for concern in concerns[:_ROWS]:
        help_ = concern["remedy"] and f"; {concern['remedy']}"
        follows = concern["follows"]
        cause = follows and f"; {follows_words(follows)}"
        say(f"{'  ' * bool(follows)}{concern['severity']}: {concern['what']}{cause or help_}")
    if len(concerns) > _ROWS:
        say(f"and {len(concerns) - _ROWS} more problems: sluice status --json")


def _compared_line(state: Mapping[str, Any]) -> str:
    """Say since when the values of all tables are compared; the checks of the minute count rows."""
    if "clickhouse" in state["errors"]:
        return "every column compared: not known, as ClickHouse did not answer"
    moments = [table["compared_at"] for table in state["tables"].values()]
    if missing := moments.count(None):
        return f"every column compared: not yet in {missing} of {len(moments)} tables"
    return f"every column compared: {local_time(min(moments, key=_moment))}"


def _relay_line(relay: dict[str, Any]) -> str:
    snapshot = relay["snapshot"]
    return (
        f"relay: {relay['state']}, {relay['events_per_second']} events/s,"
        f" {relay['seconds_behind']} s behind; snapshot: {snapshot['rows']} rows,"
        f" {snapshot['ranges_done']} of {snapshot['ranges']} ranges"
    )


def _run_words(dag: dict[str, Any]) -> str:
    """Describe the last run of a DAG."""
    if dag["last_state"] is None:
        return "has not run yet"
    if dag["last_end"] is not None:
        return f"{dag['last_state']} at {local_time(dag['last_end'])}"
    if dag["last_start"] is not None:
        return f"{dag['last_state']} since {local_time(dag['last_start'])}"
    return str(dag["last_state"])


def local_time(moment: str) -> str:
    """Return an ISO 8601 moment as a time of this machine's zone, with the zone's name."""
    return f"{_moment(moment).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _slot_line(slot: dict[str, Any]) -> str:
    name, reason = slot["name"], slot["invalidation"]
    if reason:
        return f"slot {name}: invalidated, {slot_loss.cause(reason)}; {slot_loss.remedy(reason)}"
    if slot["wal_status"] is None:
        return f"slot {name}: does not exist"
    return f"slot {name}: WAL {slot['wal_status']}, {slot['lag_bytes']:,} bytes unconfirmed"


def print_tables(state: dict[str, Any], *, every: bool = False) -> None:
    """Print the rows of tables and facts on both sides.

    Of more than _ROWS, those with problems and the sum of all.

    Args:
        every: whether to print every table however many there are. Default: false.
    """
    tables, facts = state["tables"], state["facts"]
    if every or len(tables) + len(facts) <= _ROWS:
        print_table(_NAMES, [_row(name, tables, facts) for name in (*tables, *facts)])
        return
    problems = _problems(state)
    listed = [_row(name, tables, facts) for name in list(problems)[:_ROWS]]
    print_table(_NAMES, [*listed, *_sums(tables, facts)])
    if problems:
        hidden = len(problems) - len(listed)
        say(
            f"with problems: {len(problems)}"
            + (f", of which {hidden} are not shown" * bool(hidden))
        )
    say("every table: sluice status --all")


def _row(name: str, tables: dict[str, Any], facts: dict[str, Any]) -> Sequence[Any]:
    if name in tables:
        return [name, *(_known(tables[name][field]) for field in _FIELDS)]
    rows = (facts[name]["expected_rows"], facts[name]["rows"])
    return [name, *map(_known, rows), "", "", ""]


def _known(value: Any) -> Any:
    return _UNKNOWN if value is None else value


def _problems(state: dict[str, Any]) -> dict[str, None]:
    """Return the tables and facts with problems, the gravest kind first."""
    tables, facts = state["tables"], state["facts"]
    concerns = [(concern["severity"], concern["table"]) for concern in state["concerns"]]
    names = [
        *state.get("troubles", {}),
        *(name for severity, name in concerns if severity == "bad"),
        *(n for n, t in tables.items() if _differ(t["postgres_rows"], t["clickhouse_rows"])),
        *(n for n, fact in facts.items() if _differ(fact["expected_rows"], fact["rows"])),
        *(name for _, name in concerns),
    ]
    return dict.fromkeys(name for name in names if name in tables or name in facts)


def _differ(postgres: int | None, clickhouse: int | None) -> bool:
    """Whether both counts are known and differ; `troubles` has the others."""
    return None not in {postgres, clickhouse} and postgres != clickhouse


def _sums(tables: dict[str, Any], facts: dict[str, Any]) -> list[list[Any]]:
    """Return the sum of all tables, with the oldest freshness, and that of all facts."""
    fresh = [table["freshness_s"] for table in tables.values()]
    known = [seconds for seconds in fresh if seconds is not None]
    sums = [_sum(tables, field) for field in _FIELDS[:-1]]
    rows = [_sum(facts, field) for field in ("expected_rows", "rows")]
    return [
        [f"all {len(tables)} tables", *sums, max(known, default=_UNKNOWN)],
        [f"all {len(facts)} facts", *rows, "", "", ""],
    ]


def _sum(rows: dict[str, Any], field: str) -> Any:
    from sluice.operate.overview import known_sum

    return _known(known_sum(row[field] for row in rows.values()))
