"""The JSON Schemas that docs/cli.md has of the commands' output."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema

from sluice.settings import PROJECT

_SECTION = re.compile(r"^### `sluice ([^`]+)`\n(.*?)^```json\n(.*?)^```", re.M | re.S)


def schemas() -> dict[str, Any]:
    """Call of `sluice` -> the schema of its output."""
    text = (PROJECT / "docs" / "cli.md").read_text()
    return {call: json.loads(schema) for call, _, schema in _SECTION.findall(text)}


def require_valid(call: str, output: str) -> Any:
    """The parsed output of a call, which has to be what the page says."""
    document = json.loads(output)
    jsonschema.Draft202012Validator(schemas()[call]).validate(document)
    return document
