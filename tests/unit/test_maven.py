"""How Kafka's files are fetched: from mirrors and folders that work, and from those that do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from sluice.embedded import kafka
from sluice.embedded.maven import fetch, read_lock
from sluice.errors import NeedsPerson, SluiceError, Unreachable, WrongUsage
from sluice.settings import PACKAGE
from tests.support.services import free_ports
from tests.support.strangers import STRANGERS, stranger
from tests.support.waiting import until

LOCK = PACKAGE / "embedded/kafka-jars.txt"
JARS, PLUGINS = kafka.jars(), Path.home() / ".m2/repository"
EVERY = read_lock(LOCK)
SMALLEST = sorted(EVERY, key=lambda path: (JARS / Path(path).name).stat().st_size)
FILES = {path: EVERY[path] for path in SMALLEST[:12]}  # more than are fetched at once
FIRST = SMALLEST[0]
NAME = Path(FIRST).name
FETCH = """\
import sys
from pathlib import Path
from sluice.embedded.maven import fetch, read_lock
fetch(read_lock(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
"""
# The files below another prefix are not there yet.
MODULE = """\
import runpy, sys
sys.prefix = sys.argv.pop(1)
runpy.run_module("sluice.embedded.kafka", run_name="__main__")
"""
SETTINGS = """\
<settings>
  <localRepository>{local}</localRepository>
  <mirrors><mirror><id>ours</id><mirrorOf>*</mirrorOf><url>{address}</url></mirror></mirrors>
</settings>
"""
EMPTY_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>a</groupId><artifactId>b</artifactId><version>1</version></project>
"""
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></project>
"""


class Answer(BaseHTTPRequestHandler):
    """Sends the files of the lock as they are on this machine, and what Maven itself needs."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Mirror)
        path = unquote(self.path.lstrip("/"))
        server.asked.append(path)
        content = _content(path)
        if content is None:
            self.send_error(404)
        else:
            server.answers.get(path, whole)(self, content)

    def log_message(self, *_: object) -> None:
        return


class Mirror(ThreadingHTTPServer):
    """A Maven repository.

    Attributes:
        asked: the paths of all requests.
        answers: path -> how it is sent, unless whole.
    """

    request_queue_size = 32  # more than connect at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[Answer, bytes], None]] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"


def _content(path: str) -> bytes | None:
    """The file, a POM for it, or a part of Maven; None without one."""
    if path in EVERY:
        return (JARS / Path(path).name).read_bytes()
    if f"{path.removesuffix('.pom')}.jar" in EVERY:
        *group, artifact, version, _ = path.split("/")
        text = POM.format(group=".".join(group), artifact=artifact, version=version)
        return text.encode()
    stem, suffix = path.removesuffix(".xml"), "-*.xml" if path.endswith("metadata.xml") else ""
    of_maven = sorted(PLUGINS.glob(stem + suffix)) if suffix else [PLUGINS / path]
    return of_maven[0].read_bytes() if of_maven and of_maven[0].is_file() else None


def whole(answer: Answer, content: bytes) -> None:
    answer.send_response(200)
    answer.send_header("Content-Length", str(len(content)))
    answer.end_headers()
    answer.wfile.write(content)


def changed(answer: Answer, content: bytes) -> None:
    whole(answer, content + b"and more")


def cut(answer: Answer, content: bytes) -> None:
    answer.send_response(200)
    answer.send_header("Content-Length", str(len(content)))
    answer.end_headers()
    answer.wfile.write(content[: len(content) // 2])


def refused(code: int) -> Callable[[Answer, bytes], None]:
    return lambda answer, _: answer.send_error(code)


@contextmanager
def serving() -> Iterator[Mirror]:
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "share" / "kafka"


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def known(*paths: str) -> dict[str, bytes]:
    return {Path(path).name: (JARS / Path(path).name).read_bytes() for path in paths}


def drafted(folder: Path) -> dict[str, bytes]:
    """What a fetch that failed leaves for the next one; it leaves no folder."""
    assert not folder.exists()
    return kept(folder.with_name("kafka.draft"))


@contextmanager
def fetching(folder: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """A process that fetches FILES."""
    lock = folder.parents[1] / "files.txt"
    lock.write_text("".join(f"{digest}  {path}\n" for path, digest in FILES.items()))
    command = [sys.executable, "-c", FETCH, str(lock), str(folder), address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def held(mirror: Mirror, path: str) -> Iterator[Callable[[], None]]:
    """The mirror does not answer for this file until it is released."""
    released = threading.Event()

    def later(answer: Answer, content: bytes) -> None:
        released.wait()
        try:
            whole(answer, content)
        except OSError:  # who asked was killed
            return

    mirror.answers[path] = later
    try:
        yield released.set
    finally:
        released.set()


def run_module(prefix: Path, home: Path, repository: str = "") -> subprocess.CompletedProcess[str]:
    """Run `python -m sluice.embedded.kafka --fetch` as in another virtual environment.

    Args:
        repository: Default: not set.
    """
    variables = {**os.environ, "SLUICE_MAVEN_REPOSITORY": repository, "HOME": str(home)}
    command = [sys.executable, "-c", MODULE, str(prefix), "--fetch"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def maven_settings(home: Path, address: str, local: Path) -> None:
    (home / ".m2").mkdir(parents=True)
    text = SETTINGS.format(address=address, local=local)
    (home / ".m2" / "settings.xml").write_text(text)


def test_all_files_come_from_a_mirror_that_is_set_whatever_maven_is_set_to(
    mirror: Mirror, tmp_path: Path
) -> None:
    with serving() as other:
        maven_settings(tmp_path / "home", other.address, tmp_path / "m2")
        done = run_module(tmp_path, tmp_path / "home", mirror.address)
        assert not other.asked
    assert (done.returncode, done.stderr) == (0, "")
    assert kept(tmp_path / "share" / "sluice" / JARS.name) == known(*EVERY)
    assert sorted(mirror.asked) == sorted(EVERY)


@pytest.mark.parametrize("form", ["{}", "file://{}", "~/{name}"])
@pytest.mark.parametrize("layout", ["as a repository", "as they are stored"])
def test_a_folder_serves_without_a_network(
    form: str, layout: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = tmp_path / "offline"
    for path in FILES:
        place = offline / (path if layout == "as a repository" else Path(path).name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(JARS / Path(path).name)
    monkeypatch.setenv("HOME", str(tmp_path))
    fetch(FILES, folder, form.format(offline, name="offline"))
    assert kept(folder) == known(*FILES)


def test_a_folder_that_lacks_a_file_is_named_with_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(JARS / NAME)
    fetch({FIRST: FILES[FIRST]}, folder, str(tmp_path))
    lacking = folder.with_name("lacking")
    with pytest.raises(NeedsPerson, match=f"the folder {tmp_path} has no (.*)\n") as raised:
        fetch(FILES, lacking, str(tmp_path))
    assert raised.value.what.rpartition(" ")[2] in SMALLEST[1:12]
    assert "SLUICE_MAVEN_REPOSITORY" in str(raised.value.remedy)
    assert not lacking.exists()


def test_a_missing_folder_ends_the_command_with_what_to_do(tmp_path: Path) -> None:
    done = run_module(tmp_path, tmp_path, str(tmp_path / "nowhere"))
    assert done.returncode == 4
    error, remedy = done.stderr.splitlines()
    assert error == f"there is no folder {tmp_path / 'nowhere'}"
    assert "SLUICE_MAVEN_REPOSITORY" in remedy


def test_a_changed_file_is_refused_by_its_digest_and_not_kept(mirror: Mirror, folder: Path) -> None:
    mirror.answers[FIRST] = changed
    with pytest.raises(NeedsPerson, match=f"{NAME} is not the file .* SHA-256 is ") as raised:
        fetch(FILES, folder, mirror.address)
    assert "check SLUICE_MAVEN_REPOSITORY; the file was not kept" in str(raised.value.remedy)
    assert drafted(folder).items() <= known(*SMALLEST[1:12]).items()
    del mirror.answers[FIRST]
    fetch(FILES, folder, mirror.address)
    assert kept(folder) == known(*FILES)
    assert all(mirror.asked.count(path) == 1 for path in SMALLEST[1:12])


@pytest.mark.parametrize(
    ("code", "kind", "words", "remedy", "asked"),
    [
        (404, NeedsPerson, " does not exist: HTTP 404", "SLUICE_MAVEN_REPOSITORY", 1),
        (403, NeedsPerson, " is refused: HTTP 403", "~/.m2/settings.xml", 1),
        (503, Unreachable, "HTTP 503", "try again later", 3),
    ],
)
def test_a_mirror_that_does_not_send_a_file_is_named_with_it(
    code: int,
    kind: type[SluiceError],
    words: str,
    remedy: str,
    asked: int,
    mirror: Mirror,
    folder: Path,
) -> None:
    mirror.answers[FIRST] = refused(code)
    with pytest.raises(kind, match=f"{mirror.address}/{FIRST}.*{words}") as raised:
        fetch(FILES, folder, mirror.address)
    assert remedy in str(raised.value)
    assert NAME not in drafted(folder)
    assert mirror.asked.count(FIRST) == asked


def test_a_connection_that_is_cut_is_tried_again(mirror: Mirror, folder: Path) -> None:
    tries = iter([cut, cut, whole])

    def next_try(answer: Answer, content: bytes) -> None:
        next(tries)(answer, content)

    mirror.answers[FIRST] = next_try
    fetch(FILES, folder, mirror.address)
    assert kept(folder) == known(*FILES)


def test_a_connection_that_is_always_cut_says_so(mirror: Mirror, folder: Path) -> None:
    mirror.answers[FIRST] = cut
    half = (JARS / NAME).stat().st_size // 2
    with pytest.raises(Unreachable, match=f"{NAME} .* was cut after {half} bytes") as raised:
        fetch(FILES, folder, mirror.address)
    assert "SLUICE_MAVEN_REPOSITORY" in str(raised.value.remedy)
    assert NAME not in drafted(folder)


def test_a_mirror_that_does_not_answer_says_so(folder: Path) -> None:
    with stranger("says nothing") as port:
        address = f"http://127.0.0.1:{port}"
        with pytest.raises(Unreachable, match=f"{address}/.*: no answer in time") as raised:
            fetch(FILES, folder, address, seconds=0.05)
    assert "SLUICE_MAVEN_REPOSITORY" in str(raised.value.remedy)
    assert not drafted(folder)


def test_an_address_without_a_server_says_so(folder: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match="refused") as raised:
        fetch(FILES, folder, f"http://127.0.0.1:{port}/maven2")
    assert "SLUICE_MAVEN_REPOSITORY" in str(raised.value.remedy)


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_server_of_another_kind_is_an_error_and_nothing_of_it_is_kept(
    kind: str, folder: Path
) -> None:
    with stranger(kind) as port, pytest.raises((NeedsPerson, Unreachable)) as raised:
        fetch({FIRST: FILES[FIRST]}, folder, f"http://127.0.0.1:{port}", seconds=0.2)
    assert raised.value.remedy
    assert not drafted(folder)


@pytest.mark.parametrize(
    "address",
    ["ftp://mirror/maven2", "https://", "http://[::1", "https://me:hidden@mirror", "me:hidden@a"],
)
def test_an_invalid_address_is_refused_without_a_password_in_the_words(
    address: str, folder: Path
) -> None:
    with pytest.raises(WrongUsage, match="SLUICE_MAVEN_REPOSITORY") as raised:
        fetch(FILES, folder, address)
    assert "hidden" not in str(raised.value)


def test_a_place_that_cannot_be_written_is_named(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NeedsPerson, match=f"{tmp_path / 'file'}.* cannot be written"):
        fetch(FILES, tmp_path / "file" / "kafka", mirror.address)


def test_a_fetch_that_was_killed_goes_on_where_it_was(mirror: Mirror, folder: Path) -> None:
    draft, others = folder.with_name("kafka.draft"), known(*SMALLEST[1:12])
    with held(mirror, FIRST), fetching(folder, mirror.address) as process:
        until(
            lambda: draft.is_dir() and kept(draft) == others,
            "all other files are there",
            pause=0.01,
        )
        process.kill()
        process.wait()
    assert drafted(folder) == others
    half = draft / Path(SMALLEST[1]).name  # as a kill leaves it that is a moment earlier
    os.truncate(half, half.stat().st_size // 2)
    (draft / "of-another-version.jar").write_text("")
    mirror.answers.clear()
    mirror.asked.clear()
    with fetching(folder, mirror.address) as process:
        assert process.wait(60) == 0
    assert sorted(mirror.asked) == sorted(SMALLEST[:2])
    assert kept(folder) == known(*FILES)
    assert {path.name for path in folder.parent.iterdir()} == {"kafka", "kafka.lock"}


def test_of_two_processes_one_fetches_and_the_other_waits(mirror: Mirror, folder: Path) -> None:
    lock = str(folder.with_name("kafka.lock"))
    with (
        held(mirror, FIRST) as release,
        fetching(folder, mirror.address) as first,
    ):
        until(lambda: FIRST in mirror.asked, "the first one fetches", pause=0.01)
        with fetching(folder, mirror.address) as second:
            other = psutil.Process(second.pid)
            until(
                lambda: lock in {file.path for file in other.open_files()},
                "the second one is there",
                pause=0.01,
            )
            release()
            assert [one.wait(60) for one in (first, second)] == [0, 0]
    assert kept(folder) == known(*FILES)
    assert sorted(mirror.asked) == sorted(FILES)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The local repository of a user's Maven, which has to be installed here."""
    if shutil.which("mvn") is None:
        pytest.skip("there is no mvn on this machine")
    if not (PLUGINS / "org/apache/maven/plugins/maven-dependency-plugin").exists():
        project = tmp_path_factory.mktemp("project")
        (project / "pom.xml").write_text(EMPTY_POM)
        command = ["mvn", "-B", "-q", f"-Dmaven.repo.local={PLUGINS}"]
        command.append("dependency:copy-dependencies")
        done = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mvn cannot fetch its own parts: {done.stdout[:200]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAVEN_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")  # starts faster
        yield tmp_path_factory.mktemp("local")


def test_without_a_repository_a_users_maven_fetches_from_its_own_mirror(
    local: Path, mirror: Mirror, tmp_path: Path
) -> None:
    maven_settings(tmp_path / "home", mirror.address, local)
    done = run_module(tmp_path, tmp_path / "home")
    assert (done.returncode, done.stderr) == (0, "")
    assert kept(tmp_path / "share" / "sluice" / JARS.name) == known(*EVERY)
    assert set(EVERY) <= set(mirror.asked)


def test_a_changed_file_that_a_users_maven_fetched_is_refused(
    local: Path, mirror: Mirror, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maven_settings(tmp_path, mirror.address, local)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.rmtree(local / Path(FIRST).parent, ignore_errors=True)  # of another test
    mirror.answers[FIRST] = changed
    with pytest.raises(NeedsPerson, match=f"{NAME} is not the file") as raised:
        fetch({FIRST: FILES[FIRST]}, folder, mirror.address, by_maven=True)
    assert "Maven's settings" in str(raised.value.remedy)
    assert not drafted(folder)


@pytest.mark.usefixtures("local")
def test_where_a_users_maven_fails_too_both_errors_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    maven_settings(tmp_path, f"http://127.0.0.1:{port}", tmp_path / "m2")
    monkeypatch.setenv("HOME", str(tmp_path))
    words = rf"there is no folder .*; mvn failed \(.*127\.0\.0\.1:{port}.*\) before"
    with pytest.raises(NeedsPerson, match=words):
        fetch(FILES, folder, str(tmp_path / "nowhere"), by_maven=True)
