"""The source files that models are made of, read without importing them.

The stored catalog is used in place of the models as long as their sources are the same. So models
whose sources do not decide alone what they declare have no stored catalog: modules that may import
anything else than each other, SQLAlchemy and the pure part of the standard library, or that mention
files, the environment, the clock or a database. What they mention is judged by name and
conservatively: a false alarm costs only time.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sluice.catalog.disk import INIT, LIBRARY, PROJECT, PYTHON, Disk, folder_of
from sluice.catalog.mentions import Doubt, imports
from sluice.settings import project_marks

# Modules whose functions give the same on every machine and at any time, as far as models may use
# them; see _OUTSIDE. Nothing below these names unless it is listed too.
_PURE = frozenset(
    "__future__ abc collections collections.abc contextlib copy dataclasses datetime decimal enum"
    " fractions functools importlib ipaddress itertools json logging math numbers operator pkgutil"
    " re string textwrap types typing uuid warnings".split()
)
# Packages that are as pure; the stored catalog records their versions.
_LIBRARIES = frozenset("pydantic sqlalchemy sqlalchemy_utils sqlmodel typing_extensions".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of a module of models.

    Attributes:
        files: path -> SHA-256 of each file, below the folder in which its package is.
        imports: each imported top-level name -> `project`, `library` or `python`.
        marks: digest of the marks in sluice.toml. Default: there are none.
    """

    files: dict[str, str]
    imports: dict[str, str]
    marks: str = ""

    def hold(self, module: str) -> bool:
        """Whether a module is among them."""
        path = module.replace(".", "/")
        return f"{path}.py" in self.files or f"{path}/{INIT}" in self.files


def read_sources(models: str) -> Sources:
    """Read the sources of a module of models.

    Raises:
        Doubt: the sources alone do not decide what the models declare.
    """
    disk = Disk()
    start = disk.located(models)
    if start is None:
        raise Doubt(f"{models} is not an ordinary source file")
    reader = _Reader(models.partition(".")[0], start, disk)
    reader.pending += [(path, reader.top) for path in [start, *disk.tree(start)]]
    while reader.pending:
        reader.read(*reader.pending.pop())
    files, imports = (dict(sorted(found.items())) for found in (reader.files, reader.imports))
    return Sources(files=files, imports=imports, marks=project_marks().digest)


def same_sources(models: str, known: Sources) -> bool:
    """Whether the sources of models are these still; parses none of them but sluice.toml."""
    disk, top = Disk(), models.partition(".")[0]
    if project_marks().digest != known.marks:
        return False
    if any(disk.place(name, top) != place for name, place in known.imports.items()):
        return False
    start = disk.located(models)
    if start is None:
        return False
    present = {disk.key(path, top) for path in [start, *disk.tree(start)]}
    present |= {key for key in _packages(known) if (path := disk.path(key)) and path.is_file()}
    if not present <= known.files.keys():
        return False
    return all(_digest(disk, key) == digest for key, digest in known.files.items())


def _packages(known: Sources) -> set[str]:
    """Return where the files of the packages are, or could be, that the sources are in."""
    folders = {folder for key in known.files for folder in Path(key).parents if folder.parts}
    return {f"{folder.as_posix()}/{INIT}" for folder in folders}


def _digest(disk: Disk, key: str) -> str:
    path = disk.path(key)
    if path is None or not disk.alone(path):
        return ""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


class _Reader:
    """Reads a module's sources and those of the project's modules that they import.

    Attributes:
        pending: files, with their top-level module, that are to be read.
    """

    def __init__(self, top: str, start: Path, disk: Disk) -> None:
        self.top, self.disk, self.schemas = top, disk, folder_of(start)
        self.tree = start.parent if start.name == INIT else None
        self.files: dict[str, str] = {}
        self.pending: list[tuple[Path, str]] = []
        self.imports = {top: PROJECT}

    def read(self, path: Path, top: str) -> None:
        """Read a file; next, the packages that it is in and what it imports."""
        key = self.disk.key(path, top)
        if key in self.files:
            return
        if not self.disk.alone(path):
            raise Doubt(f"Python may read another module in the place of {key}")
        try:
            content = path.read_bytes()
            tree = ast.parse(content)
        except (OSError, ValueError, SyntaxError) as error:
            raise Doubt(f"{key} cannot be read: {error}") from error
        self.files[key] = sha256(content).hexdigest()
        for folder in path.parents[: key.count("/")]:
            if INIT in self.disk.names(folder):
                self.pending.append((folder / INIT, top))
        walked = self.tree is not None and self.tree in path.parents
        for name in imports(tree, key, walked=walked):
            self._follow(name, key)

    def _follow(self, name: str, key: str) -> None:
        """Note a module that `key` imports, or the module that has the imported name."""
        top, above = name.partition(".")[0], name.rpartition(".")[0]
        place = self.disk.place(top, self.top)
        path = self.disk.located(name)
        pure = name in _PURE or (path is None and above in _PURE)
        allowed = {PYTHON: pure, LIBRARY: top in _LIBRARIES, PROJECT: True}
        if not allowed.get(place, False):
            raise Doubt(f"{key} imports {name}")
        self.imports[top] = place
        if place != PROJECT:
            return
        path = path or (self.disk.located(above) if above else None)
        if path is None:
            raise Doubt(f"{key} imports {name}, which is no ordinary source file")
        if self.schemas not in path.parents:
            self.pending.append((path, top))
