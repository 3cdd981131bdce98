"""The catalog as a file: equal to that of the models, and not used in any doubt."""

from __future__ import annotations

import ast
import importlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import FunctionType

import pytest

from sluice.catalog import Catalog, load_catalog, read_models, stored
from sluice.catalog.mentions import Doubt
from sluice.catalog.sources import Sources, read_sources
from sluice.catalog.stored import CATALOG, catalog_text, generated_profile, stored_catalog
from sluice.data_types.mapping import PROFILES, column_type
from sluice.errors import StaleGenerated, WrongUsage
from sluice.generate.event_schemas import event_schema
from sluice.generate.files import difference, require_current, write_files
from sluice.settings import PROJECT

NO_SOURCES = Sources(files={}, imports={})


def model_sets() -> Iterator[str]:
    """Every module of the project with a base class of models that it can be read by."""
    for folder in ("models", "tests"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            body = ast.parse(path.read_text()).body
            bases = {ast.unparse(b) for c in body if isinstance(c, ast.ClassDef) for b in c.bases}
            if "DeclarativeBase" in bases and "test_" not in path.name:
                module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
                yield "models" if module == "models.base" else module.removesuffix(".__init__")


SETS = list(model_sets())


def shape(value: object) -> object:
    """A value with its types throughout; a function by its name and what it was made from."""
    if isinstance(value, FunctionType):
        made_from = [shape(cell.cell_contents) for cell in value.__closure__ or ()]
        return (value.__module__, value.__qualname__, made_from)
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value), [shape(getattr(value, field.name)) for field in fields(value)])
    if isinstance(value, dict):
        return (dict, [(shape(name), shape(own)) for name, own in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value), [shape(own) for own in value])
    return (type(value), repr(value))


def whole(catalog: Catalog) -> object:
    """A catalog with the types that are derived from it."""
    column_type.cache_clear()
    columns = [column for table in catalog.tables for column in table.columns]
    types = [shape(column.type) for column in columns]
    return (shape(catalog.tables), shape(catalog.facts), types, catalog.models, catalog.profile)


def test_the_model_sets_of_the_tests_are_found() -> None:
    assert {"models", "tests.logistics", "tests.support.type_samples"} <= set(SETS)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("models", SETS)
def test_the_catalog_read_back_is_that_of_the_models(models: str, profile: str) -> None:
    catalog = read_models(models, profile)
    text = catalog_text(catalog, NO_SOURCES)
    restored = stored.catalog_of(stored.decoded(text.encode()))
    assert whole(restored) == whole(catalog)
    assert catalog_text(restored, NO_SOURCES) == text


MODELS = {
    "__init__.py": """
import importlib
import pkgutil
from {name}.base import Base
for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg:
        importlib.import_module(f"{{__name__}}.{{_module.name}}")
""",
    "base.py": """
from sqlalchemy.orm import DeclarativeBase
from {name}_mixins.named import Named
class Base(DeclarativeBase, Named): ...
""",
    "ferry.py": """
from sqlalchemy.orm import Mapped, mapped_column
from .base import Base
class Ferry(Base):
    __tablename__ = "ferries"
    id: Mapped[int] = mapped_column(primary_key=True)
{extra}
""",
    "port.py": """
from sqlalchemy.orm import Mapped, mapped_column
from {name}.base import Base
class Port(Base):
    __tablename__ = "ports"
    id: Mapped[int] = mapped_column(primary_key=True)
""",
}
MIXINS = {
    "__init__.py": "",
    "named.py": """
from sqlalchemy.orm import Mapped
class Named:
    title: Mapped[str]
""",
}


class Fleet:
    """A project with a package of models and one of mixins beside it."""

    count = 0

    def __init__(self, root: Path) -> None:
        Fleet.count += 1
        self.root, self.name = root, f"fleet_{Fleet.count}"
        self.models, self.mixins = root / self.name, root / f"{self.name}_mixins"
        self.file = self.models / "generated" / CATALOG
        for folder, texts in ((self.models, MODELS), (self.mixins, MIXINS)):
            folder.mkdir()
            for name, text in texts.items():
                (folder / name).write_text(text.format(name=self.name, extra=""))

    def generate(self, profile: str = "") -> Catalog:
        catalog = read_models(self.name, profile)
        write_files(catalog, self.root)
        return catalog

    def say(self, line: str) -> None:
        """Add a line to a model's class."""
        self.append(self.models / "ferry.py", f"    {line}\n")

    def append(self, path: Path, text: str) -> None:
        path.write_text(path.read_text() + text)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.syspath_prepend(tmp_path)
    made = Fleet(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.startswith(made.name)]:
        del sys.modules[name]


