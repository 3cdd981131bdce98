"""The two generated blocks of Redpanda Connect's configuration, a hand-written file.

A block is between `# generated: NAME` and `# end of generated`, indented like its first line.
"""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

from sluice.catalog import Catalog, Table
from sluice.data_types.annotations import plain
from sluice.errors import WrongUsage

CONFIGURATION = Path("redpanda-connect.yaml")
_BLOCK = re.compile(r"^( *)# generated: (.+)\n(?:.*\n)*?\1# end of generated$", re.MULTILINE)


def configuration(catalog: Catalog, text: str) -> str:
    """Return the configuration with its blocks generated from the models.

    Raises:
        WrongUsage: a block is missing, or columns are masked.
    """
    require_unmasked(catalog)
    blocks = {"tables": _input(catalog), "tables of the mapping": _mapping(catalog)}
    present = {match[2] for match in _BLOCK.finditer(text)}
    if present != blocks.keys():
        raise WrongUsage(
            f"{CONFIGURATION} lacks one of the blocks {', '.join(sorted(blocks))}",
            remedy=f"restore {CONFIGURATION} from the repository, or remove it",
        )

    def render(match: re.Match[str]) -> str:
        lines = [f"# generated: {match[2]}", *blocks[match[2]], "# end of generated"]
        return "\n".join(match[1] + line for line in lines)

    return _BLOCK.sub(render, text)


def require_unmasked(catalog: Catalog) -> None:
    """Require that no column is masked, which Redpanda Connect cannot do.

    Raises:
        WrongUsage: one is.
    """
    for table in catalog.tables:
        for column in table.masked:
            raise WrongUsage(
                f"class {table.model}: column {column.name} is masked, and Redpanda Connect would"
                " send it unmasked",
                remedy=f"use the relay and remove {CONFIGURATION}, or remove the mask",
            )


def _captured(catalog: Catalog) -> list[Table]:
    """Return the tables in the first table's schema: the input reads one schema."""
    return [table for table in catalog.tables if table.schema == catalog.tables[0].schema]


def _input(catalog: Catalog) -> list[str]:
    captured = _captured(catalog)
    lines = [f"schema: {_name(captured[0].schema)}", "tables:"]
    lines += [f"  - {_name(table.relation)}" for table in captured]
    for table in catalog.tables:
        if table.schema != captured[0].schema:
            lines.append(f"# not {table.schema}.{table.relation}: postgres_cdc reads one schema")
    return lines


def _mapping(catalog: Catalog) -> list[str]:
    captured = [f"  {_entry(table)}" for table in _captured(catalog)]
    return ["let tables = {", *[f"{line}," for line in captured[:-1]], captured[-1], "}"]


def _entry(table: Table) -> str:
    known = {
        "name": table.name,
        "key": [column.name for column in table.key],
        "dates": [column.name for column in table.columns if column.type.event == plain(date)],
    }
    return f"{json.dumps(table.relation)}: {json.dumps(known)}"


def _name(identifier: str) -> str:
    """Quote an identifier for the input, with double quotes only where they are needed."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", identifier):
        return identifier
    escaped = identifier.replace('"', '""').replace("'", "''")
    return f"'\"{escaped}\"'"
