"""`sluice up` in the foreground, its settings, and programs that are older than the models."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from sluice.cli import app
from sluice.cli.other_settings import warn_of_other_settings
from sluice.cli.stack import _follow
from sluice.embedded.stack import Stack
from sluice.errors import NotReady
from sluice.settings import PORTS, read_settings, read_started, read_values, started_file
from tests.support.services import stack_environment, temporary_home
from tests.support.waiting import until

pytestmark = pytest.mark.services


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A stack of which PostgreSQL runs."""
    with temporary_home() as home:
        environment = stack_environment(home)
        Stack(read_settings(environment)).launch()
        made = Stack(read_settings(environment))  # with the passwords that were made
        try:
            made.start(["postgres"], lambda _: None)
            yield made
        finally:
            made.stop()


def pid(stack: Stack) -> int | None:
    return stack.states()["postgres"].pid


def test_a_program_is_stopped_only_if_it_is_older(stack: Stack) -> None:
    first = pid(stack)
    stack.halt_older("postgres", time.time() - 3600)
    assert pid(stack) == first
    stack.halt_older("postgres", time.time())
    assert pid(stack) is None
    stack.halt_older("postgres", time.time())
    stack.start(["postgres"], lambda _: None)
    assert pid(stack) not in {None, first}


def test_following_ends_with_the_stack_and_leaves_the_next_one_alone(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    following = threading.Thread(target=_follow, args=[stack])
    following.start()
    until(lambda: "Following the logs" in capsys.readouterr().out, "the logs are followed")
    stack.stop()
    stack.launch()
    stack.start(["postgres"], lambda _: None)
    following.join(30)
    assert not following.is_alive()
    assert "another command stopped the stack" in capsys.readouterr().out
    assert pid(stack) is not None


def test_a_shell_without_the_variables_finds_the_stack_until_it_is_wiped() -> None:
    with temporary_home() as home:
        environment, plain = stack_environment(home), {"SLUICE_HOME": str(home)}
        given = {name: environment[name] for name in PORTS if name in environment}
        stack = Stack(read_settings(environment))
        stack.launch()
        try:
            assert {name: read_values(plain)[name][0] for name in given} == given
            assert started_file(home).stat().st_mode & 0o777 == 0o600
            Stack(read_settings(plain)).launch()
            other = str(int(given["SLUICE_AIRFLOW_PORT"]) + 2)
            with pytest.raises(NotReady, match=f"AIRFLOW_PORT is {given['SLUICE_AIRFLOW_PORT']} "):
                Stack(read_settings({**plain, "SLUICE_AIRFLOW_PORT": other})).launch()
        finally:
            stack.stop()
        assert {name: read_values(plain)[name][0] for name in given} == given
        stack.wipe()
        assert read_values(plain)["SLUICE_AIRFLOW_PORT"] == ("8080", "default")


def test_a_command_names_the_settings_that_only_the_running_stack_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = "canary-of-a-secret-setting"
    with temporary_home() as home:
        plain = stack_environment(home)
        given = {**plain, "SLUICE_SLOT": "theirs", "SLUICE_POSTGRES_PASSWORD": canary}
        stack = Stack(read_settings(given))
        stack.launch()
        try:
            warn_of_other_settings(read_settings(given))
            assert capsys.readouterr().err == ""
            again = read_settings(given)
            written = {**again.asked, "SLUICE_SLOT": ("theirs", ".env")}
            Stack(replace(again, asked=written)).note_settings()  # programs have the variable still
            assert read_started(home).settings["SLUICE_SLOT"] == ("theirs", "environment")
            warn_of_other_settings(read_settings(plain))
            assert capsys.readouterr().err == (
                "warning: the running stack has other settings: SLUICE_POSTGRES_PASSWORD is"
                " (hidden) (environment) there, not set here; SLUICE_SLOT is theirs (environment)"
                " there, sluice (default) here; set the same here, in .env or in sluice.toml, or"
                " run: sluice down, then: sluice up\n"
            )
            assert canary not in started_file(home).read_text()
            done = CliRunner().invoke(app, ["config"], env={**plain, "SLUICE_SLOT": "another"})
            assert "SLUICE_POSTGRES_PASSWORD is (hidden) (env" in done.stderr
            assert "SLUICE_SLOT" not in done.stderr
            with pytest.raises(NotReady, match="SLUICE_SLOT is theirs"):
                Stack(read_settings(plain)).launch()
            noted = started_file(home).read_text()
            for damaged in ("", "{}", noted[:-9], "\0" * len(noted)):
                started_file(home).write_text(damaged)
                with pytest.raises(NotReady, match=r"started\.json does not say with which"):
                    Stack(read_settings(given)).launch()
            started_file(home).write_text(noted)
        finally:
            stack.stop()
        warn_of_other_settings(read_settings(plain))
        assert capsys.readouterr().err == ""
