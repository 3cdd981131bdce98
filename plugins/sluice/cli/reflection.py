"""Models from the tables of an existing PostgreSQL, by sqlacodegen."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import SAWarning, SQLAlchemyError

from sluice.errors import Unreachable, WrongUsage

_PUBLIC = "public"
_SYSTEM = re.compile("information_schema|pg_.*")
# Names of columns that may hold what belongs on no topic.
_SECRET = re.compile(r"passw|token|secret|api_?key|(^|_)ssn($|_)|private_key|salt$", re.IGNORECASE)
_HEAD = '''\
"""The models of {database}; the tables are in tables.py, as sqlacodegen wrote them.

Marks: `"star": "fact"` makes a table the grain of a fact, `"exclude": True` leaves a table or a
column in PostgreSQL.
"""

from __future__ import annotations

from {models}.tables import {base}

_tables = {base}{metadata}.tables
'''


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
            unknown = _reflect(engine, metadata, patterns)
        text = DeclarativeGenerator(metadata, engine, []).generate()
    except SQLAlchemyError as error:
        reason = " ".join(str(error).split())
        raise Unreachable(f"{url.render_as_string()} cannot be read: {reason}") from error
    finally:
        engine.dispose()
    facts, secrets = _facts(metadata.tables.values()), _secrets(metadata.tables.values())
    has_base = "class Base(" in text
    marks = [f'_tables[{name!r}].info["star"] = "fact"' for name in facts]
    marks += [f'_tables[{name!r}].columns[{c!r}].info["exclude"] = True' for name, c in secrets]
    head = _HEAD.format(
        database=url.database,
        models=models,
        base="Base" if has_base else "metadata",
        metadata=".metadata" if has_base else "",
    )
    return Reflected(
        files={"__init__.py": "\n".join([head, *marks]) + "\n", "tables.py": text},
        lines=[
            f"{len(metadata.tables)} tables were read",
            f"facts, as a suggestion in {models}/__init__.py: {', '.join(facts) or 'none'}",
            *(f"{column} is not in the models: its type has no mapping" for column in unknown),
            *(f"{name}.{column} is excluded, by its name" for name, column in secrets),
        ],
    )


def _reflect(engine: sa.Engine, metadata: sa.MetaData, patterns: Sequence[str]) -> list[str]:
    """Reflect the matching tables; return the columns whose types SQLAlchemy does not know.

    Raises:
        WrongUsage: no table matches.
    """
    inspector, unknown = sa.inspect(engine), []
    for schema in inspector.get_schema_names():
        if _SYSTEM.fullmatch(schema):
            continue
        for name in inspector.get_table_names(schema):
            if not any(
                fnmatchcase(name, p) or fnmatchcase(f"{schema}.{name}", p) for p in patterns
            ):
                continue
            columns = inspector.get_columns(name, schema)
            untyped = [str(c["name"]) for c in columns if isinstance(c["type"], sa.types.NullType)]
            unknown += [f"{schema}.{name}.{column}" for column in untyped]
            sa.Table(
                name,
                metadata,
                schema=None if schema == _PUBLIC else schema,
                autoload_with=inspector,  # type: ignore[call-overload] # stubs lack inspectors
                exclude_columns=untyped,
                resolve_fks=False,
            )
    if not metadata.tables:
        raise WrongUsage(f"no table matches {', '.join(patterns)}")
    return unknown


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


def _secrets(tables: Iterable[Any]) -> list[tuple[str, str]]:
    return sorted(
        (table.fullname, str(column.name))
        for table in tables
        for column in table.columns
        if _SECRET.search(column.name) and not column.primary_key
    )
