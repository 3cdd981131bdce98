"""Reports known vulnerabilities of the pinned packages; exits 1 if there are any.

pip-audit queries the package index (PyPI's JSON API) for the advisories of the Python Packaging
Advisory Database. Without an answer the audit is skipped with a message, which is no failure. With
a report of pip-audit (`-f json`) as argument, that report is evaluated instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
# Advisory -> why it does not affect this project.
ACCEPTED: dict[str, str] = {}


def audited() -> str:
    """Return pip-audit's report on requirements.txt; empty where it fails."""
    uv = str(Path(sys.executable).parent / "uv")
    command = [uv, "tool", "run", "--from", PIP_AUDIT, "pip-audit"]
    options = "--no-deps --disable-pip --vulnerability-service pypi --progress-spinner off"
    where = ["-f", "json", "-r", str(PROJECT / "requirements.txt")]
    try:
        done = subprocess.run(
            [*command, *options.split(), *where],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def judged(report: str) -> tuple[list[str], int]:
    """Return lines about the report, and the exit code."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        return ["audit: skipped, the package index does not answer pip-audit"], 0
    known = [package for package in packages if "vulns" in package]
    lines = [
        f"audit: {package['name']} {package['version']}: {advisory['id']},"
        f" fixed in {', '.join(advisory['fix_versions']) or 'no release'}"
        for package in known
        for advisory in package["vulns"]
        if advisory["id"] not in ACCEPTED
    ]
    count = f"audit: the package index knows {len(known)} of {len(packages)} packages"
    return [*lines, f"{count}, {len(lines)} known vulnerabilities"], int(bool(lines))


if __name__ == "__main__":
    lines, code = judged(Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else audited())
    print("\n".join(lines))
    sys.exit(code)
