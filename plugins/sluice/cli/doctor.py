"""Runs the doctor on the command line, including the services of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.extras import has_embedded
from sluice.cli.help import LOOK
from sluice.cli.output import say, say_json
from sluice.errors import Finding, NotReady, SluiceError
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.operate.doctor import Diagnosis

app = typer.Typer()

# Programs of the embedded stack that answer by HTTP.
_ANSWERING = ("api", "airflow-api-server", "airflow-scheduler")


@app.command(rich_help_panel=LOOK)
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine the services from outside; print what to fix, in order. Changes nothing."""
    from sluice.catalog import load_catalog
    from sluice.operate.doctor import Part, airflow_part, examine, sentences

    settings: Settings = context.obj
    parts = [
        Part(
            service=name,
            checks=partial(_answers, settings, name),
            remedy=f"see: sluice logs {name}",
        )
        for name in (_ANSWERING if has_embedded() else ())
    ]
    airflow = airflow_part(partial(_airflow_environment, settings))
    diagnoses = examine(settings, load_catalog(settings.models), [*parts, airflow])
    wrong = [diagnosis for diagnosis in diagnoses if not diagnosis.ok]
    if as_json:
        checks = [asdict(diagnosis) for diagnosis in diagnoses]
        say_json({"checks": checks, "healthy": not wrong}, indent=2)
    else:
        for sentence in sentences(diagnoses):
            say(*sentence.split("\n"))
        if not wrong:
            say(f"All {len(diagnoses)} checks of the services passed. The data: sluice status")
    if any(not diagnosis.reached for diagnosis in wrong):
        raise NotReady("not every service could be examined")
    if wrong:
        raise Finding(f"{len(wrong)} checks failed")


def _airflow_environment(settings: Settings) -> Mapping[str, str] | None:
    """Return the environment of the configured Airflow, or of the embedded one if it runs."""
    if any(name.startswith(("AIRFLOW_HOME", "AIRFLOW__", "AIRFLOW_CONN_")) for name in os.environ):
        return os.environ
    if not has_embedded():
        return None
    from sluice.embedded.stack import Stack

    stack = Stack(settings)
    runs = stack.states()["airflow-scheduler"].state == "running"
    return stack.environment() if runs else None


def _answers(settings: Settings, name: str) -> Iterator[Diagnosis]:
    """Yield whether a program of the embedded stack answers, if it runs."""
    from sluice.embedded.stack import Stack
    from sluice.operate.doctor import Diagnosis

    stack = Stack(settings)
    with suppress(SluiceError):  # Airflow's check reports that the supervisor does not answer
        state = stack.states().get(name)
        if state is not None and state.state == "running":
            program = stack.programs[name]
            ok = program.ready is None or program.ready()
            yield Diagnosis(
                service=name,
                check="access",
                ok=ok,
                found=f"{program.address} {'answers' if ok else 'does not answer'}",
                remedy=""
                if ok
                else f"see: sluice logs {name}; if it hangs, end process {state.pid}: the"
                " supervisor restarts it",
                reached=ok,
            )
