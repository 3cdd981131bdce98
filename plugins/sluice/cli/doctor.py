"""The doctor on the command line, with what runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.output import say, say_json
from sluice.errors import Finding, NotReady, SluiceError
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.operate.doctor import Diagnosis

app = typer.Typer()

# Programs of the embedded stack that answer by HTTP.
_ANSWERING = ("api", "airflow-api-server", "airflow-scheduler")


@app.command()
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the services from outside; say what to mend, in order. Changes nothing."""
    from sluice.catalog import load_catalog
    from sluice.operate.doctor import Part, airflow_part, examine

    settings: Settings = context.obj
    parts = [
        Part(
            service=name,
            checks=partial(_answers, settings, name),
            remedy=f"see: sluice logs {name}",
        )
        for name in _ANSWERING
    ]
    airflow = airflow_part(partial(_airflow_environment, settings))
    found = examine(settings, load_catalog(settings.models), [*parts, airflow])
    wrong = [diagnosis for diagnosis in found if not diagnosis.ok]
    if as_json:
        checks = [asdict(diagnosis) for diagnosis in found]
        say_json({"checks": checks, "healthy": not wrong}, indent=2)
    else:
        for diagnosis in found:
            say(*diagnosis.sentence().split("\n"))
    if any(not diagnosis.reached for diagnosis in wrong):
        raise NotReady("not every service could be examined")
    if wrong:
        raise Finding(f"{len(wrong)} to mend")


def _airflow_environment(settings: Settings) -> Mapping[str, str] | None:
    """The variables of the Airflow that is configured here, or of the embedded one that runs."""
    from sluice.embedded.stack import Stack

    if any(name.startswith(("AIRFLOW_HOME", "AIRFLOW__", "AIRFLOW_CONN_")) for name in os.environ):
        return os.environ
    stack = Stack(settings)
    runs = stack.states()["airflow-scheduler"].state == "running"
    return stack.environment() if runs else None


def _answers(settings: Settings, name: str) -> Iterator[Diagnosis]:
    """Whether a program of the embedded stack answers, where it runs."""
    from sluice.embedded.stack import Stack
    from sluice.operate.doctor import Diagnosis

    stack = Stack(settings)
    with suppress(SluiceError):  # the supervisor's silence is told once, with Airflow
        state = stack.states()[name]
        if state.state == "running":
            program = stack.programs[name]
            ok = program.ready is None or program.ready()
            yield Diagnosis(
                service=name,
                check="access",
                ok=ok,
                found=f"{program.address} {'answers' if ok else 'does not answer'}",
                remedy=""
                if ok
                else f"see: sluice logs {name}; if it hangs end process {state.pid}, which is then"
                " started again",
                reached=ok,
            )