def test_current_models_are_read_from_the_file_without_an_import(fleet: Fleet) -> None:
    catalog = fleet.generate()
    for name in [name for name in sys.modules if name.startswith(fleet.name)]:
        del sys.modules[name]
    found = stored_catalog(fleet.name)
    assert found is not None
    assert whole(found) == whole(catalog)
    assert not any(name.startswith(fleet.name) for name in sys.modules)
    assert {
        f"{fleet.name}_mixins/named.py",
        f"{fleet.name}/ferry.py",
    } < catalog.sources.files.keys()  # type: ignore[union-attr]
    assert difference(catalog, fleet.root) == ""
    require_current(catalog, fleet.root)


CHANGES: dict[str, Callable[[Fleet], object]] = {
    "model changed": lambda f: f.say("cars: Mapped[int]"),
    "model that looks the same": lambda f: f.append(f.models / "port.py", "# a comment\n"),
    "module added": lambda f: shutil.copy(f.models / "port.py", f.models / "pier.py"),
    "module in a new folder": lambda f: shutil.copytree(f.mixins, f.models / "more"),
    "module removed": lambda f: (f.models / "port.py").unlink(),
    "mixin changed": lambda f: f.append(f.mixins / "named.py", "    length: Mapped[int]\n"),
    "package of the mixin changed": lambda f: (f.mixins / "__init__.py").write_text("x = 1\n"),
    "mixin removed": lambda f: shutil.rmtree(f.mixins),
    "package in a module's place": lambda f: shutil.copytree(f.mixins, f.mixins / "named"),
    "compiled in a module's place": lambda f: (f.models / "ferry.pyc").touch(),
    "compiled module added": lambda f: (f.models / "pier.pyc").touch(),
    "linked folder added": lambda f: (f.models / "linked").symlink_to(f.mixins),
    "models moved away": lambda f: f.models.rename(f.root / "elsewhere"),
    "file missing": lambda f: f.file.unlink(),
    "file a folder": lambda f: (
        f.file.rename(f.root / "moved") and shutil.copytree(f.mixins, f.file)
    ),
    "file empty": lambda f: f.file.write_text(""),
    "file garbage": lambda f: f.file.write_bytes(b"\xff\x00" * 99),
    "file JSON of something else": lambda f: f.file.write_text("[1]"),
    "file of other models": lambda f: f.file.write_text(
        catalog_text(read_models("models"), NO_SOURCES)
    ),
    "file of the same sources by another name": lambda f: f.file.write_text(
        catalog_text(replace(read_models(f.name), models="other"), read_sources(f.name))
    ),
    "file edited": lambda f: f.file.write_text(f.file.read_text().replace("INTEGER", "BIGINT")),
    "schemas of the other profile": lambda f: f.append(
        f.file.with_name("__init__.py"), 'PROFILE = "compact"\n'
    ),
    "schemas without a profile": lambda f: f.file.with_name("__init__.py").write_text(""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_in_doubt_the_file_is_not_used(fleet: Fleet, change: str) -> None:
    fleet.generate()
    assert stored_catalog(fleet.name) is not None
    CHANGES[change](fleet)
    importlib.invalidate_caches()
    assert stored_catalog(fleet.name) is None


def test_another_profile_than_the_generated_one_is_read_from_the_models(fleet: Fleet) -> None:
    fleet.generate("compact")
    assert stored_catalog(fleet.name) is not None
    assert stored_catalog(fleet.name, "compact") is not None
    assert stored_catalog(fleet.name, "lossless") is None
    assert load_catalog(fleet.name, "lossless").profile == "lossless"


def test_a_library_or_sluice_of_another_version_does_not_use_the_file_nor_refuse_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = fleet.generate()
    monkeypatch.setattr(stored, "version", lambda _: "2.0.0")
    assert stored_catalog(fleet.name) is None
    require_current(catalog, fleet.root)
    assert '"sqlalchemy": "2.0.0"' in difference(catalog, fleet.root)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(fleet.root)
    monkeypatch.setattr(stored, "_own_code", lambda: "0" * 64)
    assert stored_catalog(fleet.name) is None
    require_current(catalog, fleet.root)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(fleet.root)
    fleet.file.write_text(fleet.file.read_text().replace("INTEGER", "BIGINT"))
    with pytest.raises(StaleGenerated, match=CATALOG):
        require_current(catalog, fleet.root)


def test_no_damage_of_the_file_gives_another_catalog(fleet: Fleet) -> None:
    catalog = fleet.generate()
    content = fleet.file.read_bytes()
    rng = random.Random(7)
    damaged = [content[: rng.randrange(len(content))] for _ in range(60)]
    for _ in range(240):
        at, byte = rng.randrange(len(content)), rng.randrange(256)
        damaged.append(content[:at] + bytes([byte]) + content[at + rng.randrange(2) :])
    used = 0
    for found in damaged:
        fleet.file.write_bytes(found)
        read = stored_catalog(fleet.name)
        used += read is not None
        assert read is None or read == catalog
    assert used < len(damaged) // 10  # the same byte, or white space at the end


@pytest.mark.parametrize(
    "mark",
    [
        'expect={"range": [Decimal("1.5"), None]}',
        'expect={"values": [date(2026, 1, 1)]}',
        'expect={"values": [float("nan")]}',
        'expect={"values": [float("inf")]}',
        'expect={"values": [(1, 2)]}',
        'expect={"values": [b"x"]}',
        'expect={"values": ["\\ud800"]}',
    ],
)
def test_marks_that_json_lacks_are_not_stored(fleet: Fleet, mark: str) -> None:
    fleet.say(f"cars: Mapped[int] = mapped_column(info=dict({mark}))")
    path = fleet.models / "ferry.py"
    path.write_text(f"from datetime import date\nfrom decimal import Decimal\n{path.read_text()}")
    assert fleet.generate().sources is not None
    assert not fleet.file.exists()
    assert load_catalog(fleet.name).table("ferries").column("cars").expectations


LAYOUTS = {
    "a module": ("{0}", "{0}.py", "{0}_generated"),
    "a module in a package": ("{0}_app.models", "{0}_app/models.py", "{0}_app/models_generated"),
    "a package in a package": (
        "{0}_app.models",
        "{0}_app/models/__init__.py",
        "{0}_app/models/generated",
    ),
    "a module in a folder": ("{0}_app.models", "{0}_app/models.py", "{0}_app/models_generated"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_models_and_schemas_are_found_in_every_layout(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"layout_{list(LAYOUTS).index(layout)}"
    models, source, schemas = (text.format(name) for text in LAYOUTS[layout])
    path, package = tmp_path / source, tmp_path / f"{name}_app" / "__init__.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    if "package" in layout:
        package.write_text("")
    path.write_text(
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\n"
        "class Base(DeclarativeBase): ...\n"
        "class Ferry(Base):\n"
        "    __tablename__ = 'ferries'\n"
        "    id: Mapped[int] = mapped_column(primary_key=True)\n"
    )
    catalog = read_models(models, "compact")
    write_files(catalog, tmp_path)
    assert catalog.schemas == schemas.replace("/", ".")
    assert (tmp_path / schemas / CATALOG).exists()
    assert stored_catalog(models) == catalog
    event = event_schema(catalog, catalog.table("ferries"))
    assert event is importlib.import_module(f"{catalog.schemas}.ferry").FerryEvent
    changed = package if package.parent.exists() else path  # a folder becomes a package
    changed.write_text(f"{changed.read_text() if changed.exists() else ''}x = 1\n")
    assert stored_catalog(models) is None


def test_a_missing_or_broken_schema_names_the_command_that_writes_it(fleet: Fleet) -> None:
    catalog = fleet.generate()
    path = fleet.file.with_name("ferry.py")
    for break_it in (lambda: path.write_text("class FerryEvent("), path.unlink):
        break_it()
        with pytest.raises(WrongUsage, match="has no schema of ferries") as caught:
            event_schema(catalog, catalog.table("ferries"))
        assert caught.value.remedy == "run: sluice generate"
    fleet.generate()
    assert event_schema(catalog, catalog.table("ferries")).__name__ == "FerryEvent"


ALONE = [
    "import sqlalchemy as sa",
    "from sqlalchemy.ext.asyncio import AsyncAttrs",
    "from typing import Annotated\nfrom collections.abc import Mapping",
    "from datetime import datetime, timezone\nnow = lambda: datetime.now(timezone.utc)",
    "from datetime import datetime\ndef made() -> datetime:\n    return datetime.now()",
    "from sqlalchemy import func\nat = func.now()",
    "from uuid import uuid4\nof = dict(default=uuid4)",
    "import re\nshape = re.compile('x')",
    "from . import port\nfrom .port import Port\nfrom .port import *",
    "from {name}.generated import nothing",
]
NOT_ALONE = [
    "import os",
    "import os.path",
    "from os import environ",
    "import sys",
    "from pathlib import Path",
    "import requests",
    "import no_such_package",
    "from importlib import metadata",
    "import importlib.resources",
    "import importlib as loader",
    "from pkgutil import get_data",
    "import pkgutil\ntext = pkgutil.get_data('x', 'y')",
    "import pkgutil\nlist(pkgutil.iter_modules(['/x']))",
    "import importlib\nimportlib.import_module('secrets')",
    "import importlib\nname = 'x'\nimportlib.import_module(name)",
    "import logging.config",
    "text = open('columns.txt')",
    "exec('x = 1')",
    "__import__('os')",
    "import logging\nvalue = logging.os.environ",
    "where = __file__",
    "from datetime import date\nyear = date.today().year",
    "from uuid import uuid4\nkey = uuid4()",
    "from sqlalchemy import create_engine",
    "from sqlalchemy import Table\nt = dict(autoload_with=None)",
    "from sqlalchemy.ext.automap import automap_base",
    "from sqlalchemy.ext.declarative import DeferredReflection",
    "import time",
    "import random",
    "import airflow",
    "(",
]


@pytest.mark.parametrize("line", ALONE)
def test_modules_that_reach_nothing_else_are_sources(fleet: Fleet, line: str) -> None:
    (fleet.models / "generated").mkdir()
    (fleet.models / "generated" / "nothing.py").write_text("import os\n")
    fleet.append(fleet.models / "port.py", f"\n{line.format(name=fleet.name)}\n")
    assert f"{fleet.name}/port.py" in read_sources(fleet.name).files


@pytest.mark.parametrize("line", NOT_ALONE)
@pytest.mark.parametrize("where", ["models", "mixins"])
def test_models_that_may_depend_on_more_are_always_imported(
    fleet: Fleet, line: str, where: str
) -> None:
    path = fleet.models / "port.py" if where == "models" else fleet.mixins / "named.py"
    fleet.append(path, f"\n{line}\n")
    with pytest.raises(Doubt, match=path.name):
        read_sources(fleet.name)


def test_a_generated_catalog_that_became_doubtful_is_removed(fleet: Fleet) -> None:
    fleet.generate()
    assert fleet.file.exists()
    fleet.append(fleet.models / "port.py", "import os\n")
    fleet.generate()
    assert not fleet.file.exists()


def test_a_package_that_walks_its_modules_by_name_is_read(fleet: Fleet) -> None:
    (fleet.models / "__init__.py").write_text(
        f"import importlib, pkgutil\nfrom {fleet.name}.base import Base\n"
        "for found in pkgutil.walk_packages(__path__, __name__ + '.'):\n"
        "    importlib.import_module(found.name)\n"
    )
    assert len(read_sources(fleet.name).files) == 6


def test_a_file_that_cannot_be_written_leaves_the_present_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.generate()
    paths = [path for kind in ("*.py", "*.json", "*.sql") for path in fleet.root.rglob(kind)]
    before = {path: path.read_text() for path in paths}

    def full(path: Path, text: str) -> None:
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WrongUsage, match=r"cannot write .*: No space left"):
        write_files(read_models(fleet.name, "compact"), fleet.root)
    assert {path: path.read_text() for path in before} == before


def test_the_profile_is_read_from_the_text_of_the_schemas(fleet: Fleet) -> None:
    assert generated_profile(fleet.name) == "lossless"
    (fleet.models / "generated").mkdir()
    text = fleet.models / "generated" / "__init__.py"
    for line in ('PROFILE = "compact"', "import os, (\nPROFILE='compact'  # a comment"):
        text.write_text(f"{line}\n")
        assert generated_profile(fleet.name) == "compact"
    for line in ("", 'PROFILE = "x"', 'PROFILE = "compact"\n=======\nPROFILE = "lossless"'):
        text.write_text(line)
        with pytest.raises(WrongUsage, match="sluice generate --profile") as caught:
            generated_profile(fleet.name)
        assert str(text) in str(caught.value)


PROGRAM = """
import json, sys
from sluice.catalog import load_catalog
from sluice.generate.event_schemas import event_schema
catalog = load_catalog("models")
before = sorted(sys.modules)
event = event_schema(catalog, catalog.table("orders"))
drained = sorted(sys.modules)
from models.generated import OrderEvent, order
from models.generated.envelope import EventMetadata
same = event is OrderEvent is order.OrderEvent and event.__annotations__ is not None
print(json.dumps([before, drained, same]))
"""


def test_a_task_imports_no_models_and_a_drain_one_schema() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    before, drained, same = json.loads(done.stdout)
    assert not {"models", "sqlalchemy"} & set(before)
    own = {name for name in drained if name.partition(".")[0] == "models"}
    assert own == {"models.generated.envelope", "models.generated.order"}
    assert same
