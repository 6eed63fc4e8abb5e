"""The package's files, parsed once for all architecture tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["ROOT", "Import", "Source", "sources"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "distgrad"


@dataclass(frozen=True)
class Import:
    """One imported module. `module` is absolute; `names` are what was taken from it, () for `import module`."""

    module: str
    names: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Source:
    """One file: its path within the repository, its module's name, its text and syntax tree."""

    path: str
    module: str
    package: str
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    def imports(self) -> Iterator[Import]:
        """Every import, at whatever depth: inside functions and under TYPE_CHECKING too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, (), node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self.package.split(".")[:len(self.package.split(".")) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                yield Import(module, tuple(alias.name for alias in node.names), node.lineno)

    def at(self, line: int) -> str:
        return f"{self.path}:{line}"


@cache
def sources() -> tuple[Source, ...]:
    """All modules of distgrad."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = parts[:-1]
        name = package if parts[-1] == "__init__" else parts
        text = path.read_text()
        found.append(Source(str(path.relative_to(ROOT)), ".".join(name), ".".join(package), text, ast.parse(text)))
    return tuple(found)
