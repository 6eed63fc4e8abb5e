"""Modules made of other modules: in a row, by index, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import index as as_index
from typing import Any

from .module import Module

__all__ = ["ModuleDict", "ModuleList", "Sequential", "position"]


def position(container: Any, idx: Any, *, end: bool = False) -> int:
    """An index counted from the front; `end` allows the place behind the last one."""
    size = len(container)
    found = as_index(idx)
    if not -size <= found < size + end:
        raise IndexError(f"index {found} is out of range for a {type(container).__name__} of {size}")
    return found + size if found < 0 else found


class _Row(Module):
    """Modules numbered '0', '1', ...: what Sequential and ModuleList share."""

    def _put(self, modules: Iterable[Any]) -> None:
        """Make these the contents, numbered anew."""
        found = list(modules)
        for name in list(self._modules):
            delattr(self, name)
        for number, module in enumerate(found):
            self.add_module(str(number), module)

    def _values(self) -> list[Any]:
        return list(self._modules.values())

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            return self._of(list(self._modules.items())[idx])
        return self._values()[position(self, idx)]

    def _of(self, items: list[tuple[str, Any]]) -> Any:
        """A container of this kind with part of the modules."""
        return type(self)([module for _, module in items])

    def __setitem__(self, idx: Any, module: Any) -> None:
        setattr(self, list(self._modules)[position(self, idx)], module)

    def __delitem__(self, idx: Any) -> None:
        values = self._values()
        del values[idx]
        self._put(values)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values())

    def append(self, module: Any) -> Any:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Any]) -> Any:
        """Add several modules at the end."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Any) -> Any:
        """Put a module before position `index`."""
        values = self._values()
        values.insert(position(self, index, end=True), module)
        self._put(values)
        return self

    def pop(self, idx: Any = -1) -> Any:
        """Take a module out and return it."""
        module = self[idx]
        del self[position(self, idx)]
        return module


class Sequential(_Row):
    """Modules run one after the other, each on what the one before returned.

    Args:
        args: modules, or one dictionary of names to modules.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for number, module in enumerate(args):
                self.add_module(str(number), module)

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)
        return input

    def _of(self, items: list[tuple[str, Any]]) -> Any:
        return type(self)(dict(items))

    def __delitem__(self, idx: Any) -> None:
        names = list(self._modules)
        for name in names[idx] if isinstance(idx, slice) else [names[position(self, idx)]]:
            delattr(self, name)
        if all(name.isdigit() for name in names):
            self._put(self._values())

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, Sequential):
            return NotImplemented
        return Sequential(*self, *other)


class ModuleList(_Row):
    """Modules in a list; they are registered, and called by your own `forward`."""

    def __init__(self, modules: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def __iadd__(self, modules: Iterable[Any]) -> Any:
        return self.extend(modules)

    def __add__(self, other: Iterable[Any]) -> Any:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """Equal neighbours share a line: (0-2): 3 x Linear(...)."""
        if not len(self):
            return f"{self._get_name()}()"
        runs: list[list[Any]] = []
        for number, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1][1] = number
            else:
                runs.append([number, number, text])
        lines = [f"({first}): {text}" if first == last else f"({first}-{last}): {last - first + 1} x {text}"
                 for first, last, text in runs]
        return f"{self._get_name()}(\n  " + "\n  ".join(line.replace("\n", "\n  ") for line in lines) + "\n)"


class ModuleDict(Module):
    """Modules by name, in the order in which they were put in."""

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Any) -> None:
        if key in self._modules:
            setattr(self, key, module)
        else:
            self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self) -> Any:
        return self._modules.keys()

    def values(self) -> Any:
        return self._modules.values()

    def items(self) -> Any:
        return self._modules.items()

    def clear(self) -> None:
        """Take everything out."""
        for key in list(self._modules):
            del self[key]

    def pop(self, key: str) -> Any:
        """Take a module out and return it."""
        module = self[key]
        del self[key]
        return module

    def update(self, modules: Any) -> None:
        """Put in all of a mapping, or of an iterable of pairs."""
        for key, module in modules.items() if hasattr(modules, "items") else modules:
            self[key] = module
