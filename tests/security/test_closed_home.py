"""The state directory as another user of the machine tries it."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sluice.cli import stack
from sluice.cli.compose import write_compose_secrets
from sluice.embedded import airflow_service, clickhouse_users, postgres, private
from sluice.embedded.passwords import ensure_secrets
from sluice.embedded.stack import Stack
from sluice.errors import NeedsPerson, WrongUsage
from sluice.settings import FILE, Settings, read_settings
from sluice.settings.project import find_project
from tests.support.permissions import open_to_others

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
NOBODY = "nobody"


def may(user: str, test: str, path: Path) -> bool:
    """Whether a user passes a test of the shell's on a path."""
    entry = pwd.getpwnam(user)
    done = subprocess.run(
        ["test", test, str(path)],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    return done.returncode == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may pass, as those above a home are."""
    with TemporaryDirectory(prefix="sluice-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.services
def test_no_file_of_running_services_is_open_to_others(services: Settings) -> None:
    assert open_to_others(services.home) == {}
    logs = {path.name for path in (services.home / "logs").iterdir()}
    assert logs >= {"postgres.log", "broker.log", "clickhouse.log", "supervisord.log"}
    assert any((services.home / "clickhouse").rglob("*.sql"))


@pytest.mark.services
@as_root
def test_another_user_reads_nothing_and_the_databases_user_its_own_folder_alone(
    services: Settings,
) -> None:
    for name in ("", "secrets.json", "logs", "clickhouse", "run/supervisord.conf", "postgres"):
        assert not may(NOBODY, "-r", services.home / name), name
        assert not may(NOBODY, "-x", services.home / name), name
    assert may(postgres.SYSTEM_USER, "-r", services.home / "postgres")
    for name in ("", "secrets.json", "logs", "clickhouse", "run"):
        assert not may(postgres.SYSTEM_USER, "-r", services.home / name), name


@pytest.mark.services
def test_a_home_that_was_open_is_closed_by_the_next_start(services: Settings) -> None:
    opened = [services.home, *(services.home / name for name in ("logs", "run", "secrets.json"))]
    for path in opened:
        path.chmod(0o777 if path.is_dir() else 0o666)
    assert open_to_others(services.home) != {}
    Stack(services).launch()
    assert open_to_others(services.home) == {}


@as_root
def test_a_closed_folder_above_is_passed_by_the_databases_user_and_nobody_else(
    folder: Path,
) -> None:
    above = folder / "it's closed"
    above.mkdir(mode=0o700)
    postgres.create_cluster(above / "home" / "postgres", "secret")
    assert may(postgres.SYSTEM_USER, "-x", above)
    assert not may(postgres.SYSTEM_USER, "-r", above)
    for test in "-x", "-r", "-w":
        assert not may(NOBODY, test, above)
    assert private.admit(above, pwd.getpwnam("daemon").pw_uid)  # beside an entry that is there
    assert may("daemon", "-x", above)
    assert may(postgres.SYSTEM_USER, "-x", above)
    assert not may(NOBODY, "-x", above)


@as_root
def test_folders_above_stay_as_they_are_and_the_refusal_names_the_one_that_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "admit", lambda *_: False)  # no lists are kept there
    above = folder / "it's closed"
    above.mkdir(mode=0o700)
    with pytest.raises(NeedsPerson) as refused:
        postgres.create_cluster(above / "home" / "postgres", "secret")
    assert stat.S_IMODE(above.stat().st_mode) == 0o700
    assert str(above) in refused.value.what
    done = subprocess.run(
        (refused.value.remedy or "").partition("to open this one: ")[2],
        shell=True,
        check=True,
    )
    assert done.returncode == 0
    postgres.create_cluster(above / "home" / "postgres", "secret")
    assert open_to_others(above / "home").keys() <= {str(above / "home")}


@as_root
def test_a_home_that_another_user_made_is_refused(folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    os.chown(home, pwd.getpwnam(NOBODY).pw_uid, -1)
    with pytest.raises(WrongUsage, match="belongs to another user"):
        Stack(read_settings({"SLUICE_HOME": str(home)})).launch()
    assert list(home.iterdir()) == []


@as_root
def test_a_file_that_another_user_planted_is_refused(folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    home.chmod(0o777)
    planted = home / "secrets.json"
    planted.write_text('{"clickhouse": "known"}')
    os.chown(planted, pwd.getpwnam(NOBODY).pw_uid, -1)
    with pytest.raises(WrongUsage, match=r"secrets\.json belongs to another user"):
        Stack(read_settings({"SLUICE_HOME": str(home)})).launch()


@as_root
@pytest.mark.parametrize("plant", ["file", "link", "folder", "writable file", "writable folder"])
def test_settings_that_another_user_planted_above_are_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    """They name modules, which commands import."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    above, nobody = folder / "shared", pwd.getpwnam(NOBODY).pw_uid
    (above / "mine").mkdir(parents=True)
    monkeypatch.chdir(above / "mine")
    file = above / FILE
    if plant == "link":
        (folder / "own.toml").write_text("")
        file.symlink_to(folder / "own.toml")
    else:
        file.write_text("")
    assert find_project({}) == above
    changed = above if "folder" in plant else file
    if "writable" in plant:
        changed.chmod(0o777)
    else:
        os.lchown(changed, nobody, -1)
    with pytest.raises(WrongUsage, match="another user") as refused:
        find_project({})
    assert f"SLUICE_PROJECT={above}" in (refused.value.remedy or "")
    assert find_project({"SLUICE_PROJECT": str(above)}) == above
    monkeypatch.chdir(above)  # chosen, as the folder of make's or of git's files
    assert find_project({}) == above


SECRETS = {"clickhouse": "s", "clickhouse_reader": "s", "airflow": "s"}
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "the stack's secrets": ("secrets.json", ensure_secrets),
    "ClickHouse's users": (
        "clickhouse-users.xml",
        lambda home: clickhouse_users.write_configuration(home, SECRETS),
    ),
    "Airflow's passwords": (
        "airflow/passwords.json",
        lambda home: airflow_service.write_passwords(
            read_settings({"SLUICE_HOME": str(home)}), SECRETS
        ),
    ),
    "the containers' secrets": (".env", lambda home: write_compose_secrets(home / ".env")),
}


