"""A stand-in for nvidia-cudnn-frontend's module `cudnn`: graphs of one convolution, computed by the reference.

It has the calls that the package makes, under the frontend's names and in its order, and refuses others.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
from types import ModuleType
from typing import Any

import numpy as np

from distgrad.backend.reference import find

__all__ = ["Library"]

_FORWARD, _TO_INPUT, _TO_WEIGHT = (find(name) for name in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"))
_OPERANDS = {"conv_fprop": ("image", "weight"), "conv_dgrad": ("loss", "filter"), "conv_wgrad": ("image", "loss")}
_ORDER = ("validate", "build_operation_graph", "create_execution_plans", "deselect_numeric_notes", "check_support",
          "build_plans", "get_workspace_size")


class _Tensor:
    def __init__(self, dim: Any = None, stride: Any = None, data_type: Any = None, name: str = "") -> None:
        self.dim, self.stride, self.data_type, self.output = dim, stride, data_type, False

    def set_output(self, value: bool) -> _Tensor:
        self.output = value
        return self

    def set_data_type(self, value: Any) -> _Tensor:
        self.data_type = value
        return self

    def set_dim(self, value: list[int]) -> _Tensor:
        self.dim = value
        return self

    def set_stride(self, value: list[int]) -> _Tensor:
        self.stride = value
        return self

    def at(self, address: int) -> np.ndarray:
        """The array at an address; whole, row by row."""
        kind = np.dtype({"HALF": "f2", "FLOAT": "f4", "DOUBLE": "f8"}[self.data_type.name])
        memory = (ctypes.c_char * (int(np.prod(self.dim)) * kind.itemsize)).from_address(address)
        found = np.ndarray(self.dim, kind, memory)
        assert [s // kind.itemsize for s in found.strides] == self.stride
        return found


class Library(ModuleType):
    """The module; it counts what was asked of it, and fails where it is told to.

    Attributes:
        broken: the name of a call that raises, or "".
        built, executed, streams, refused: what happened.
    """

    def __init__(self) -> None:
        super().__init__("cudnn")
        self.__spec__ = importlib.machinery.ModuleSpec("cudnn", None)
        self.broken, self.built, self.executed = "", 0, 0
        self.streams: list[Any] = []
        self.refused: list[str] = []
        for name, members in {
                "data_type": "HALF FLOAT DOUBLE", "heur_mode": "A B FALLBACK",
                "build_plan_policy": "ALL HEURISTICS_CHOICE",
                "numerical_note": "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT NONDETERMINISTIC "
                                  "WINOGRAD STRICT_NAN_PROP"}.items():
            setattr(self, name, enum.Enum(name, members))

    def create_handle(self) -> Any:
        self._may("create_handle")
        return object()

    def set_stream(self, handle: Any, stream: int) -> None:
        self.streams.append(stream)

    def pygraph(self, **options: Any) -> _Graph:
        assert options.keys() == {"io_data_type", "intermediate_data_type", "compute_data_type", "handle"}
        return _Graph(self)

    def _may(self, call: str) -> None:
        if call == self.broken:
            raise RuntimeError(f"{call} failed:\n no engine")


class _Graph:
    def __init__(self, library: Library) -> None:
        self._library, self._done, self._operation = library, 0, ""

    def tensor(self, name: str, dim: list[int], stride: list[int], data_type: Any) -> _Tensor:
        return _Tensor(dim, stride, data_type, name)

    def __getattr__(self, call: str) -> Any:
        return lambda *args, **options: self._call(call, *args, **options)

    def _call(self, call: str, *args: Any, **options: Any) -> Any:
        self._library._may(call)
        if call in _OPERANDS:
            self._operation = call
            self._operands = [options.pop(name) for name in _OPERANDS[call]]
            del options["compute_data_type"]
            self._geometry, self._out = options, _Tensor()
            return self._out
        assert call == _ORDER[self._done], f"{call} instead of {_ORDER[self._done]}"
        self._done += 1
        if call == "deselect_numeric_notes":
            self._library.refused = [note.name for note in args[0]]
        if call == "build_plans":
            self._library.built += 1
        return 7 if call == "get_workspace_size" else None

    def execute(self, pack: dict[Any, int], workspace: int, handle: Any = None) -> None:
        self._library._may("execute")
        assert self._done == len(_ORDER) and self._out.output and type(workspace) is int and handle is not None
        self._library.executed += 1
        first, second = (tensor.at(pack[tensor]) for tensor in self._operands)
        out = self._out.at(pack[self._out])
        before, after = self._geometry["pre_padding"], self._geometry["post_padding"]
        geometry = {"stride": tuple(self._geometry["stride"]), "dilation": tuple(self._geometry["dilation"]),
                    "pads": tuple(zip(before, after, strict=True))}
        if self._operation == "conv_fprop":
            out[...] = _FORWARD(np, first, second, None, groups=first.shape[1] // second.shape[1], **geometry)
        elif self._operation == "conv_dgrad":
            out[...] = _TO_INPUT(np, first, second, out.shape[2:],
                                                 groups=out.shape[1] // second.shape[1], **geometry)
        else:
            out[...] = _TO_WEIGHT(np, second, first, out.shape[2:],
                                                  groups=first.shape[1] // out.shape[1], **geometry)
