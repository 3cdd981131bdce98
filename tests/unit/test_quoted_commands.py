"""What README and docs quote is there: commands, variables, source files, tests, links."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from sluice.cli import app
from sluice.settings import PROJECT, VARIABLES
from tests.support.quoted_commands import PAGES, blocks, quoted, unmarked

LINK = re.compile(r"\]\(([^)\s]*)[^)]*\)")
PER_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by, as GitHub and Zensical name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def require_known(call: str) -> None:
    """That `sluice CALL` is a command with these options."""
    words = re.sub(r"[\[\]]", " ", call).split()
    command: Any = typer.main.get_command(app)
    while commands := getattr(command, "commands", None):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break
        name = words.pop(0)
        assert name in commands, f"sluice {call}"
        command = commands[name]
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options = {word.split("=")[0] for word in words if word.startswith("-")}
    assert options <= known, f"sluice {call}"
    takes = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    assert takes or not words or options or words[0].startswith("("), f"sluice {call}"


@PER_PAGE
def test_every_quoted_command_is_known(page: Path) -> None:
    for call in quoted(page, "sluice"):
        require_known(call)


SOURCES = [
    *(PROJECT / "plugins").rglob("*.py"),
    *(PROJECT / "plugins").rglob("*.html"),
    *(PROJECT / "dags").glob("*.py"),
    *(PROJECT / "docs" / "prometheus").glob("*.yml"),
]
# What a message, a docstring or a page calls Sluice with, up to the end of the call.
CALL = re.compile(
    r"(?:(?:run|see|with|then|source|Run):? |[`>(,]\s?|or: |or )sluice ([a-z][^;,`'\"()<\n]*)"
)


@cache
def texts(file: Path) -> list[str]:
    """The texts of a source file; of a program its strings, `NAME` for what is put in."""
    if file.suffix != ".py":
        return [file.read_text()]
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (
                part.value if isinstance(part, ast.Constant) else "NAME" for part in node.values
            )
            found.append("".join(map(str, parts)))
    return found


def test_every_command_that_a_source_names_is_known() -> None:
    for file in SOURCES:
        for text in texts(file):
            for call in CALL.findall(text):
                require_known(call.strip().rstrip("."))


def test_every_page_and_make_target_that_a_source_names_is_there() -> None:
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.M)
    for text in (text for file in SOURCES for text in texts(file)):
        for page in re.findall(r"\bdocs/[\w/.-]+\.md", text):
            assert (PROJECT / page).exists(), page
        for target in re.findall(r"run: make (\w+)", text):
            assert target in targets, target


def test_calls_are_found_in_the_sources() -> None:
    """As many as there are, so that a change of style does not leave them unread."""
    calls = [call for file in SOURCES for text in texts(file) for call in CALL.findall(text)]
    assert len(calls) > 80
    assert {call.split()[0] for call in calls} >= {"init", "resync", "recover", "logs", "status"}
    with pytest.raises(AssertionError):
        require_known("resync NAME --everything")
    with pytest.raises(AssertionError):
        require_known("mend")
    with pytest.raises(AssertionError):
        require_known("init NAME")


def test_every_command_that_an_error_names_is_known() -> None:
    named = set(re.findall(r"\bsluice ([a-z-]+)", (PROJECT / "docs" / "errors.md").read_text()))
    assert named <= set(getattr(typer.main.get_command(app), "commands"))  # noqa: B009


@PER_PAGE
def test_every_block_of_shell_is_marked_as_bash_so_that_it_is_run(page: Path) -> None:
    assert unmarked(page) == []


@PER_PAGE
def test_every_quoted_make_target_is_in_the_makefile(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M)
    for call in quoted(page, "make"):
        assert call.split()[0] in targets, f"make {call}"


@PER_PAGE
def test_every_variable_named_is_a_setting(page: Path) -> None:
    tests_only = {"SLUICE_ANY_ORDER", "SLUICE_DIFFERENTIAL", "SLUICE_SLOW"}
    tests_only |= {"SLUICE_TEST_BROKER", "SLUICE_TEST_BROKER_OPTIONS"}
    named = set(re.findall(r"(?<!AIRFLOW_CONN_)SLUICE_[A-Z_]*[A-Z]\b", page.read_text()))
    assert named <= {*VARIABLES, *tests_only}


FILE = re.compile(r"`([\w./-]+\.(?:py|sql))\b")
# The name of a test, whole or up to `...`.
TEST = re.compile(r"`((?:[a-z0-9]+_){3,}[a-z0-9_]*)(\.\.\.)?`")


@cache
def files() -> list[str]:
    """Every source file of the project, as `/folder/name`."""
    folders = ("plugins", "dags", "models", "sql", "tests", "bench", "docker", ".ci")
    found = (path for folder in folders for path in (PROJECT / folder).rglob("*.[ps][yq]*"))
    return [f"/{path.relative_to(PROJECT)}" for path in found]


@cache
def names_of_tests() -> str:
    """The names of all tests, each between newlines."""
    text = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    return "\n".join(["", *re.findall(r"def test_(\w+)", text), ""])


@PER_PAGE
def test_every_source_file_named_is_there(page: Path) -> None:
    for name in FILE.findall(page.read_text()):
        assert any(file.endswith(f"/{name}") for file in files()), name


def test_every_test_that_the_page_of_faults_names_is_there() -> None:
    named = TEST.findall((PROJECT / "docs" / "faults.md").read_text())
    assert len(named) > 60
    for name, cut in named:
        assert (f"\n{name}" if cut else f"\n{name}\n") in names_of_tests(), name


def messages() -> list[str]:
    """What a person looks up: the table of symptoms, and the lines in italics of the runbooks."""
    symptoms = (PROJECT / "docs" / "operations.md").read_text().partition("## A poisoned topic")[0]
    runbooks = (PROJECT / "docs" / "recovery.md").read_text()
    cells = re.findall(r"^\| (`[^|]*) \|", symptoms, re.M) + re.findall(
        r"^\*(.*)\*$", runbooks, re.M
    )
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_every_message_that_a_page_explains_is_printed_by_a_source() -> None:
    """`...`, N and M stand for values; a check is named with its status."""
    printed = " ".join(" ".join(text.split()) for file in SOURCES for text in texts(file))
    assert len(messages()) > 30
    for message in messages():
        known = re.sub(r"^(\w+) (?:fail|warn|unsettled)$", r"\1", message)
        for part in re.split(r"\.\.\.|\b[NM]\b", known):
            assert part.strip(" :,") in printed, message


@PER_PAGE
def test_every_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title: `one`\n`make nothing` and\n```bash\nA=b sluice x && sluice y # z\n```\n"
    )
    assert quoted(page, "make") == ["nothing"]
    assert [call.strip() for call in quoted(page, "sluice")] == ["x", "y"]
    assert anchors(page) == {"a-title-one"}
    assert blocks(page) == ["A=b sluice x && sluice y # z\n"]
    page.write_text("Do:\n\n    export A=b\n\n```\npsql -f x\n```\n```yaml\nmake: up\n```\n")
    assert unmarked(page) == ["psql -f x\n", "export A=b\n"]


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r'"([\w/.-]+\.md)"', (PROJECT / "zensical.toml").read_text())
    docs = PROJECT / "docs"
    assert sorted(listed) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))
