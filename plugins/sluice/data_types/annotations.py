"""Type annotations, both as source text and as run-time objects."""

from __future__ import annotations

import importlib
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

_BUILTINS = ("bool", "bytes", "dict", "float", "int", "list", "str")


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A type annotation as source text.

    Attributes:
        text: the source text.
        imports: (module, name) of every name in it that is no builtin. Default: none.
    """

    text: str
    imports: tuple[tuple[str, str], ...] = ()

    def renamed(self, hidden: Set[str]) -> Annotation:
        """Return the annotation with each type in `hidden` renamed: `date` as `date_`."""
        if hidden.isdisjoint(_BUILTINS) and hidden.isdisjoint(name for _, name in self.imports):
            return self
        text, imports = self.text, list(self.imports)
        imports += [("builtins", name) for name in _BUILTINS if re.search(rf"\b{name}\b", text)]
        kept = []
        for module, name in imports:
            if name in hidden:
                text = re.sub(rf"\b{name}\b", f"{name}_", text)
                kept.append((module, f"{name} as {name}_"))
            elif module != "builtins":
                kept.append((module, name))
        return Annotation(text=text, imports=tuple(kept))

    def resolve(self) -> Any:
        """Evaluate the annotation to a run-time object."""
        names = {
            name: getattr(importlib.import_module(module), name) for module, name in self.imports
        }
        return eval(self.text, names)  # noqa: S307 - the text is this package's own

    def constrained(self, **constraints: Any) -> Annotation:
        """Return the annotation with Pydantic's Field constraints."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in constraints.items())
        if not arguments:
            return self
        return Annotation(
            text=f"Annotated[{self.text}, Field({arguments})]",
            imports=(*self.imports, ("typing", "Annotated"), ("pydantic", "Field")),
        )

    def optional(self) -> Annotation:
        """Return the annotation that allows None as well."""
        return Annotation(text=f"{self.text} | None", imports=self.imports)

    def listed(self) -> Annotation:
        """Return the annotation of a list of it."""
        return Annotation(text=f"list[{self.text}]", imports=self.imports)


def plain(kind: type) -> Annotation:
    """Return the annotation that names a class."""
    if kind.__module__ == "builtins":
        return Annotation(text=kind.__name__)
    return Annotation(text=kind.__qualname__, imports=((kind.__module__, kind.__qualname__),))
