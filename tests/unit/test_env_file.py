"""The project's .env is read by every command, between the environment and sluice.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sluice.cli import app
from sluice.errors import WrongUsage
from sluice.settings import FILE, VARIABLES, environment_file, read_settings, read_values


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which commands run without settings of the environment."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(environment_file, "ENV_FILE", ".env")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    (tmp_path / FILE).write_text('models = "acme"\nslot = "of_toml"\n')
    return tmp_path


def test_the_environment_wins_over_the_file_and_the_file_over_sluice_toml(folder: Path) -> None:
    assert read_values({})["SLUICE_SLOT"] == ("of_toml", FILE)
    (folder / ".env").write_text("SLUICE_SLOT=of_env\n")
    assert read_values({})["SLUICE_SLOT"] == ("of_env", ".env")
    assert read_values({"SLUICE_SLOT": "given"})["SLUICE_SLOT"] == ("given", "environment")
    (folder / ".env").write_text("SLUICE_SLOT=\n")
    assert read_values({})["SLUICE_SLOT"] == ("of_toml", FILE)
    (folder / FILE).write_text('slot = ""\n')
    assert read_values({})["SLUICE_SLOT"] == ("sluice", "default")


@pytest.mark.parametrize("name", VARIABLES)
def test_every_setting_but_those_that_name_the_files_is_read(name: str, folder: Path) -> None:
    (folder / ".env").write_text(f"{name}=x\n")
    own = name in {"SLUICE_PROJECT", "SLUICE_ENV_FILE"}
    assert (read_values({})[name] == ("x", ".env")) is not own


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("plain", "plain"),
        ("'a b'", "a b"),
        ('"a # b"', "a # b"),
        ("a#b", "a#b"),
        ("a # of it", "a"),
        ("$HOME", "$HOME"),
        ('\'{"sslmode": "require"}\'', '{"sslmode": "require"}'),
        ('{"sslmode": "require"}', '{"sslmode": "require"}'),
    ],
)
def test_a_value_is_read_as_people_know_it(line: str, value: str, folder: Path) -> None:
    (folder / ".env").write_text(f"# a comment\n\nexport SLUICE_POSTGRES_PASSWORD={line}\n")
    assert read_values({})["SLUICE_POSTGRES_PASSWORD"] == (value, ".env")


def test_other_variables_and_folders_of_the_name_are_left_alone(folder: Path) -> None:
    (folder / ".env").write_text("POSTGRES_PASSWORD=x\n'\nSLUICE_SLOT=mine\n")
    assert read_values({})["SLUICE_SLOT"] == ("mine", ".env")
    assert "POSTGRES_PASSWORD" not in os.environ
    (folder / ".env").unlink()
    (folder / ".env").mkdir()
    assert read_values({})["SLUICE_SLOT"] == ("of_toml", FILE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"SLUICE_SLOT=x\nSLUICE_POSTGRES_PASSWORD='canary\n", "line 2 cannot be read"),
        (b"SLUICE_POSTGRES_PASSWORD canary\n", "line 1 cannot be read"),
        (b"SLUICE_SLOT=\xff", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_without_its_values(
    content: bytes, says: str, folder: Path
) -> None:
    (folder / ".env").write_bytes(content)
    with pytest.raises(WrongUsage, match=says) as caught:
        read_settings({})
    assert str(folder / ".env") in str(caught.value)
    assert "canary" not in str(caught.value)


def test_another_file_can_be_named_and_has_to_be_there(folder: Path) -> None:
    (folder / ".env").write_text("SLUICE_SLOT=one\n")
    (folder / "other.env").write_text("SLUICE_SLOT=two\n")
    chosen = {"SLUICE_ENV_FILE": "other.env"}
    assert read_values(chosen)["SLUICE_SLOT"] == ("two", "other.env")
    with pytest.raises(WrongUsage, match=r"SLUICE_ENV_FILE: there is no file .*missing"):
        read_values({"SLUICE_ENV_FILE": "missing"})


def test_config_names_the_file_and_hides_its_secrets(folder: Path) -> None:
    (folder / ".env").write_text("SLUICE_POSTGRES_PASSWORD=canary\nSLUICE_POSTGRES_USER=reader\n")
    done = CliRunner().invoke(app, ["config"], env={"COLUMNS": "200"})
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines()]
    found = {line[1]: line[2:4] for line in cells if len(line) > 3}
    assert found["postgres.user"] == ["reader", ".env"]
    assert found["postgres.password"] == ["(hidden)", ".env"]
    assert "canary" not in done.output
