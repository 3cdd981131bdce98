"""The API keeps what its description says, whoever asks and whatever for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from sluice.errors import NotReady
from tests.page.routes import OF_ROWS

pytestmark = [pytest.mark.services, pytest.mark.airflow]
Person = Callable[[str], httpx.Client]
EXAMPLES = 40  # a route
# Any text may be a key in the description; one of too many parts is refused with 400.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404]
"""


@pytest.mark.parametrize("table", [None, "orders"])
@pytest.mark.parametrize("role", ["nobody", "viewer", "admin"])
def test_every_answer_is_one_that_the_description_has(
    role: str, table: str | None, kept: None, person: Person, tmp_path: Path
) -> None:
    """Schemathesis makes the requests: valid, invalid, with other methods and other tokens."""
    described = person("viewer").get("/sluice/openapi.json").json()
    (tmp_path / "openapi.json").write_text(json.dumps(described))
    names = f'"path.table" = "{table}"\n"path.topic" = "cdc.{table}"\n'
    chosen = f"[parameters]\n{names}" if table else ""
    (tmp_path / "schemathesis.toml").write_text(chosen + CONFIGURATION)
    caller = person(role)
    command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--checks", "all"]
    command += ["--url", f"{caller.base_url}/sluice", "--max-examples", str(EXAMPLES)]
    command += ["--seed", "1", "--continue-on-failure", "--no-color"]
    if token := caller.headers.get("Authorization"):
        command += ["--header", f"Authorization: {token}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"Tested: {len(described['paths'])}" in done.stdout
    closed = re.search(r"(\d+) operations returned only 401/403", done.stdout)
    kept_from = {"nobody": len(described["paths"]), "viewer": len(OF_ROWS)}
    assert int(closed[1] if closed else 0) == kept_from.get(role, 0)


@pytest.mark.filterwarnings("ignore:Using `httpx` with")  # Airflow's security imports it
def test_a_missing_connection_is_not_the_callers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from sluice_airflow.page import api

    with pytest.raises(NotReady, match="sluice_postgres"), api.monitor():
        pass
