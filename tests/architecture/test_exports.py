"""`__all__` of every module is there, true and complete."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from .sources import Source, sources

# An empty __init__ only makes a folder a package, and has nothing to offer.
NAMED = [source for source in sources() if source.tree.body]


def exported(source: Source) -> list[str] | None:
    """The names in `__all__`, following `[...] + other.__all__` no further than its literals; None without one."""
    names: list[str] | None = None
    for node in source.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else \
            [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            found = [item.value for item in ast.walk(node) if isinstance(item, ast.Constant)
                     and isinstance(item.value, str)]
            names = (names or []) + found
    return names


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, also those under `if` and `try`."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from statements(getattr(node, part, []))
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                yield from statements(handler.body)


def bound(source: Source) -> set[str]:
    """Every name that the module binds at its top level, submodules of a package included."""
    names = {other.module.rpartition(".")[2] for other in sources()
             if other.module.rpartition(".")[0] == source.module and source.path.endswith("__init__.py")}
    for node in statements(source.tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            names |= {item.id for item in ast.walk(node) if isinstance(item, ast.Name)
                      and isinstance(item.ctx, ast.Store)}
    return names


def defined(source: Source) -> set[str]:
    """Public classes and functions whose definition stands in this file."""
    return {node.name for node in statements(source.tree.body)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")}


@pytest.mark.parametrize("source", NAMED, ids=lambda source: source.module)
def test_all_is_complete(source: Source) -> None:
    names = exported(source)
    assert names is not None, f"{source.path} has no __all__"
    lazily = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in source.tree.body)
    starred = any(alias.name == "*" for node in source.tree.body if isinstance(node, ast.ImportFrom)
                  for alias in node.names)
    missing = sorted(set(names) - bound(source)) if not (lazily or starred) else []
    assert not missing, f"{source.path}: __all__ names what is not there: {missing}"
    unlisted = sorted(defined(source) - set(names))
    assert not unlisted, f"{source.path}: public, but not in __all__ (list it, or prefix an underscore): {unlisted}"
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"{source.path}: twice in __all__: {twice}"
