"""Broken surroundings: one line that names thing and remedy, the documented exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.catalog import load_catalog
from sluice.embedded.clickhouse import fetch_library
from sluice.errors import StaleGenerated, Unreachable
from sluice.generate.files import require_current, write_files
from sluice.settings import PROJECT

SLUICE = Path(sys.executable).parent / "sluice"
NOBODY = "http://127.0.0.1:9/"


def sluice(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SLUICE, *arguments],
        env={**os.environ, **environment},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment into which ClickHouse was never fetched."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_registry", NOBODY)


@pytest.mark.skipif(not shutil.which("npm"), reason="there is no npm on this machine")
def test_an_npm_registry_that_does_not_answer_is_named(without_library: None) -> None:
    with pytest.raises(Unreachable, match=r"npm could not fetch @chdb/.*\n?.*") as caught:
        fetch_library()
    assert "registry" in str(caught.value.remedy)


def test_without_npm_and_without_pip_s_index_node_is_asked_for(
    without_library: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", NOBODY)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(Unreachable, match="there is no npm") as caught:
        fetch_library()
    assert "Node.js" in str(caught.value.remedy)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = sluice("up", "--detach", SLUICE_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 2
    assert "SLUICE_HOME" in done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_stale_generated_files_are_shown_as_a_difference_and_stop_init(tmp_path: Path) -> None:
    catalog = load_catalog("models")
    write_files(catalog, tmp_path)
    assert sluice("generate", "--check", "--out", str(tmp_path)).returncode == 0
    stale = tmp_path / "sql/clickhouse/generated/dim_order.sql"
    stale.write_text(stale.read_text().replace("customer_id Int32", "customer_id String"))
    done = sluice("generate", "--check", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "-    customer_id String" in done.stdout
    assert "+    customer_id Int32" in done.stdout
    assert "sluice generate" in done.stderr
    with pytest.raises(StaleGenerated):
        require_current(catalog, tmp_path)
