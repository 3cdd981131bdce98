"""Every command that prints JSON has a schema in docs/cli.md, and prints what the schema says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from typer.testing import CliRunner

from sluice.cli import app
from tests.support.json_schemas import require_valid, schemas
from tests.support.services import stack_environment

TABLE = ("table", "argument")


def printing_json(within: Any, before: str = "") -> Iterator[str]:
    """Yield the calls that print JSON."""
    for name, command in within.commands.items():
        if hasattr(command, "commands"):
            yield from printing_json(command, f"{before}{name} ")
        options = {option for parameter in command.params for option in parameter.opts}
        if "--json" in options:
            yield f"{before}{name} --json"
            if any((one.name, one.param_type_name) == TABLE for one in command.params):
                yield f"{before}{name} TABLE --json"
        if "--format" in options:
            yield f"{before}{name} --format json"


def objects(schema: Any) -> Iterator[Any]:
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for part in schema.values():
            yield from objects(part)


def test_every_command_that_prints_json_has_a_schema_and_no_other_has() -> None:
    assert set(schemas()) == set(printing_json(typer.main.get_command(app)))


@pytest.mark.parametrize("call", schemas())
def test_a_schema_is_valid_and_leaves_no_key_undescribed(call: str) -> None:
    schema = schemas()[call]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["required"]
    for part in objects(schema):
        assert part["additionalProperties"] is False
        assert set(part.get("required", ())) <= set(part["properties"])


@pytest.mark.parametrize("call", ["status --json", "doctor --json"])
def test_what_is_printed_of_a_stack_that_does_not_run_is_valid(call: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, call.split(), env=stack_environment(tmp_path))
    document = require_valid(call, done.stdout)
    assert document["healthy"] is False
    more = copy.deepcopy(document) | {"another": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(more, schemas()[call])


def test_the_status_without_models_is_valid_and_has_the_rest(tmp_path: Path) -> None:
    environment = {**stack_environment(tmp_path), "SLUICE_MODELS": "json"}
    done = CliRunner().invoke(app, ["status", "--json"], env=environment)
    document = require_valid("status --json", done.stdout)
    assert set(document["errors"]) == {"models", "airflow"}
    assert document["services"]
