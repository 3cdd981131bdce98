"""Pydantic schemas as source text, one module a model.

`X`, `XCreate` and `XUpdate` serve the API; `XEvent` is what the drain validates: a TypedDict,
because building a model instance for each event would double the cost of validation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sluice.catalog import Catalog, Column, Table
from sluice.type_map import Annotation

_IMPORTS = {
    "date": "from datetime import date",
    "datetime": "from datetime import datetime",
    "Decimal": "from decimal import Decimal",
    "UUID": "from uuid import UUID",
}

ENVELOPE = '''"""What a change event says of itself. Written by `sluice generate`; do not edit."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict


class EventMetadata(TypedDict):
    """Where a change came from and where it stands; the envelope is described in the docs."""

    source: Literal["relay", "connect"]
    table: str
    operation: Literal["read", "insert", "update", "delete", "truncate"]
    lsn: str | None
    commit_lsn: NotRequired[str | None]
    ordinal: NotRequired[int | None]
    commit_ts_ms: int | None
'''


def schema_modules(catalog: Catalog) -> dict[str, str]:
    """File name -> source text of the package that holds all schemas of the catalog."""
    modules = {f"{table.entity}.py": _module(catalog, table) for table in catalog.tables}
    return {"__init__.py": _package(catalog), "envelope.py": ENVELOPE, **modules}


def _package(catalog: Catalog) -> str:
    imports, names = [], ["EventMetadata"]
    for table in sorted(catalog.tables, key=lambda table: table.entity):
        exported = [f"{table.model}{suffix}" for suffix in ("", "Create", "Event", "Update")]
        names += exported
        listed = "".join(f"    {name},\n" for name in exported)
        imports.append(f"from {catalog.models}.generated.{table.entity} import (\n{listed})")
    envelope = f"from {catalog.models}.generated.envelope import EventMetadata"
    imports = sorted([envelope, *imports])
    listed = "".join(f'    "{name}",\n' for name in sorted(names))
    return (
        '"""Schemas of all models. Written by `sluice generate`; do not edit."""\n\n'
        "from __future__ import annotations\n\n"
        + "\n".join(imports)
        + f"\n\n__all__ = [\n{listed}]\n"
    )


def _module(catalog: Catalog, table: Table) -> str:
    classes = [_read(table), _create(table), _update(table), _row(table)]
    body = "\n\n\n".join([*classes, _event(table)])
    return (
        f'"""Schemas of {table.name}. Written by `sluice generate` from {table.module};'
        ' do not edit."""\n\n'
        "from __future__ import annotations\n\n"
        f"{_imports(catalog, body)}\n\n\n{body}\n"
    )


def _imports(catalog: Catalog, body: str) -> str:
    standard = [line for name, line in _IMPORTS.items() if name in _words(body)]
    if "Annotated[" in body:
        standard.append("from typing import Annotated")
    pydantic = ["BaseModel", "ConfigDict", *(["Field"] if "Field(" in body else [])]
    return "\n".join(
        [
            *_merged(standard),
            "",
            f"from pydantic import {', '.join(pydantic)}",
            "from typing_extensions import Required, TypedDict",
            "",
            f"from {catalog.models}.generated.envelope import EventMetadata",
        ]
    ).lstrip()


def _words(body: str) -> set[str]:
    return set(body.replace("[", " ").replace("]", " ").replace(",", " ").split())


def _merged(imports: Iterable[str]) -> list[str]:
    """`from x import a` and `from x import b` as one line, sorted as isort would."""
    names: dict[str, list[str]] = {}
    for line in imports:
        _, module, _, name = line.split()
        names.setdefault(module, []).append(name)
    return [f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names)]


def _read(table: Table) -> str:
    doc = table.doc.splitlines()[0] if table.doc else f"A row of {table.name}."
    fields = [
        f"{column.name}: {_optional(column.type.api, column.nullable)}" for column in table.columns
    ]
    return _class(
        f"class {table.model}(BaseModel):",
        doc,
        ["model_config = ConfigDict(from_attributes=True)", "", *fields],
    )


def _create(table: Table) -> str:
    fields = []
    for column in table.columns:
        if column.primary_key and column.has_default:
            continue
        optional = column.nullable or column.has_default
        default = " = None" if optional else ""
        fields.append(f"{column.name}: {_optional(column.type.api, optional)}{default}")
    doc = f"What a new row of {table.name} takes; the database fills in what is left out."
    return _class(f"class {table.model}Create(BaseModel):", doc, [_FORBID, "", *fields])


def _update(table: Table) -> str:
    fields = [
        f"{column.name}: {_optional(column.type.api, True)} = None"
        for column in table.columns
        if not column.primary_key
    ]
    doc = f"What changes in a row of {table.name}; what is left out stays."
    return _class(f"class {table.model}Update(BaseModel):", doc, [_FORBID, "", *fields])


_FORBID = 'model_config = ConfigDict(extra="forbid")'
_STRICT = '__pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]'


def _row(table: Table) -> str:
    fields = [f"{column.name}: {_row_field(column)}" for column in table.columns]
    doc = f"A row of {table.name} in an event; a delete carries the key alone."
    return _class(f"class {table.model}Row(TypedDict, total=False):", doc, [_STRICT, "", *fields])


def _row_field(column: Column) -> str:
    annotation = _optional(column.type.event, column.nullable)
    return f"Required[{annotation}]" if column.primary_key else annotation


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


def _optional(annotation: Annotation, optional: bool) -> str:
    return f"{annotation.source()} | None" if optional else annotation.source()


def _class(head: str, doc: str, lines: Iterable[str]) -> str:
    return "\n".join([head, f'    """{doc}"""', "", *_indented(lines)])


def _indented(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"    {line}" if line else ""
