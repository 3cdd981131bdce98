"""Fetches pinned files from a Maven repository, and verifies them.

A file is known by its SHA-256, so any repository will do: Maven Central, a mirror of it, or a
folder. Where the user's Maven has settings of its own, such as a mirror with a password, and no
repository is set, Maven fetches.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

from sluice.embedded.repository import reader
from sluice.errors import NeedsPerson, SluiceError

_SECONDS = 20.0
_MAVEN_SECONDS = 600.0  # it may have to fetch itself first
_AT_ONCE = 8
_MAVEN = "the repositories of Maven's settings, and ~/.m2/repository"
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


def fetch(
    files: Mapping[str, str],
    folder: Path,
    repository: str,
    *,
    by_maven: bool = False,
    seconds: float = _SECONDS,
) -> None:
    """Fetch the files into a folder, which appears complete or not at all.

    Another process that fetches the same is awaited. Verified files of a fetch that failed or was
    killed are used again.

    Args:
        files: path in the repository -> SHA-256.
        repository: its URL, or a folder with its paths or with the files themselves.
        by_maven: whether Maven may fetch, if it has settings of the user's own. Default: false.
        seconds: how long a server may send nothing. Default: 20.

    Raises:
        WrongUsage: the repository's address is not valid.
        Unreachable: the repository does not answer.
        NeedsPerson: it refuses, lacks a file or has a changed one; the folder cannot be written.
    """
    read = reader(repository, seconds)
    with _alone(folder):
        if folder.is_dir():  # another process was first
            return
        draft = folder.with_name(f"{folder.name}.draft")
        draft.mkdir(exist_ok=True)
        _remove_unknown(files, draft)
        refusal = _by_maven(files, draft) if by_maven and _has_settings() else ""
        try:
            _fetch_lacking(files, draft, read)
        except SluiceError as error:
            if not refusal:
                raise
            both = f"{error.what}; {refusal} before"
            raise type(error)(both, remedy=error.remedy) from error
        draft.rename(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process fetches into the folder; report that it cannot be written."""
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise NeedsPerson(
            f"{error.filename or folder} cannot be written: {error.strerror}",
            remedy="make room on its disk or permit it, then run it again",
        ) from error


def _remove_unknown(files: Mapping[str, str], draft: Path) -> None:
    """Remove the files of an earlier fetch that are cut, changed or of another version."""
    digests = {Path(path).name: digest for path, digest in files.items()}
    for path in draft.iterdir():
        if _digest(path.read_bytes()) != digests.get(path.name):
            path.unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _has_settings() -> bool:
    """Whether there is a Maven with settings of the user's own."""
    return _settings().exists() and shutil.which("mvn") is not None


def _settings() -> Path:
    return Path.home() / ".m2" / "settings.xml"


def _by_maven(files: Mapping[str, str], draft: Path) -> str:
    """Fetch through the user's Maven; return why it failed, or nothing.

    Raises:
        NeedsPerson: a file is not the known one.
    """
    command = ["mvn", "-B", "-q", "-s", str(_settings()), "dependency:copy-dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pom.xml").write_text(_pom(files))
        copied = Path(folder) / "copied"
        try:
            done = subprocess.run(
                [*command, f"-DoutputDirectory={copied}"],
                cwd=folder,
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=_MAVEN_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"mvn did not end in {_MAVEN_SECONDS:.0f} s"
        except OSError as error:
            return f"mvn cannot be run ({error.strerror})"
        for path, digest in files.items():
            file = copied / Path(path).name
            if file.exists():
                _keep(file.read_bytes(), draft / file.name, digest, _MAVEN)
    return f"mvn failed ({_reason(done.stdout)})" if done.returncode else ""


def _reason(output: str) -> str:
    """Return the first error that Maven prints."""
    errors = [line for line in output.splitlines() if "ERROR" in line]
    return (errors or ["without a word"])[0].removeprefix("[ERROR] ")[:300]


def _pom(files: Iterable[str]) -> str:
    """Return a project that depends on just these files."""
    parts = (path.split("/") for path in files)
    dependencies = "".join(
        _DEPENDENCY.format(
            group=escape(".".join(group)), artifact=escape(artifact), version=escape(version)
        )
        for *group, artifact, version, _ in parts
    )
    return _POM.format(dependencies=dependencies)


def _fetch_lacking(files: Mapping[str, str], draft: Path, read: Callable[[str], bytes]) -> None:
    """Fetch the files that the draft lacks, several at a time, up to the first failure."""
    lacking = [path for path in files if not (draft / Path(path).name).exists()]
    threads = ThreadPoolExecutor(_AT_ONCE)

    def one(path: str) -> None:
        _keep(read(path), draft / Path(path).name, files[path], "SLUICE_MAVEN_REPOSITORY")

    try:
        for done in as_completed([threads.submit(one, path) for path in lacking]):
            done.result()
    finally:
        threads.shutdown(cancel_futures=True)


def _keep(content: bytes, path: Path, digest: str, source: str) -> None:
    """Write a file if it is the known one."""
    found = _digest(content)
    if found != digest:
        raise NeedsPerson(
            f"{path.name} is not the file that Sluice knows: its SHA-256 is {found}",
            remedy=f"check {source}; the file was not kept",
        )
    path.write_bytes(content)
