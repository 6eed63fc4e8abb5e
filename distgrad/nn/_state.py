"""state_dict and load_state_dict: a module's tensors under torch's names, out and in.

Loading checks everything before it writes anything, and says all that is wrong in one error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..graph.base import TensorBase
from ..graph.modes import no_grad
from .parameter import Parameter

__all__ = ["IncompatibleKeys", "Stateful"]


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` did not find, and what it found no place for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Stateful:
    """Module's methods for saving and loading."""

    def state_dict(self, *, destination: dict[str, Any] | None = None, prefix: str = "",
                   keep_vars: bool = False) -> dict[str, Any]:
        """Dotted name -> tensor of all parameters and persistent buffers, sharing their memory.

        Args:
            destination: a dictionary to fill.
            prefix: put before each name.
            keep_vars: give the parameters themselves instead of detached tensors.
        """
        found: dict[str, Any] = {} if destination is None else destination
        for name, tensor in self._own_state():
            found[prefix + name] = tensor if keep_vars else tensor.detach()
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=found, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return found

    def _own_state(self) -> list[tuple[str, Any]]:
        """(name, tensor) of what this module itself saves."""
        pairs = [*self._parameters.items(), *((n, b) for n, b in self._buffers.items() if n not in self._transient)]
        return [(name, tensor) for name, tensor in pairs if tensor is not None]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True,
                        assign: bool = False) -> IncompatibleKeys:
        """Copy tensors into this module's memory by name.

        Args:
            state_dict: as `state_dict()` gives it.
            strict: names must match exactly.
            assign: take the given tensors over instead of copying their values.

        Returns:
            The names missing in `state_dict`, and those without a place here.

        Raises:
            TypeError: `state_dict` is no mapping.
            RuntimeError: names do not match (`strict`), or a shape differs; lists all. Nothing was changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict takes a mapping of names to tensors, got {type(state_dict).__name__}")
        places = {f"{path}.{name}" if path else name: (module, name, tensor)
                  for path, module in self.named_modules(remove_duplicate=False)
                  for name, tensor in module._own_state()}
        missing = [name for name in places if name not in state_dict]
        unexpected = [name for name in state_dict if name not in places]
        wrong = [problem for name, (_, _, tensor) in places.items() if name in state_dict
                 and (problem := _mismatch(name, tensor, state_dict[name]))]
        if strict and unexpected:
            wrong.insert(0, "no place for: " + ", ".join(map(repr, unexpected)))
        if strict and missing:
            wrong.insert(0, "missing: " + ", ".join(map(repr, missing)))
        if wrong:
            raise RuntimeError(f"the state does not fit {type(self).__name__}:\n  " + "\n  ".join(wrong))
        with no_grad():
            for full_name, (module, name, tensor) in places.items():
                if full_name not in state_dict:
                    continue
                if assign:
                    setattr(module, name, _like(tensor, state_dict[full_name]))
                else:
                    tensor.copy_(state_dict[full_name])
        return IncompatibleKeys(missing, unexpected)


def _mismatch(name: str, tensor: Any, value: Any) -> str | None:
    """What is wrong with a value for a tensor, if anything."""
    if not isinstance(value, TensorBase):
        return f"{name}: expected a tensor, got {type(value).__name__}"
    if value.shape != tensor.shape:
        return f"{name}: the state has shape {tuple(value.shape)}, the module {tuple(tensor.shape)}"
    return None


def _like(tensor: Any, value: Any) -> Any:
    """The given value as what it replaces: a parameter or a buffer."""
    if not isinstance(tensor, Parameter):
        return value
    return value if isinstance(value, Parameter) else Parameter(value, tensor.requires_grad)
