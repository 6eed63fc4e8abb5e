"""Parameters in lists and dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..graph.base import TensorBase
from .container import position
from .module import Module
from .parameter import Parameter

__all__ = ["ParameterDict", "ParameterList"]


def _line(key: Any, value: Any) -> str:
    """One entry of a container of parameters, as torch shows it."""
    size = "x".join(str(n) for n in value.shape)
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    return f"  ({key}): {kind} containing: [{type(value).__module__.split('.')[0]}.{value.dtype} of size {size}]"


class ParameterList(Module):
    """Parameters in a list; tensors that are put in become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            return type(self)(list(self)[idx])
        return self._parameters[str(position(self, idx))]

    def __setitem__(self, idx: Any, value: Any) -> None:
        setattr(self, str(position(self, idx)), _as_parameter(value))

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._parameters.values()))

    def append(self, value: Any) -> Any:
        """Add a parameter at the end."""
        self.register_parameter(str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> Any:
        """Add several parameters at the end."""
        for value in list(values):
            self.append(value)
        return self

    __iadd__ = extend

    def extra_repr(self) -> str:
        return "\n".join(_line(key, value) for key, value in self._parameters.items())


class ParameterDict(Module):
    """Parameters by name; tensors that are put in become parameters."""

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self.update(parameters or {})

    def __getitem__(self, key: str) -> Any:
        return self._parameters[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._parameters:
            setattr(self, key, _as_parameter(value))
        else:
            self.register_parameter(key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        if key not in self._parameters:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, key: str) -> bool:
        return key in self._parameters

    def keys(self) -> Any:
        return self._parameters.keys()

    def values(self) -> Any:
        return self._parameters.values()

    def items(self) -> Any:
        return self._parameters.items()

    def pop(self, key: str) -> Any:
        """Take a parameter out and return it."""
        value = self[key]
        del self[key]
        return value

    def update(self, parameters: Any) -> None:
        """Put in all of a mapping, or of an iterable of pairs."""
        for key, value in parameters.items() if hasattr(parameters, "items") else parameters:
            self[key] = value

    def extra_repr(self) -> str:
        return "\n".join(_line(key, value) for key, value in self._parameters.items())


def _as_parameter(value: Any) -> Any:
    """A tensor as a parameter; parameters pass, and what is no tensor is refused when it is registered."""
    return Parameter(value) if isinstance(value, TensorBase) and not isinstance(value, Parameter) else value
