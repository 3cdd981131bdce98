"""Type annotations, both as source text and as run-time objects."""

from __future__ import annotations

import importlib
import json
import re
import sys
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
        imports += [("builtins", name) for name in _BUILTINS if any(_word(name).findall(text))]
        kept = []
        for module, name in imports:
            if name in hidden:
                other = unhidden(name, hidden)
                text = _replaced(name, other, text)
                kept.append((module, f"{name} as {other}"))
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
        arguments = ", ".join(f"{name}={_literal(value)}" for name, value in constraints.items())
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


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def unhidden(name: str, hidden: Set[str]) -> str:
    """Return the name, with as many `_` as it takes to be none of the hidden ones."""
    while name in hidden:
        name += "_"
    return name


def _replaced(name: str, other: str, text: str) -> str:
    """Replace a name in a text, except in quoted texts."""
    return _word(name).sub(lambda found: other if found[1] else found[0], text)


def _word(name: str) -> re.Pattern[str]:
    """Return a pattern of quoted texts and of the name; its group is set for the name alone."""
    return re.compile(rf'"(?:[^"\\]|\\.)*"|\b({name})\b')


def plain(kind: type) -> Annotation:
    """Return the annotation that names a class, which may be nested in others of its module."""
    if kind.__module__ == "builtins":
        return Annotation(text=kind.__name__)
    outermost = kind.__qualname__.partition(".")[0]
    return Annotation(text=kind.__qualname__, imports=((kind.__module__, outermost),))


def importable(kind: type) -> bool:
    """Whether a class is found by its module and qualified name; none made in a function is."""
    found: object = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
