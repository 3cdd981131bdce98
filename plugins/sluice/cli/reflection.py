"""Models of a new project: from an existing PostgreSQL, by sqlacodegen, or of another package."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import SAWarning, SQLAlchemyError

from sluice.catalog.declared import core_tables, registries
from sluice.catalog.mappers import place
from sluice.catalog.masking import looks_secret
from sluice.catalog.models import imported, require_own_places
from sluice.data_types.annotations import importable
from sluice.errors import Unreachable, WrongUsage
from sluice.printable import named

_PUBLIC = "public"
_NAMED = 20  # tables of a line
_NUMBERS = (sa.Integer, sa.Numeric, sa.Float)
_SYSTEM = re.compile("information_schema|pg_.*")
# Names of columns that may hold what belongs on no topic.
_MARKS = '''
Marks: `"star": "fact"` makes a table the grain of a fact, `"exclude": True` leaves a table or a
column in PostgreSQL.
"""

from __future__ import annotations

'''
_READ = (
    '"""The models of {database}; the tables are in tables.py, as sqlacodegen wrote them.\n'
    + _MARKS
    + "from {models}.tables import {base}\n\n{marks}\n"
)
_ADOPTED = '"""The models of {models}, with marks.\n' + _MARKS + "{imports}\n\n{marks}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflected:
    """A package of models.

    Attributes:
        files: name -> text of its modules.
        lines: what was chosen for the person to look at.
    """

    files: dict[str, str]
    lines: list[str]


def reflected(url: URL, models: str, patterns: Sequence[str]) -> Reflected:
    """Read the tables whose names, or schemas and names, match one of the patterns."""
    try:
        from sqlacodegen.generators import DeclarativeGenerator
    except ImportError as error:
        raise WrongUsage(
            "--from-database needs sqlacodegen", remedy="run: pip install 'sluice[new]'"
        ) from error
    metadata = sa.MetaData()
    engine = sa.create_engine(url)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # of types, which are reported below
            unknown, others = _reflect(engine, metadata, patterns)
        generator = DeclarativeGenerator(metadata, engine, [])
        tables = metadata.tables.values()
        migrations = [t.fullname for t in tables if generator.should_ignore_table(t)]
        text = generator.generate()  # removes those
    except SQLAlchemyError as error:
        reason = " ".join(str(error).split())
        raise Unreachable(
            f"{url.render_as_string()} cannot be read: {reason}",
            remedy="fix the URL; it or PGPASSWORD has the password",
        ) from error
    finally:
        engine.dispose()
    base = "Base" if "class Base(" in text else "metadata"
    place = "Base.metadata" if base == "Base" else "metadata"
    marks, lines = _marks(metadata.tables.values(), {id(metadata): place})
    package = _READ.format(database=url.database, models=models, base=base, marks="\n".join(marks))
    return Reflected(
        files={"__init__.py": package, "tables.py": text},
        lines=[
            f"{len(metadata.tables)} tables were read",
            *(f"{column} is not in the models: its type has no mapping" for column in unknown),
            *others,
            *_left_out(migrations),
            *lines,
        ],
    )


def _left_out(migrations: Sequence[str]) -> Iterator[str]:
    """Yield a line that names tables in which tools such as Alembic keep their versions."""
    if migrations:
        names = named(migrations, _NAMED)
        yield f"not in the models, as they belong to migrations: {names}"


def adopted(models: str, package: str) -> Reflected:
    """Return a package that follows models of another place, which cannot be written beside."""
    module = imported(models)
    mapped = registries(module)
    places: dict[int, str] = {}  # of each MetaData, an expression that gives it
    imports = [f"import {models}"]
    for own in mapped:
        found = (m.class_ for m in sorted(own.mappers, key=lambda m: m.class_.__qualname__))
        kind = next(filter(importable, found), None)
        if kind is not None:
            top = kind.__qualname__.partition(".")[0]
            imports.append(f"from {kind.__module__} import {top}")
            places[id(own.metadata)] = f"{kind.__qualname__}.metadata"
    for name, value in vars(module).items():
        if isinstance(value, sa.MetaData) and id(value) not in places:
            imports.append(f"from {models} import {name}")
            places[id(value)] = name
    if not places:
        raise WrongUsage(
            f"module {models!r} has no SQLAlchemy models",
            remedy="name a module that defines or imports them, such as the one with their Base",
        )
    tables = core_tables(module, mapped)
    require_own_places(place(table) for table in tables if not table.info.get("exclude"))
    marks, lines = _marks(tables, places)
    listed = "\n".join(sorted(set(imports)))
    text = _ADOPTED.format(models=models, imports=listed, marks="\n".join(marks))
    return Reflected(files={"__init__.py": text}, lines=[f"{package} follows {models}", *lines])


def _marks(tables: Iterable[sa.Table], places: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Return statements that mark facts and secrets, and lines that name them.

    Args:
        places: id of a MetaData -> an expression that gives it.
    """
    listed = [table for table in tables if id(table.metadata) in places]
    expressions = {
        table.fullname: f"{places[id(table.metadata)]}.tables[{json.dumps(table.fullname)}]"
        for table in listed
    }
    facts, secrets = _facts(listed), _secrets(listed)
    marks = [f'{expressions[name]}.info["star"] = "fact"' for name in facts]
    marks += [
        f'{expressions[name]}.columns[{json.dumps(column)}].info["exclude"] = True'
        for name, column in secrets
    ]
    keyless = [table.fullname for table in listed if not table.primary_key.columns]
    lines = [f"facts, as a suggestion: {', '.join(facts) or 'none'}"]
    if keyless:
        lines.append(
            f"without a primary key, so not followed: {named(keyless, _NAMED)}; give them"
            " one in PostgreSQL and in the models"
        )
    return marks, [
        *lines,
        *(
            f'{name}.{column} is excluded, by its name; or write "mask": "hash"'
            for name, column in secrets
        ),
    ]


def _reflect(
    engine: sa.Engine, metadata: sa.MetaData, patterns: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Reflect the matching tables.

    Returns:
        The columns whose types SQLAlchemy does not know, and lines on what else matches.

    Raises:
        WrongUsage: no table matches.
    """
    inspector, unknown = sa.inspect(engine), list[str]()
    others: dict[str, list[str]] = {}
    for schema in inspector.get_schema_names():
        if _SYSTEM.fullmatch(schema):
            continue
        for kind, names in _not_tables(inspector, schema).items():
            matching = [f"{schema}.{name}" for name in names if _matches(schema, name, patterns)]
            others[kind] = [*others.get(kind, ()), *matching]
        for name in inspector.get_table_names(schema):
            if not _matches(schema, name, patterns):
                continue
            columns = inspector.get_columns(name, schema)
            untyped = [str(c["name"]) for c in columns if isinstance(c["type"], sa.types.NullType)]
            unknown += [f"{schema}.{name}.{column}" for column in untyped]
            sa.Table(  # type: ignore[call-overload] # stubs lack inspectors, which keep what they read
                name,
                metadata,
                schema=None if schema == _PUBLIC else schema,
                autoload_with=inspector,
                include_columns=[c["name"] for c in columns if c["name"] not in untyped],
                resolve_fks=False,
            )
    lines = [
        f"not in the models, as PostgreSQL sends no changes of {kind}: {named(names, _NAMED)}; use"
        " the underlying tables"
        for kind, names in others.items()
        if names
    ]
    if not metadata.tables:
        remedy = "\n".join(lines) or None
        raise WrongUsage(f"no table matches {', '.join(patterns)}", remedy=remedy)
    return unknown, lines


def _not_tables(inspector: Any, schema: str) -> dict[str, list[str]]:
    """Return what a schema has that can be queried and has no WAL of its own."""
    return {
        "views": inspector.get_view_names(schema),
        "materialized views": inspector.get_materialized_view_names(schema),
        "foreign tables": inspector.get_foreign_table_names(schema),
    }


def _matches(schema: str, name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) or fnmatchcase(f"{schema}.{name}", p) for p in patterns)


def _facts(tables: Iterable[sa.Table]) -> list[str]:
    """Return the tables that refer to others, that none refers to, and that hold something."""
    listed = list(tables)
    referred = {key.target_fullname.rpartition(".")[0] for t in listed for key in t.foreign_keys}
    return sorted(
        table.fullname
        for table in listed
        if table.foreign_keys
        and table.fullname not in referred
        and table.primary_key.columns
        and any(not c.primary_key and not c.foreign_keys for c in table.columns)
    )


def _secrets(tables: Iterable[sa.Table]) -> list[tuple[str, str]]:
    """Return tables and columns to exclude: not keys, nor columns that hold a followed key."""
    columns = [column for table in tables for column in table.columns]
    keys = {f"{c.table.fullname}.{c.name}" for c in columns if c.primary_key}
    return sorted(
        (column.table.fullname, str(column.name))
        for column in columns
        if looks_secret(str(column.name), number=isinstance(column.type, _NUMBERS))
        and not column.primary_key
        and not any(key.target_fullname in keys for key in column.foreign_keys)
    )
