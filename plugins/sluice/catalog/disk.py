"""Modules as files, found by name without importing them or their packages."""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path

PYTHON, PROJECT, LIBRARY = "python", "project", "library"
INIT = "__init__.py"
# What a file of a module's name may end with that Python prefers to its source.
_COMPILED = (".pyc", *EXTENSION_SUFFIXES)
_PYTHON = Path(os.__file__).parent


class Disk:
    """The modules on disk, found by name without importing them; looks at each folder once."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}
        self._folders: dict[Path, frozenset[str]] = {}

    def located(self, module: str) -> Path | None:
        """Return the source file of a module; None if it is not an ordinary file."""
        top, *below = module.split(".")
        entry = self.entry(top)
        if entry is None or not below:
            return entry
        if entry.name != INIT:
            return None
        stem = entry.parent.joinpath(*below)
        paths = (stem / INIT, stem.with_name(f"{stem.name}.py"))
        return next((path for path in paths if path.name in self.names(path.parent)), None)

    def entry(self, top: str) -> Path | None:
        """Return the file of a top-level module, or its package's `__init__.py`."""
        spec = self.spec(top)
        if spec is None:
            return None
        if spec.submodule_search_locations is None:
            path = Path(spec.origin or "")
            return path if path.suffix == ".py" else None
        folders = list(spec.submodule_search_locations)
        return Path(folders[0]) / INIT if len(folders) == 1 else None

    def spec(self, top: str) -> ModuleSpec | None:
        """Find a top-level module as an import does."""
        if top not in self._specs:
            try:
                self._specs[top] = importlib.util.find_spec(top)
            except (ImportError, ValueError):
                self._specs[top] = None
        return self._specs[top]

    def names(self, folder: Path) -> frozenset[str]:
        """Return the names in a folder; none if it cannot be read."""
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(path.name for path in folder.iterdir())
            except OSError:
                self._folders[folder] = frozenset()
        return self._folders[folder]

    def path(self, key: str) -> Path | None:
        """Return the file of a key; see `key`."""
        top, _, below = key.partition("/")
        entry = self.entry(top.removesuffix(".py"))
        return entry.parent / below if entry is not None and below else entry

    def key(self, path: Path, top: str) -> str:
        """Return a file's path below the folder in which its top-level module is."""
        entry = self.entry(top)
        assert entry is not None
        root = entry.parent.parent if entry.name == INIT else entry.parent
        return path.relative_to(root).as_posix()

    def alone(self, path: Path) -> bool:
        """Whether Python reads this file: no package or compiled module takes its place."""
        names = self.names(path.parent)
        others = {f"{path.stem}{suffix}" for suffix in _COMPILED}
        return path.name in names and not others & names and path.stem not in names

    def tree(self, start: Path) -> list[Path]:
        """Return all modules of the models' package, and links to folders; none for one module."""
        if start.name != INIT:
            return []
        found: list[Path] = []
        for folder, below, names in os.walk(start.parent):
            at = Path(folder)
            below[:] = [n for n in below if n != "__pycache__" and at / n != folder_of(start)]
            found += [at / name for name in names if name.endswith((".py", *_COMPILED))]
            found += [at / name for name in below if (at / name).is_symlink()]
        return sorted(found)

    def place(self, top: str, models: str) -> str:
        """Return where a top-level module is: in the project, a library or Python; else empty."""
        spec, entry = self.spec(top), self.entry(top)
        origin = (spec.origin if spec is not None else None) or ""
        installed = {"site-packages", "dist-packages"} & set(Path(origin).parts)
        if top == models and entry is not None:
            return PROJECT
        if origin in {"built-in", "frozen"} or (_PYTHON in Path(origin).parents and not installed):
            return PYTHON
        if entry is None:
            return ""
        return LIBRARY if installed else PROJECT


def folder_of(start: Path) -> Path:
    """Return the folder of the schemas that are generated from the models in this file."""
    if start.name == INIT:
        return start.parent / "generated"
    return start.with_name(f"{start.stem}_generated")
