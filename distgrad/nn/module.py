"""Module: a tree of parameters, buffers and submodules with a `forward`.

It owns names and who belongs to whom. Walking the tree is in _walk.py, saving and loading in _state.py,
hooks in _hooks.py. It knows neither optimizers nor ranks.

[Note: two homes] A registered tensor or module stands in its table (`_parameters`, `_buffers`,
`_modules`: order and kind) and in the instance's own dictionary, so that `self.weight` costs a plain
attribute access. Change them by attribute or by the register methods, never in one of the two places.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..graph.base import TensorBase
from ._hooks import Hooked, run_with_hooks
from ._state import Stateful
from ._walk import Walked
from .parameter import Buffer, Parameter

__all__ = ["Module"]

_TABLES = ("_parameters", "_buffers", "_modules")


class Module(Walked, Stateful, Hooked):
    """Base of all layers and models.

    A subclass calls `super().__init__()`, assigns parameters, buffers and modules as attributes, and
    defines `forward`. Calling the module runs its hooks and `forward`.
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, TensorBase | None]
    _modules: dict[str, Module | None]
    _transient: set[str]          # names of buffers that state_dict leaves out
    _hooks: ClassVar[Any] = None  # an instance has its own once a hook is registered

    def __init__(self) -> None:
        own = self.__dict__
        own["training"] = True
        own["_parameters"] = {}
        own["_buffers"] = {}
        own["_modules"] = {}
        own["_transient"] = set()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return run_with_hooks(self, self._hooks, args, kwargs)

    # -- registering

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            self._need_tables("parameters")
            self._forget(name, "_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._need_tables("modules")
            self._forget(name, "_modules")
            own["_modules"][name] = own[name] = value
        elif isinstance(value, Buffer):
            self._need_tables("buffers")
            self._forget(name, "_buffers")
            self.register_buffer(name, value, value.persistent)
        else:
            table = self._table_of(name)
            if table is None:
                object.__setattr__(self, name, value)
                return
            kind = TensorBase if table == "_buffers" else Parameter if table == "_parameters" else Module
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{type(self).__name__}.{name} is registered under {table[1:]}: assign a "
                                f"{'Tensor' if kind is TensorBase else kind.__name__} or None, not a "
                                f"{type(value).__name__}, or delete it first")
            own[table][name] = own[name] = value

    def __delattr__(self, name: str) -> None:
        if self._table_of(name) is None:
            object.__delattr__(self, name)
        else:
            self._forget(name)

    def _need_tables(self, what: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {what}")

    def _table_of(self, name: str) -> str | None:
        """Where `name` is registered."""
        own = self.__dict__
        if "_parameters" in own:
            for table in _TABLES:
                if name in own[table]:
                    return table
        return None

    def _forget(self, name: str, keep: str = "") -> None:
        """Take `name` out of everything but the table `keep`, whose order it keeps."""
        own = self.__dict__
        own.pop(name, None)
        for table in _TABLES:
            if table != keep:
                own[table].pop(name, None)
        if keep != "_buffers":
            own["_transient"].discard(name)

    def _check_name(self, name: Any, table: str) -> None:
        self._need_tables(table[1:])
        if not isinstance(name, str):
            raise TypeError(f"a name in {table[1:]} is a string, got {type(name).__name__}")
        if "." in name or not name:
            raise KeyError(f"{name!r} cannot be a name in {table[1:]}: empty, or with a dot, which separates levels")
        if name not in self.__dict__[table] and hasattr(self, name):
            raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`; None keeps the name for a parameter that is left out.

        Raises:
            TypeError: no Parameter.
            KeyError: the name is taken, empty or has a dot.
            ValueError: it was computed from other tensors.
        """
        self._check_name(name, "_parameters")
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(f"parameter {name!r} is a Parameter or None, got {type(param).__name__}")
            if param.fn is not None:
                raise ValueError(f"parameter {name!r} was computed from other tensors ({param.grad_fn.name()}): only "
                                 "leaves can be parameters; compute it in forward() instead")
        self._parameters[name] = self.__dict__[name] = param

    def register_buffer(self, name: str, tensor: TensorBase | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained.

        Args:
            persistent: whether it is part of `state_dict()`.

        Raises:
            TypeError: no tensor.
            KeyError: the name is taken, empty or has a dot.
        """
        self._check_name(name, "_buffers")
        if tensor is not None and not isinstance(tensor, TensorBase):
            raise TypeError(f"buffer {name!r} is a tensor or None, got {type(tensor).__name__}")
        self._buffers[name] = self.__dict__[name] = tensor
        (self._transient.discard if persistent else self._transient.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule under `name`.

        Raises:
            TypeError: no Module.
            KeyError: the name is taken, empty or has a dot.
        """
        self._check_name(name, "_modules")
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"submodule {name!r} is a Module or None, got {type(module).__name__}")
        self._modules[name] = self.__dict__[name] = module

    register_module = add_module

    # -- showing

    def extra_repr(self) -> str:
        """What stands between the parentheses of this module's own line."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_indented(repr(module))}" for name, module in self._modules.items()]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"

    def __dir__(self) -> list[str]:
        return sorted(name for name in super().__dir__() if not name[0].isdigit())


def _indented(text: str) -> str:
    """All lines but the first moved in by two."""
    return text.replace("\n", "\n  ")
