"""Runs what README and docs quote on a stack: in a copy of the project, as a shell would.

Programs that cannot run here have stand-ins, which note how they were called.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice.embedded.postgres import BINARIES
from sluice.settings import PROJECT, VARIABLES

# What cannot run here -> how it may be called.
STAND_INS = {
    "docker": r"compose( -f docker-compose(\.test)?\.yaml)* --profile (relay|connect) up",
    "git": "pull",
    "redpanda-connect": r"run redpanda-connect\.yaml",
}
# Words after `sluice` -> the exit code: a stack whose relay runs refuses another source, and its
# ClickHouse knows no cluster; some are named in a sentence without what they need.
REFUSED = {
    "source connect": 3,
    "source relay": 3,
    "init two": 4,
    "source": 2,
    "resync": 2,
    "topics show": 2,
    "topics show --json": 2,
    "sql --format json": 2,
    "drain orders --skip N": 2,
    "drain orders --skip OFFSET": 2,
}
# What goes on until it is stopped: tests/faults and test_compose.py run the relay, and `up` with
# `--detach` began this stack; test_create_tables.py runs it with `--create-tables`. `down` ends it.
RUN_ELSEWHERE = {"relay", "relay --snapshot", "up", "up --create-tables", "up --detach", "down"}
# Make says what it would run. What a DAG did first at that moment is done again, as the exit code
# says. `store` in psql's arguments is a database of the same tables without a publication. pip
# finds all that it would install, and leaves the environment of the tests as it is.
_PRELUDE = """
set -euo pipefail
make() { command make -n "$@" > /dev/null; }
pip() { command pip "$1" --dry-run --quiet "${@:2}"; }
psql() { eval "$(command sluice env)"; command psql "${@/#store/quoted}"; }
curl() { command curl --fail-with-body "$@"; }
sluice() {
    local wanted=0 code tries
    case "$*${SLUICE_CLICKHOUSE_CLUSTER:+ $SLUICE_CLICKHOUSE_CLUSTER}" in
@REFUSED@
    esac
    for tries in 1 2 3 4 5; do
        code=0
        command sluice "$@" || code=$?
        if [ $code = $wanted ]; then return 0; fi
        if [ $code != 3 ]; then break; fi
    done
    echo "sluice $* ended with $code, not $wanted" >&2
    return 1
}
"""
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "images", "bench", "tests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """A copy of the project beside a running stack; `your.models` are a module there."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def make(cls, folder: Path, stack: Mapping[str, str]) -> Shell:
        """Copy the project and put the stand-ins first on PATH."""
        copy, programs = folder / "project", folder / "programs"
        shutil.copytree(PROJECT, copy, ignore=_NOT_COPIED)
        shutil.copytree(PROJECT / "tests" / "logistics", copy / "your" / "models")
        (copy / ".venv").symlink_to(sys.prefix)
        programs.mkdir()
        for name in STAND_INS:
            program = programs / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{folder}/calls"\n')
            program.chmod(0o755)
        path = [str(programs), str(copy / ".venv" / "bin"), str(BINARIES), stack["PATH"]]
        python = [str(copy / "plugins"), str(copy)]
        environment = {
            **stack,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(python),
        }
        return cls(folder=copy, environment=environment)

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a text with the stack's addresses in place of the documented ones."""
        for name, (default, _) in VARIABLES.items():
            if name.endswith("_PORT"):
                text = text.replace(f"localhost:{default}/", f"localhost:${name}/")
        text = re.sub(r"--seconds \d+", "--seconds 2", text)
        cases = "\n".join(f'        "{call}") wanted={code} ;;' for call, code in REFUSED.items())
        return subprocess.run(
            ["bash", "-c", _PRELUDE.replace("@REFUSED@", cases) + text],
            env=dict(self.environment),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """How stand-ins were called."""
        noted = self.folder.parent / "calls"
        return noted.read_text().splitlines() if noted.exists() else []


def may_be_called(call: str) -> bool:
    """Whether a stand-in was called as the program can be, with files that are there."""
    program, _, arguments = call.partition(" ")
    return bool(re.fullmatch(STAND_INS[program], arguments)) and all(
        (PROJECT / file).exists() for file in re.findall(r"\S+\.yaml", arguments)
    )
