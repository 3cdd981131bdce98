"""Pydantic schemas as source text, one module for each model.

`X`, `XCreate` and `XUpdate` serve the API. The drain validates `XEvent`, a TypedDict because an
instance of a model for each event would double the cost.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from pydantic import BaseModel

from sluice.catalog import Catalog, Column, Table
from sluice.data_types.annotations import Annotation, unhidden

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


# What a table's module defines, after the model's name.
_SUFFIXES = ("", "Create", "Update", "Row", "Event")
_EXPORTED = ("", "Create", "Event", "Update")


def schema_modules(catalog: Catalog) -> dict[str, str]:
    """Return file name -> source text of the package of all schemas."""
    modules = {f"{module_name(table)}.py": _module(catalog, table) for table in catalog.tables}
    return {"__init__.py": _package(catalog), "envelope.py": ENVELOPE, **modules}


def module_name(table: Table) -> str:
    """Return the name of the module of a table's schemas."""
    taken = iskeyword(table.entity) or table.entity == "envelope"
    return f"{table.entity}_" if taken else table.entity


def _package(catalog: Catalog) -> str:
    """Return the module that exports all schemas; a model's own name is that of its schema."""
    imports, names, models = [], [], {table.model for table in catalog.tables}
    for table in sorted(catalog.tables, key=lambda table: table.entity):
        exported = [
            f"{table.model}{suffix}"
            for suffix in _EXPORTED
            if not suffix or f"{table.model}{suffix}" not in models
        ]
        names += exported
        listed = "".join(f"    {name},\n" for name in exported)
        imports.append(f"from {catalog.schemas}.{module_name(table)} import (\n{listed})")
    if "EventMetadata" not in models:
        names.append("EventMetadata")
        imports.append(f"from {catalog.schemas}.envelope import EventMetadata")
    listed = "".join(f'    "{name}",\n' for name in ["PROFILE", *sorted(names)])
    return (
        '"""Schemas of all models. Written by `sluice generate`; do not edit."""\n\n'
        "from __future__ import annotations\n\n"
        + "\n".join(sorted(imports))
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


def _defined(table: Table) -> set[str]:
    """Return the names that the module of a table defines."""
    return {f"{table.model}{suffix}" for suffix in _SUFFIXES}


def _local(table: Table, name: str) -> str:
    """Return the name of an import in the module of a table, which may define the same name."""
    return unhidden(name, _defined(table))


def _hidden(table: Table) -> set[str]:
    """Return the names that hide a type's of the same name, which is renamed then.

    In a class body `date: date | None = None` binds `date` to the field, not the type.
    """
    columns = {name for column in table.columns for name in (column.attribute, column.name)}
    return columns | _defined(table) | set(field_names(table).values())


def _imports(catalog: Catalog, table: Table) -> str:
    """Return the imports in three groups: standard library, packages, this project."""
    fixed = {("pydantic", "BaseModel"), ("pydantic", "ConfigDict")}
    fixed |= {("typing_extensions", "Required"), ("typing_extensions", "TypedDict")}
    fixed |= {(f"{catalog.schemas}.envelope", "EventMetadata")}
    wanted = set()
    for module, name in fixed:
        local = _local(table, name)
        wanted.add((module, name if local == name else f"{name} as {local}"))
    hidden, fields = _hidden(table), field_names(table)
    for column in table.columns:
        api = _named(fields, column, column.type.api)
        for annotation in (api, column.type.event):
            wanted.update(annotation.renamed(hidden).imports)
    own = catalog.schemas.partition(".")[0]
    groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for module in sorted({module for module, _ in wanted}):
        names = ", ".join(sorted(name for owner, name in wanted if owner == module))
        root = module.partition(".")[0]
        group = 0 if root in sys.stdlib_module_names else 2 if root == own else 1
        groups[group].append(f"from {module} import {names}")
    return "\n\n".join("\n".join(lines) for lines in groups.values() if lines)


def field_names(table: Table) -> dict[str, str]:
    """Return attribute -> name of its field: another one where Pydantic has no such field."""
    names: dict[str, str] = {}
    attributes = {column.attribute for column in table.columns}
    for attribute in (column.attribute for column in table.columns):
        name = attribute
        if not _is_field(attribute):
            plain = re.sub(r"\W", "_", attribute).lstrip("_")
            plain = plain if plain and not plain[0].isdigit() else f"column_{plain}"
            plain = plain if _is_field(plain) else f"{plain}_"
            name = unhidden(plain, attributes | set(names.values()))
        names[attribute] = name
    return names


# What a field would hide, or Pydantic refuses as a field.
_OF_PYDANTIC = frozenset(dir(BaseModel)) | frozenset(dir(type(BaseModel)))


def _is_field(name: str) -> bool:
    reserved = iskeyword(name) or name.startswith(("_", "model_validate", "model_dump"))
    return name.isidentifier() and not reserved and name not in _OF_PYDANTIC


def _named(names: Mapping[str, str], column: Column, annotation: Annotation) -> Annotation:
    """Return the annotation of a column's field, with the attribute as alias of another name."""
    if names[column.attribute] == column.attribute:
        return annotation
    return annotation.constrained(alias=column.attribute)


def config(table: Table, **options: Any) -> dict[str, Any]:
    """Return the options of a schema; a field with an alias takes its own name as well."""
    renamed = any(name != attribute for attribute, name in field_names(table).items())
    return {**options, "validate_by_name": True} if renamed else options


def _config(table: Table, **options: Any) -> str:
    written = ", ".join(
        f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"
        for name, value in config(table, **options).items()
    )
    return f"model_config = {_local(table, 'ConfigDict')}({written})"


def first_line(table: Table) -> str:
    """Return the docstring of a table's rows."""
    return table.doc.splitlines()[0] if table.doc else f"A row of {table.name}."


def _read(table: Table) -> str:
    lines = [_config(table, from_attributes=True), "", *_lines(table, read_fields(table))]
    return _class(f"class {table.model}({_local(table, 'BaseModel')}):", first_line(table), lines)


def _create(table: Table) -> str:
    doc = f"A new row of {table.name}; the database fills in omitted columns."
    lines = [_config(table, extra="forbid"), "", *_lines(table, create_fields(table))]
    return _class(f"class {table.model}Create({_local(table, 'BaseModel')}):", doc, lines)


def _update(table: Table) -> str:
    doc = f"Changes to a row of {table.name}; omitted columns keep their values."
    lines = [_config(table, extra="forbid"), "", *_lines(table, update_fields(table))]
    return _class(f"class {table.model}Update({_local(table, 'BaseModel')}):", doc, lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaField:
    """A field of a schema; it defaults to None unless it is required.

    Attributes:
        attribute: the model's attribute, which its name may differ from; see `field_names`.
    """

    name: str
    attribute: str
    annotation: Annotation
    required: bool


def _field(
    names: Mapping[str, str], column: Column, annotation: Annotation, *, required: bool
) -> SchemaField:
    return SchemaField(
        name=names[column.attribute],
        attribute=column.attribute,
        annotation=_named(names, column, annotation),
        required=required,
    )


def read_fields(table: Table) -> list[SchemaField]:
    """Return the fields of `X`, a row as the API returns it."""
    names = field_names(table)
    return [_field(names, column, _nullable(column), required=True) for column in table.columns]


def create_fields(table: Table) -> list[SchemaField]:
    """Return the fields of `XCreate`."""
    fields, names = [], field_names(table)
    for column in table.columns:
        if column.computed or (column.primary_key and column.has_default):
            continue
        required = not column.nullable and not column.has_default
        annotation = column.type.api if required else column.type.api.optional()
        fields.append(_field(names, column, annotation, required=required))
    return fields


def update_fields(table: Table) -> list[SchemaField]:
    """Return the fields of `XUpdate`."""
    names = field_names(table)
    return [
        _field(names, column, column.type.api.optional(), required=False)
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


def _strict(table: Table) -> str:
    return f'__pydantic_config__ = {_local(table, "ConfigDict")}(strict=True, extra="forbid")'


def _row(table: Table) -> str:
    if not all(_in_class_body(column.name) for column in table.columns):
        return _row_by_call(table)
    hidden = _hidden(table)
    fields = [f"{column.name}: {_row_field(table, column, hidden)}" for column in table.columns]
    doc = f"A row of {table.name} in an event; a delete carries the key alone."
    strict = f"{_strict(table)}  # type: ignore[misc]"
    head = f"class {table.model}Row({_local(table, 'TypedDict')}, total=False):"
    return _class(head, doc, [strict, "", *fields])


def _in_class_body(name: str) -> bool:
    """Whether a class body can declare the name: it is not changed there, as `__name` is."""
    return name.isidentifier() and not iskeyword(name) and not name.startswith("__")


def _row_by_call(table: Table) -> str:
    """Return a row with column names that are invalid in a class body."""
    hidden = _hidden(table)
    fields = "\n".join(
        f"        {column.name!r}: {_row_field(table, column, hidden)}," for column in table.columns
    )
    name = f"{table.model}Row"
    return (
        f'{name} = {_local(table, "TypedDict")}(\n    "{name}",\n    {{\n{fields}\n    }},\n'
        f"    total=False,\n)\n{name}.{_strict(table)}  # type: ignore[attr-defined]"
    )


def _row_field(table: Table, column: Column, hidden: Set[str]) -> str:
    event = column.type.event.renamed(hidden)
    text = (event.optional() if column.nullable else event).text
    return f"{_local(table, 'Required')}[{text}]" if column.primary_key else text


def _event(table: Table) -> str:
    return _class(
        f"class {table.model}Event({_local(table, 'TypedDict')}):",
        f"A change event of {table.name}; a truncate has no payload.",
        [
            f"metadata: {_local(table, 'EventMetadata')}",
            f"payload: {table.model}Row | None",
            f"before: {table.model}Row | None",
        ],
    )


def _class(head: str, doc: str, lines: Iterable[str]) -> str:
    escaped = doc.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if escaped.endswith('"'):
        escaped = f'{escaped[:-1]}\\"'
    return "\n".join([head, f'    """{escaped}"""', "", *_indented(lines)])


def _indented(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"    {line}" if line else ""
