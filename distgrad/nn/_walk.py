"""Walking a tree of modules: names, order, each shared tensor once; and what is done to all of them.

The order is torch's: a module before its children, children in the order of their registration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .._tensor.gradients import clear_grad
from ..backend import Device, cuda_device
from ..backend.dtypes import NAMES, dtype_of
from ..graph.base import TensorBase
from ..graph.modes import no_grad

__all__ = ["Walked"]


class Walked:
    """Module's methods that visit parameters, buffers and submodules."""

    # -- visiting

    def named_modules(self, memo: set[Any] | None = None, prefix: str = "",
                      remove_duplicate: bool = True) -> Iterator[tuple[str, Any]]:
        """(dotted name, module) of this module ('') and everything below it."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Any]:
        """This module and everything below it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_children(self) -> Iterator[tuple[str, Any]]:
        """(name, module) of the modules directly below, each once."""
        seen: set[Any] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Any]:
        """The modules directly below, each once."""
        for _, module in self.named_children():
            yield module

    def _named(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[Any] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, tensor in getattr(module, table).items():
                if tensor is None or tensor in seen:
                    continue
                if remove_duplicate:
                    seen.add(tensor)
                yield f"{path}.{name}" if path else name, tensor

    def named_parameters(self, prefix: str = "", recurse: bool = True,
                         remove_duplicate: bool = True) -> Iterator[tuple[str, Any]]:
        """(dotted name, parameter); a shared one once, under its first name."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        """All parameters, each once; `recurse=False` leaves out those of submodules."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(self, prefix: str = "", recurse: bool = True,
                      remove_duplicate: bool = True) -> Iterator[tuple[str, Any]]:
        """(dotted name, buffer), each once."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Any]:
        """All buffers, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> Any:
        """The module at a dotted path; '' is this one.

        Raises:
            AttributeError: there is none.
        """
        module = self
        for position, name in enumerate(parts := target.split(".") if target else []):
            if module._modules.get(name) is None:
                where = ".".join(parts[:position]) or type(self).__name__
                raise AttributeError(f"no submodule {target!r}: {where} has no submodule {name!r}")
            module = module._modules[name]
        return module

    def get_parameter(self, target: str) -> Any:
        """The parameter at a dotted path; AttributeError when there is none."""
        return self._get("_parameters", "parameter", target)

    def get_buffer(self, target: str) -> Any:
        """The buffer at a dotted path; AttributeError when there is none."""
        return self._get("_buffers", "buffer", target)

    def _get(self, table: str, kind: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if getattr(module, table).get(name) is None:
            raise AttributeError(f"no {kind} {target!r}: {type(module).__name__} has no {kind} {name!r}")
        return getattr(module, table)[name]

    # -- doing something to all

    def apply(self, fn: Callable[[Any], Any]) -> Any:
        """Call fn(module) for every module below and then for this one; for initialisation."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Any:
        """Set training mode, which dropout and batch norm follow, here and below.

        Raises:
            ValueError: `mode` is no bool.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"train: the mode is True or False, got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Any:
        """Set evaluation mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero in place."""
        for parameter in self.parameters():
            clear_grad(parameter, set_to_none)

    def _apply(self, change: Callable[[Any], Any]) -> Any:
        """Replace the memory of every parameter, gradient and buffer by change(tensor); objects stay the same."""
        for module in self.modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    _replace_memory(parameter, change)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    setattr(module, name, change(buffer))
        return self

    def to(self, *args: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> Any:
        """Move to a device or to a floating dtype, in place: `to(device)`, `to(dtype)`, `to(tensor)`.

        Integer buffers keep their dtype.

        Raises:
            TypeError: the dtype is not floating or complex.
        """
        for arg in args:
            if isinstance(arg, TensorBase):
                device, dtype = arg.device, arg.dtype
            elif isinstance(arg, Device) or (isinstance(arg, str) and arg not in NAMES):
                device = arg
            elif isinstance(arg, bool):
                non_blocking = arg
            elif arg is not None:
                dtype = arg
        wanted = dtype_of(dtype)
        if wanted is not None and wanted.kind not in "fc":
            raise TypeError(f"a module's dtype is floating or complex, not {wanted}: integers have no gradients")
        return self._apply(lambda t: t.to(device=device, dtype=wanted if t.dtype.kind in "fc" else None,
                                          non_blocking=non_blocking))

    def float(self) -> Any:
        """Floating parameters and buffers in float32."""
        return self._cast("float32")

    def double(self) -> Any:
        """Floating parameters and buffers in float64."""
        return self._cast("float64")

    def half(self) -> Any:
        """Floating parameters and buffers in float16."""
        return self._cast("float16")

    def _cast(self, name: str) -> Any:
        wanted = dtype_of(name)
        return self._apply(lambda t: t.to(dtype=wanted) if t.dtype.kind == "f" else t)

    def cpu(self) -> Any:
        """Everything in host memory."""
        return self.to(device="cpu")

    def cuda(self, device: Any = None) -> Any:
        """Everything on a GPU: the current one, or the one that `device` (a number or 'cuda:1') says."""
        return self.to(device=cuda_device(device))


def _replace_memory(parameter: Any, change: Callable[[Any], Any]) -> None:
    """change() applied to a parameter's data and gradient."""
    data = parameter.data
    with no_grad():
        changed = change(data)
        if changed.array is data.array:
            return
        parameter.data = changed
        grad = parameter.grad
        if grad is not None:
            parameter._grad = change(grad.detach())
