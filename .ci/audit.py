"""Known weaknesses of the pinned packages, as far as the package index tells of them.

pip-audit asks the index, release by release (PyPI's JSON API), for the advisories of the Python
Packaging Advisory Database. An index that has none, or no network, is said in one line and is no
failure; a weakness is one, and ends with 1. With a report of pip-audit (`-f json`) as argument,
that is judged and nothing is asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
# Advisory -> why it does not touch this project.
ACCEPTED: dict[str, str] = {}


def asked() -> str:
    """pip-audit's report on requirements.txt; empty where it could not be made."""
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
    """What the report says, a line each, and the exit code."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        return ["audit: not done, the package index does not answer pip-audit"], 0
    asked_of = [package for package in packages if "vulns" in package]
    found = [
        f"audit: {package['name']} {package['version']}: {one['id']},"
        f" mended in {', '.join(one['fix_versions']) or 'no release'}"
        for package in asked_of
        for one in package["vulns"]
        if one["id"] not in ACCEPTED
    ]
    count = f"audit: the package index told of {len(asked_of)} of {len(packages)} packages"
    return [*found, f"{count}, {len(found)} known weaknesses"], int(bool(found))


if __name__ == "__main__":
    lines, code = judged(Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else asked())
    print("\n".join(lines))
    sys.exit(code)
