"""What the text of a module mentions: its imports, and anything that is not in its sources.

It is judged by names and conservatively: a false alarm costs only time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Names by which a module reaches what is not in its sources.
_OUTSIDE = frozenset(
    "__builtins__ __debug__ __file__ __globals__ __import__ __loader__ __spec__ breakpoint environ"
    " environb eval exec getenv getnode globals input locals modules open os read_bytes read_text"
    " sys autoload_replace autoload_with automap_base create_async_engine create_engine"
    " create_mock_engine create_pool_from_url engine_from_config DeferredReflection".split()
)
_CLOCK = frozenset("fromtimestamp now today utcnow uuid1 uuid4 uuid6 uuid7".split())
WALKS = frozenset(["iter_modules", "walk_packages"])
# All that may be used of modules that are not wholly pure.
_PARTS = {"importlib": frozenset(["import_module"]), "pkgutil": WALKS}
_WALKS = frozenset(["iter_modules", "walk_packages"])
# All that may be used of modules that are not wholly pure.
_PARTS = {"importlib": frozenset(["import_module"]), "pkgutil": _WALKS}


class Doubt(Exception):
    """The models may depend on more than their sources; the message names where and by what."""


def imports(tree: ast.Module, key: str, *, walked: bool) -> list[str]:
    """Return the absolute names that a module imports, each with its module.

    Args:
        key: path of its file below the folder in which its top-level package is.
        walked: whether all modules of its package are sources anyway.

    Raises:
        Doubt: it may reach what is not in its sources.
    """
    return [_absolute(name, key) for name in _mentioned(tree, key, walked=walked)]


def _mentioned(tree: ast.Module, key: str, *, walked: bool) -> Iterator[str]:
    """Yield what a module imports; Doubt if it reaches what is not in its sources.

    Args:
        walked: whether all modules of its package are sources anyway.
    """
    nodes = list(ast.walk(tree))
    later = {id(node) for function in nodes for node in _body(function)}
    looped = {name for node in nodes for name in _looped(node)}
    for node in nodes:
        imported = list(_imported(node))
        yield from imported
        for name in _names(node):
            if name in _OUTSIDE or (name == "import_module" and not walked):
                raise Doubt(f"{key} mentions {name}")
        for name in _used(node, imported):
            module, _, part = name.partition(".")
            if module in _PARTS and part and part not in _PARTS[module]:
                raise Doubt(f"{key} uses {name}")
        if isinstance(node, ast.Call):
            called, line = _called(node), f"{key}, line {node.lineno}"
            if called == "import_module" and not _within_package(node, looped):
                raise Doubt(f"{line}: imports a module by a computed name")
            if called in _WALKS and not _of_package(node):
                raise Doubt(f"{line}: lists modules of another package")
            if called in _CLOCK and id(node) not in later and not _of_sql(node):
                raise Doubt(f"{line}: calls {called}()")


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the names that an import names, relative ones with their dots."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        yield from (_joined(base, alias.name) for alias in node.names)


def _used(node: ast.AST, imported: list[str]) -> list[str]:
    """Return what a node uses of modules, with their names; `*` for a module under another name."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return [f"{node.value.id}.{node.attr}"]
    if isinstance(node, ast.Import):
        return [f"{alias.name}.*" for alias in node.names if alias.asname]
    return imported


def _names(node: ast.AST) -> list[str]:
    """Return the names that a node reads or passes."""
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Load) else []
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.keyword):
        return [node.arg or ""]
    return [node.name] if isinstance(node, ast.alias) else []


def _body(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when a function is called, not when it is defined."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for statement in node.body:
            yield from ast.walk(statement)
    elif isinstance(node, ast.Lambda):
        yield from ast.walk(node.body)


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _of_sql(node: ast.Call) -> bool:
    """Whether a call is SQL's, such as `func.now()`."""
    return isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).endswith("func")


def _of_package(node: ast.AST) -> bool:
    """Whether a call lists the modules of the calling module's own package."""
    return (
        isinstance(node, ast.Call)
        and _called(node) in _WALKS
        and bool(node.args)
        and ast.unparse(node.args[0]) == "__path__"
    )


def _looped(node: ast.AST) -> Iterator[str]:
    """Yield the variable of a loop over the modules of the module's own package."""
    if isinstance(node, (ast.For, ast.comprehension)) and _of_package(node.iter):
        yield ast.unparse(node.target)


def _within_package(node: ast.Call, looped: set[str]) -> bool:
    """Whether `import_module` is called with a module of the calling module's own package."""
    name = ast.unparse(node.args[0]) if node.args else ""
    own = name.startswith(("f'{__name__}.", 'f"{__name__}.'))
    return own or name in {f"{variable}.name" for variable in looped}


def _joined(base: str, name: str) -> str:
    if name == "*":
        return base
    return f"{base}{name}" if base.endswith(".") else f"{base}.{name}"


def _absolute(name: str, key: str) -> str:
    """Return the absolute name of a module that the file `key` imports."""
    below = name.lstrip(".")
    level = len(name) - len(below)
    if not level:
        return name
    package = Path(key).parent.parts
    return ".".join([*package[: len(package) - level + 1], *([below] if below else [])])
