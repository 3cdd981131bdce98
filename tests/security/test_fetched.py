"""What is fetched is what was locked, whatever an index or a registry serves in its place."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sluice.embedded import clickhouse
from sluice.errors import NeedsPerson
from sluice.settings import PROJECT

LOCKS = sorted(PROJECT.glob("requirements*.txt"))
REQUIREMENT = re.compile(r"[\w.-]+==[\w.+!-]+( ; .+?)?( \\\n    --hash=sha256:[0-9a-f]{64})+")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_is_pinned_with_the_digests_of_its_files(lock: Path) -> None:
    text = re.sub(r"^ *#.*\n", "", lock.read_text(), flags=re.M)
    assert REQUIREMENT.sub("", text).split() == []
    assert len(REQUIREMENT.findall(text)) >= 1


def test_every_installation_requires_them() -> None:
    for name in ("Makefile", "docker-compose.yaml", "plugins/sluice/embedded/clickhouse.py"):
        text = (PROJECT / name).read_text()
        for call in re.findall(r"pip install (?=-)[^&|\n]*|\"install\", \"--quiet\".*", text):
            assert "--require-hashes" in call or "--no-deps" in call, f"{name}: {call}"


def wheel(folder: Path, name: str, version: str) -> Path:
    """Somebody else's package of that name."""
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    about = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        form = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{about}/WHEEL", form)
        archive.writestr(f"{about}/RECORD", "")
        archive.writestr("planted.py", "")
    return path


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_another_file_of_the_same_name_and_version_is_not_installed(
    tmp_path: Path, installer: str
) -> None:
    wheel(tmp_path, "uv", "0.13.9")
    lock = PROJECT / "requirements-uv.txt"
    pip = [sys.executable, "-m", "pip"] if installer == "pip" else [uv(), "pip"]
    options = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "there")]
    environment = {**os.environ, "UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_NO_CACHE_DIR": "1"}
    without = tmp_path / "without.txt"
    without.write_text("uv==0.13.9\n")
    for file, installed in ((lock, False), (without, True)):
        hashes = ["--require-hashes"] if file == lock else []
        done = subprocess.run(
            [*pip, "install", "--quiet", *options, *hashes, "-r", str(file)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == installed, done.stderr
        assert (tmp_path / "there" / "planted.py").exists() == installed


def uv() -> str:
    return str(Path(sys.executable).parent / "uv")


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="no digest is known"
)
def test_another_library_than_clickhouses_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that serves a package of its own, with a digest that is right for it."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "libchdb.so").write_text("planted")
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\ntar -czf chdb.tgz -C {tmp_path} package\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    with pytest.raises(NeedsPerson, match="is not the file that Sluice knows"):
        clickhouse.fetch_library()
    assert not clickhouse.library_path().exists()
    assert not list((tmp_path / "venv").rglob("*.so"))