@pytest.mark.parametrize(("name", "writer"), WRITERS.values(), ids=WRITERS)
def test_a_secret_is_not_written_through_a_link(
    folder: Path, name: str, writer: Callable[[Path], object]
) -> None:
    path = folder / "home" / name
    path.parent.mkdir(parents=True)
    victim = folder / "victim"
    for link in (path, path.with_suffix(".draft"), path.with_name(f"{path.name}.draft")):
        victim.write_text("{}")
        link.symlink_to(victim)
        writer(folder / "home")
        assert victim.read_text() == "{}"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        path.unlink()
        link.unlink(missing_ok=True)


@pytest.mark.parametrize(("name", "writer"), WRITERS.values(), ids=WRITERS)
@as_root
def test_no_secret_is_written_to_a_folder_of_another_user(
    folder: Path, name: str, writer: Callable[[Path], object]
) -> None:
    path = folder / "home" / name
    path.parent.mkdir(parents=True)
    os.chown(path.parent, pwd.getpwnam(NOBODY).pw_uid, -1)
    with pytest.raises(WrongUsage, match="belongs to another user"):
        writer(folder / "home")
    assert not path.exists()


def test_a_file_of_a_kind_that_cannot_be_replaced_is_an_error_in_words(folder: Path) -> None:
    (folder / "secrets.json").mkdir()
    with pytest.raises(WrongUsage, match=r"secrets\.json cannot be written"):
        private.write(folder / "secrets.json", "x")
    shutil.rmtree(folder / "secrets.json")


def test_code_that_every_account_may_change_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = folder / "a project"
    settings = read_settings({"SLUICE_PROJECT": str(project), "SLUICE_MODELS": "acme.db"})
    code = [project / name for name in ("dags/one.py", "plugins/two.py", "acme/db.py")]
    for path in code:
        path.parent.mkdir(parents=True)
        path.write_text("")
    (project / "dags" / "link.py").symlink_to(code[0])
    assert airflow_service.code_open_to_all(settings) == []
    stack.warn_of_open_code(settings)
    assert capsys.readouterr().err == ""
    for path in (*code, project / "plugins", project, folder):
        path.chmod(path.stat().st_mode | stat.S_IWOTH)
        assert airflow_service.code_open_to_all(settings) == [path]
        stack.warn_of_open_code(settings)
        command = capsys.readouterr().err.partition("run: ")[2]
        subprocess.run(command, shell=True, check=True)
        assert airflow_service.code_open_to_all(settings) == []
    folder.chmod(0o1777)  # as /tmp
    assert airflow_service.code_open_to_all(settings) == []
    for number in range(7):
        (project / "dags" / f"{number}.py").write_text("")
        (project / "dags" / f"{number}.py").chmod(0o666)
    stack.warn_of_open_code(settings)
    assert capsys.readouterr().err.endswith(" and 2 more\n")
