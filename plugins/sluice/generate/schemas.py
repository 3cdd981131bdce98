"""Pydantic schemas as source text, one module for each model.

`X`, `XCreate` and `XUpdate` serve the API. The drain validates `XEvent`, a TypedDict because an
instance of a model for each event would double the cost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from keyword import iskeyword

from sluice.catalog import Catalog, Column, Table
from sluice.data_types.annotations import Annotation

ENVELOPE = '''"""Metadata of a change event. Written by `sluice generate`; do not edit."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict


class EventMetadata(TypedDict):
    """Source and position of a change; the documentation describes the envelope."""

    source: Literal["relay", "connect"]
    table: str
    operation: Literal["read", "insert", "update", "delete", "truncate"]
    lsn: str | None
    commit_lsn: NotRequired[str | None]
    ordinal: NotRequired[int | None]
    fence: NotRequired[int | None]
    commit_ts_ms: int | None
'''


def schema_modules(catalog: Catalog) -> dict[str, str]:
    """Return file name -> source text of the package of all schemas."""
    modules = {f"{table.entity}.py": _module(catalog, table) for table in catalog.tables}
    return {"__init__.py": _package(catalog), "envelope.py": ENVELOPE, **modules}


def _package(catalog: Catalog) -> str:
    imports, names = [], ["EventMetadata"]
    for table in sorted(catalog.tables, key=lambda table: table.entity):
        exported = [f"{table.model}{suffix}" for suffix in ("", "Create", "Event", "Update")]
        names += exported
        listed = "".join(f"    {name},\n" for name in exported)
        imports.append(f"from {catalog.schemas}.{table.entity} import (\n{listed})")
    envelope = f"from {catalog.schemas}.envelope import EventMetadata"
    imports = sorted([envelope, *imports])
    listed = "".join(f'    "{name}",\n' for name in ["PROFILE", *sorted(names)])
    return (
        '"""Schemas of all models. Written by `sluice generate`; do not edit."""\n\n'
        "from __future__ import annotations\n\n"
        + "\n".join(imports)
        + f'\n\nPROFILE = "{catalog.profile}"\n\n__all__ = [\n{listed}]\n'
    )


def _module(catalog: Catalog, table: Table) -> str:
    classes = [_read(table), _create(table), _update(table), _row(table)]
    body = "\n\n\n".join([*classes, _event(table)])
    return (
        f'"""Schemas of {table.name}. Written by `sluice generate` from {table.module};'
        ' do not edit."""\n\n'
        "from __future__ import annotations\n\n"
        f"{_imports(catalog, table)}\n\n\n{body}\n"
    )


def _hidden(table: Table) -> set[str]:
    """Return the names that hide a type's of the same name, which is renamed then.

    In a class body `date: date | None = None` binds `date` to the field, not the type.
    """
    return {name for column in table.columns for name in (column.attribute, column.name)}


def _imports(catalog: Catalog, table: Table) -> str:
    """Return the imports in three groups: standard library, packages, this project."""
    wanted = {("pydantic", "BaseModel"), ("pydantic", "ConfigDict")}
    wanted |= {("typing_extensions", "Required"), ("typing_extensions", "TypedDict")}
    wanted |= {(f"{catalog.schemas}.envelope", "EventMetadata")}
    hidden = _hidden(table)
    for column in table.columns:
        for annotation in (column.type.api, column.type.event):
            wanted.update(annotation.renamed(hidden).imports)
    own = catalog.schemas.partition(".")[0]
    groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for module in sorted({module for module, _ in wanted}):
        names = ", ".join(sorted(name for owner, name in wanted if owner == module))
        root = module.partition(".")[0]
        group = 0 if root in sys.stdlib_module_names else 2 if root == own else 1
        groups[group].append(f"from {module} import {names}")
    return "\n\n".join("\n".join(lines) for lines in groups.values() if lines)


def _read(table: Table) -> str:
    doc = table.doc.splitlines()[0] if table.doc else f"A row of {table.name}."
    fields = read_fields(table)
    return _class(
        f"class {table.model}(BaseModel):",
        doc,
        ["model_config = ConfigDict(from_attributes=True)", "", *_lines(table, fields)],
    )


def _create(table: Table) -> str:
    doc = f"A new row of {table.name}; the database fills in omitted columns."
    lines = [_FORBID, "", *_lines(table, create_fields(table))]
    return _class(f"class {table.model}Create(BaseModel):", doc, lines)


def _update(table: Table) -> str:
    doc = f"Changes to a row of {table.name}; omitted columns keep their values."
    lines = [_FORBID, "", *_lines(table, update_fields(table))]
    return _class(f"class {table.model}Update(BaseModel):", doc, lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaField:
    """A field of a schema; it defaults to None unless it is required."""

    name: str
    annotation: Annotation
    required: bool


def read_fields(table: Table) -> list[SchemaField]:
    """Return the fields of `X`, a row as the API returns it."""
    return [
        SchemaField(name=column.attribute, annotation=_nullable(column), required=True)
        for column in table.columns
    ]


def create_fields(table: Table) -> list[SchemaField]:
    """Return the fields of `XCreate`."""
    fields = []
    for column in table.columns:
        if column.computed or (column.primary_key and column.has_default):
            continue
        required = not column.nullable and not column.has_default
        annotation = column.type.api if required else column.type.api.optional()
        fields.append(SchemaField(name=column.attribute, annotation=annotation, required=required))
    return fields


def update_fields(table: Table) -> list[SchemaField]:
    """Return the fields of `XUpdate`."""
    return [
        SchemaField(name=column.attribute, annotation=column.type.api.optional(), required=False)
        for column in table.columns
        if not column.primary_key and not column.computed
    ]


def _nullable(column: Column) -> Annotation:
    return column.type.api.optional() if column.nullable else column.type.api


def _lines(table: Table, fields: Iterable[SchemaField]) -> Iterator[str]:
    hidden = _hidden(table)
    for field in fields:
        default = "" if field.required else " = None"
        yield f"{field.name}: {field.annotation.renamed(hidden).text}{default}"


_FORBID = 'model_config = ConfigDict(extra="forbid")'
_STRICT = '__pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]'


def _row(table: Table) -> str:
    if any(not column.name.isidentifier() or iskeyword(column.name) for column in table.columns):
        return _row_by_call(table)
    hidden = _hidden(table)
    fields = [f"{column.name}: {_row_field(column, hidden)}" for column in table.columns]
    doc = f"A row of {table.name} in an event; a delete carries the key alone."
    return _class(f"class {table.model}Row(TypedDict, total=False):", doc, [_STRICT, "", *fields])


def _row_by_call(table: Table) -> str:
    """Return a row with column names that are invalid in a class body."""
    hidden = _hidden(table)
    fields = "\n".join(
        f"        {column.name!r}: {_row_field(column, hidden)}," for column in table.columns
    )
    name = f"{table.model}Row"
    return (
        f'{name} = TypedDict(\n    "{name}",\n    {{\n{fields}\n    }},\n    total=False,\n)\n'
        f'{name}.__pydantic_config__ = ConfigDict(strict=True, extra="forbid")'
        "  # type: ignore[attr-defined]"
    )


def _row_field(column: Column, hidden: Set[str]) -> str:
    event = column.type.event.renamed(hidden)
    text = (event.optional() if column.nullable else event).text
    return f"Required[{text}]" if column.primary_key else text


def _event(table: Table) -> str:
    return _class(
        f"class {table.model}Event(TypedDict):",
        f"A change event of {table.name}; a truncate has no payload.",
        [
            "metadata: EventMetadata",
            f"payload: {table.model}Row | None",
            f"before: {table.model}Row | None",
        ],
    )


def _class(head: str, doc: str, lines: Iterable[str]) -> str:
    return "\n".join([head, f'    """{doc}"""', "", *_indented(lines)])


def _indented(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"    {line}" if line else ""
