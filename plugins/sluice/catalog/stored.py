"""The catalog as a file beside the generated schemas, so that a task need not import the models.

`sluice generate` writes it. It is read only while it is certain to be what the models would give:
the sources of the models, the profile, Sluice's own code of the catalog and the versions of the
libraries that models import have to be those it was written from. In any doubt the models are
imported. It has a line for each table and each source; what is derived from them is not stored.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from sluice.catalog.disk import INIT, LIBRARY, Disk, folder_of
from sluice.catalog.model_set import Catalog
from sluice.catalog.sources import Sources, same_sources
from sluice.catalog.stars import make_fact
from sluice.catalog.tables import LeftOut, Table
from sluice.data_types.mapping import LOSSLESS, PROFILES
from sluice.errors import WrongUsage

CATALOG = "catalog.json"
_PROFILE = re.compile(r"""^PROFILE\s*=\s*["'](\w+)["']""", re.MULTILINE)
_CODE = ("catalog", "data_types")  # Sluice's packages that make the catalog
# Lines that differ where only Sluice or a library has another version.
_MADE = re.compile(r'^"(made_by|sha256)": .*\n', re.MULTILINE)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The file; see `stored_text`."""

    made_by: dict[str, str]
    models: str
    profile: str
    imports: dict[str, str]
    sources: dict[str, str]
    tables: tuple[Table, ...]
    left_out: tuple[LeftOut, ...] = ()
    marks: str = ""
    sha256: str


decoded = msgspec.json.Decoder(_Stored).decode


def generated_at(models: str) -> float:
    """Return when the newest generated schema was written, seconds since 1970; 0 without one."""
    start = Disk().located(models)
    files = folder_of(start).glob("*") if start else ()
    return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)


def generated_profile(models: str) -> str:
    """Read the profile from the text of the generated schemas; `lossless` where there are none.

    Raises:
        WrongUsage: their text has no profile.
    """
    start = Disk().located(models)
    path = start and folder_of(start) / INIT
    if path is None or not path.is_file():
        return LOSSLESS
    try:
        stated = set(_PROFILE.findall(path.read_text()))
    except (OSError, ValueError) as error:
        raise _no_profile(path, str(error)) from error
    if len(stated) != 1 or not stated <= set(PROFILES):
        raise _no_profile(path, "it does not state one profile")
    return str(stated.pop())


def _no_profile(path: Path, why: str) -> WrongUsage:
    return WrongUsage(
        f"the profile of the generated schemas is not known from {path}: {why}",
        remedy=f"run: sluice generate --profile {' or '.join(PROFILES)}",
    )


def stored_text(catalog: Catalog) -> str | None:
    """Return the text of the catalog's file.

    Returns:
        None where the sources of the models do not decide what they declare, or where the file
        would not give the same catalog: if a mark has a value that JSON has not.
    """
    if catalog.sources is None:
        return None
    try:
        text = catalog_text(catalog, catalog.sources)
        restored = decoded(text.encode())
        kept = same(catalog.tables, restored.tables) and catalog_of(restored) == catalog
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError, WrongUsage) as error:
        log.info("the catalog of %s is not stored: %s", catalog.models, error)
        return None
    if not kept:
        log.info("the catalog of %s is not stored: JSON lacks a value of a mark", catalog.models)
    return text if kept else None


def catalog_text(catalog: Catalog, sources: Sources) -> str:
    """Return the text of the file of a catalog with these sources."""
    left_out = [f'"left_out": [\n{_rows(catalog.left_out)}\n]'] if catalog.left_out else []
    marks = [f'"marks": {json.dumps(sources.marks)}'] if sources.marks else []
    body = ",\n".join(
        [
            f'"made_by": {json.dumps(_made_by(sources.imports))}',
            f'"models": {json.dumps(catalog.models)}',
            f'"profile": {json.dumps(catalog.profile)}',
            f'"imports": {json.dumps(sources.imports)}',
            f'"sources": {{\n{_lines(sources.files)}\n}}',
            f'"tables": [\n{_rows(catalog.tables)}\n]',
            *left_out,
            *marks,
        ]
    )
    return f'{{\n{body},\n"sha256": "{_sha256(body)}"\n}}\n'


def same_catalog(text: str, other: str) -> bool:
    """Whether two files are equal but for the versions of Sluice and of libraries."""
    return _MADE.sub("", text) == _MADE.sub("", other)


def stored_catalog(models: str, profile: str = "") -> Catalog | None:
    """Read the catalog's file if it is certain to be what the models would give.

    Args:
        profile: the wanted profile. Default: that of the generated schemas.

    Returns:
        None in any doubt.
    """
    start = Disk().located(models)
    if start is None:
        return None
    path = folder_of(start) / CATALOG
    try:
        content = path.read_bytes()
        stored = decoded(content)
        doubt = _doubt(stored, content, models, profile)
        if not doubt:
            return catalog_of(stored)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, msgspec.MsgspecError, WrongUsage) as error:
        doubt = str(error)
    log.info("%s is not used: %s", path, doubt)
    return None


def _doubt(stored: _Stored, content: bytes, models: str, profile: str) -> str:
    """Return why a file is not certain to be current; empty if it is."""
    body = content.decode().removeprefix("{\n").rpartition(',\n"sha256": ')[0]
    sources = Sources(files=stored.sources, imports=stored.imports, marks=stored.marks)
    if _sha256(body) != stored.sha256:
        return "it was changed after it was written"
    if stored.models != models:
        return f"it is of {stored.models}"
    if stored.profile != generated_profile(models) or profile not in {"", stored.profile}:
        return f"it has the profile {stored.profile}"
    if stored.made_by != _made_by(stored.imports):
        return "Sluice or a library has another version"
    return "" if same_sources(models, sources) else "the models changed"


def catalog_of(stored: _Stored) -> Catalog:
    """Return the catalog in a file."""
    places = {(table.schema, table.relation): table for table in stored.tables}
    catalog = Catalog(
        models=stored.models,
        profile=stored.profile,
        tables=stored.tables,
        facts=tuple(make_fact(table, places) for table in stored.tables if table.is_fact),
        left_out=stored.left_out,
    )
    sources = Sources(files=stored.sources, imports=stored.imports, marks=stored.marks)
    return catalog.read_from(sources)


def same(one: object, other: object) -> bool:
    """Whether two values are equal, and of the same types throughout."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def _made_by(imports: dict[str, str]) -> dict[str, str]:
    """Return a hash of Sluice's own code, and the version of each library that models import."""
    libraries = sorted(name for name, place in imports.items() if place == LIBRARY)
    return {"sluice": _own_code(), **{name: _version(name) for name in libraries}}


@lru_cache
def _own_code() -> str:
    own = Path(__file__).parents[1]
    files = sorted(path for name in _CODE for path in (own / name).glob("*.py"))
    return _sha256("".join(sha256(path.read_bytes()).hexdigest() for path in files))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        raise WrongUsage(f"the version of {library} is not known") from None


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _lines(values: dict[str, str]) -> str:
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(text)}" for name, text in values.items())


def _rows(values: tuple[Table, ...] | tuple[LeftOut, ...]) -> str:
    return ",\n".join(json.dumps(_plain(value), allow_nan=False) for value in values)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; a dataclass without the fields that have their default."""
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {
            field.name: _plain(own)
            for field, own in pairs
            if field.default is MISSING or not same(own, field.default)
        }
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, (list, tuple)) else value
