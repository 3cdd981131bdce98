"""The audit of the dependencies: a weakness fails it, an index that knows nothing does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.settings import PROJECT

SAFE = {"name": "rich", "version": "15.0.0", "vulns": []}
UNKNOWN = {"name": "typer", "skip_reason": "Dependency not found on PyPI"}
WEAK = {
    "name": "requests",
    "version": "2.19.0",
    "vulns": [{"id": "PYSEC-2018-28", "fix_versions": ["2.20.0"], "aliases": ["CVE-2018-18074"]}],
}


@pytest.mark.parametrize(
    ("packages", "code", "last"),
    [
        ([SAFE, UNKNOWN], 0, "knows 1 of 2 packages, 0 known vulnerabilities"),
        ([UNKNOWN], 0, "knows 0 of 1 packages, 0 known vulnerabilities"),
        ([SAFE, WEAK], 1, "knows 2 of 2 packages, 1 known vulnerabilities"),
        (None, 0, "skipped, the package index does not answer pip-audit"),
    ],
)
def test_a_known_weakness_fails_the_audit_and_a_silent_index_does_not(
    tmp_path: Path, packages: list[object] | None, code: int, last: str
) -> None:
    report = tmp_path / "report.json"
    report.write_text("" if packages is None else json.dumps({"dependencies": packages}))
    command = [sys.executable, str(PROJECT / ".ci" / "audit.py"), str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1].endswith(last)
    named = "audit: requests 2.19.0: PYSEC-2018-28, fixed in 2.20.0"
    assert (named in done.stdout) == bool(code)
