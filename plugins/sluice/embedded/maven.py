"""Fetches pinned files from a Maven repository, and verifies them.

A file is known by its SHA-256, so any repository will do: Maven Central, a mirror of it, or a
folder with the same layout. Where the user's Maven has settings of its own, such as a mirror with a
password, Maven fetches.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from sluice.errors import NeedsPerson, Unreachable

_SECONDS = 60
_AT_ONCE = 8
_TRIES = 3
_REMEDY = "check the network, or set SLUICE_MAVEN_REPOSITORY to a mirror or a folder with the files"
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sluice</groupId><artifactId>embedded</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""
_DEPENDENCY = """
    <dependency>
      <groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
      <exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>
    </dependency>"""


def read_lock(path: Path) -> dict[str, str]:
    """Return the files of a lock: path in the repository -> SHA-256."""
    lines = (line.split() for line in path.read_text().splitlines() if not line.startswith("#"))
    return {place: digest for digest, place in lines}


def fetch(files: Mapping[str, str], folder: Path, repository: str) -> None:
    """Fetch the files into a folder, which appears complete or not at all.

    Args:
        files: path in the repository -> SHA-256.
        repository: its URL, or a folder; with the folder's own settings, Maven fetches from it.

    Raises:
        Unreachable: a file cannot be fetched.
        NeedsPerson: a fetched file is not the known one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        place = Path(draft) / folder.name
        place.mkdir()
        if not (_has_settings() and _by_maven(files, place)):
            _by_address(files, place, repository)
        for path, digest in files.items():
            _require_known(place / Path(path).name, digest)
        try:
            place.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise


def _has_settings() -> bool:
    """Whether there is a Maven with settings of the user's own."""
    return (Path.home() / ".m2" / "settings.xml").exists() and shutil.which("mvn") is not None


def _by_maven(files: Mapping[str, str], place: Path) -> bool:
    """Fetch through the user's Maven; return whether all files are there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pom.xml").write_text(_pom(files))
        command = ["mvn", "-B", "-q", "dependency:copy-dependencies", f"-DoutputDirectory={place}"]
        subprocess.run(command, cwd=folder, check=False, capture_output=True)
    return all((place / Path(path).name).exists() for path in files)


def _pom(files: Mapping[str, str]) -> str:
    """Return a project that depends on just these files."""
    parts = (path.split("/") for path in files)
    dependencies = "".join(
        _DEPENDENCY.format(
            group=escape(".".join(group)), artifact=escape(artifact), version=escape(version)
        )
        for *group, artifact, version, _ in parts
    )
    return _POM.format(dependencies=dependencies)


def _by_address(files: Mapping[str, str], place: Path, repository: str) -> None:
    """Fetch the files from a repository's URL or folder, several at a time."""
    scheme = urlsplit(repository).scheme
    if scheme not in {"", "file", "http", "https"}:
        raise NeedsPerson(
            f"SLUICE_MAVEN_REPOSITORY must be a folder or an address with https://, not {scheme}:",
            remedy=_REMEDY,
        )
    root = repository if scheme else Path(repository).expanduser().resolve().as_uri()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        fetched = [
            threads.submit(_copy, f"{root.rstrip('/')}/{path}", place / Path(path).name)
            for path in files
        ]
        for one in fetched:
            one.result()


def _copy(address: str, path: Path) -> None:
    """Copy a file from an address, with a few tries."""
    for left in reversed(range(_TRIES)):
        try:
            with (
                urllib.request.urlopen(address, timeout=_SECONDS) as answer,  # noqa: S310
                path.open("wb") as out,
            ):
                shutil.copyfileobj(answer, out)
            return
        except OSError as error:
            if not left:
                raise Unreachable(f"{address}: {error}", remedy=_REMEDY) from error


def _require_known(path: Path, digest: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise NeedsPerson(
            f"{path.name} is not the file that Sluice knows: its SHA-256 is {found}",
            remedy="check SLUICE_MAVEN_REPOSITORY or Maven's settings; the file was not used",
        )
