"""The user that PostgreSQL runs as, where everything else runs as root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from sluice.embedded import postgres

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root creates users")
NAMES = [f"sluice_test_{number}" for number in range(8)]
STACKS = 8


@pytest.fixture
def removed() -> Iterator[None]:
    yield
    for name in NAMES:
        subprocess.run(["userdel", name], check=False, capture_output=True)


@pytest.mark.usefixtures("removed")
def test_stacks_that_start_at_once_create_it_once() -> None:
    together = Barrier(STACKS)

    def ensure(name: str) -> None:
        together.wait(60)
        postgres._ensure_user(name)

    with ThreadPoolExecutor(STACKS) as stacks:
        for name in NAMES:
            list(stacks.map(ensure, [name] * STACKS))
    users = [line.partition(":")[0] for line in Path("/etc/passwd").read_text().splitlines()]
    assert [user for user in users if user in NAMES] == NAMES
