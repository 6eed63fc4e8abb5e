"""Convolution by cuDNN's graph API: the module `cudnn` of nvidia-cudnn-frontend, which is imported nowhere else.

A graph of one operation is built, and an engine chosen, once for each geometry; it is called with addresses. Engines
that round more than float32 does (TF32, Winograd, FFT) are left out unless TF32 is allowed, and those that give other
bits in every run always. What cannot be built is left to the package's own kernels, and said once. DISTGRAD_CUDNN=0
does without.
"""

from __future__ import annotations

import importlib
import math
import sys
import threading
from importlib.util import find_spec
from typing import Any

import cupy
import numpy as np

from ...config import config
from ...errors import OutOfMemoryError

__all__ = ["convolve"]

Pair = tuple[int, int]


class _Thread(threading.local):
    """What a thread keeps, for neither handles nor graphs are shared: a handle and its stream by device, plans."""

    def __init__(self) -> None:
        self.handles: dict[int, list[Any]] = {}
        self.plans: dict[Any, _Plan | None] = {}


_MOST = 1000  # plans of a thread, before it begins anew
_mine = _Thread()
_there: bool | None = None  # not asked yet
_said = False


def convolve(kind: str, x: Any, weight: Any, y: Any, stride: Pair, pads: tuple[Pair, Pair], dilation: Pair) -> bool:
    """Compute one of the three arrays of a convolution y = conv(x, weight) from the others, if cuDNN can.

    Args:
        kind: 'fprop' writes y; 'dgrad', from the gradient y, that of x; 'wgrad' that of the weight.
        x, weight, y: (N, C, H, W), (O, C / groups, kh, kw), (N, O, oh, ow), each whole in memory, of one dtype.

    Returns:
        Whether it was done; otherwise nothing was written.
    """
    if not config.cudnn or not _loaded():
        return False
    device = x.device.id
    key = kind, device, x.dtype.char, x.shape, weight.shape, y.shape, stride, pads, dilation
    try:
        handle = _handle(device)
        if key not in _mine.plans:
            if len(_mine.plans) >= _MOST:
                _mine.plans.clear()
            _mine.plans[key] = None  # unless it can be built
            _mine.plans[key] = _Plan(handle, kind, (x, weight, y), stride, pads, dilation)
        plan = _mine.plans[key]
        if plan is None:
            return False
        plan((x, weight, y), handle)
    except OutOfMemoryError:  # of the workspace; the other way may need less
        return False
    except Exception as error:  # whatever it may raise: there is another way
        _mine.plans[key] = None
        _say(kind, error)
        return False
    return True


def _loaded() -> bool:
    """Whether the module is there, and can be imported; asked once."""
    global _there
    if _there is None:
        try:
            _there = find_spec("cudnn") is not None
            if _there:
                importlib.import_module("cudnn")
        except Exception as error:
            _there = False
            _say("", error)
    return _there


def _say(kind: str, error: Exception) -> None:
    """One line, once a process."""
    global _said
    if not _said:
        _said = True
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        print(f"distgrad: {f'a convolution ({kind})' if kind else 'convolution'} does without cuDNN: {reason}",
              file=sys.stderr, flush=True)


def _handle(device: int) -> Any:
    """This thread's handle on a device, whose work is queued on cupy's current stream."""
    import cudnn

    stream = cupy.cuda.get_current_stream().ptr
    held = _mine.handles.get(device)
    if held is None:
        held = _mine.handles[device] = [cudnn.create_handle(), None]
    if held[1] != stream:
        cudnn.set_stream(held[0], stream)
        held[1] = stream
    return held[0]


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[i + 1:]) for i in range(len(shape))]


class _Plan:
    """A graph of one convolution, with the engine that computes it."""

    def __init__(self, handle: Any, kind: str, arrays: tuple[Any, Any, Any], stride: Pair, pads: tuple[Pair, Pair],
                 dilation: Pair) -> None:
        import cudnn

        name = {"e": "HALF", "f": "FLOAT", "d": "DOUBLE"}[arrays[0].dtype.char]
        held = getattr(cudnn.data_type, name)
        computed = cudnn.data_type.DOUBLE if name == "DOUBLE" else cudnn.data_type.FLOAT
        graph = cudnn.pygraph(io_data_type=held, intermediate_data_type=computed, compute_data_type=computed,
                              handle=handle)
        geometry = {"pre_padding": [before for before, _ in pads], "post_padding": [after for _, after in pads],
                    "stride": list(stride), "dilation": list(dilation), "compute_data_type": computed}
        written = ("dgrad", "wgrad", "fprop").index(kind)
        x, weight, y = (None if i == written else graph.tensor(name="xwy"[i], dim=list(a.shape),
                                                               stride=_strides(a.shape), data_type=held)
                        for i, a in enumerate(arrays))
        if kind == "fprop":
            out = graph.conv_fprop(image=x, weight=weight, **geometry)
        elif kind == "dgrad":
            out = graph.conv_dgrad(loss=y, filter=weight, **geometry)
        else:
            out = graph.conv_wgrad(image=x, loss=y, **geometry)
        shape = arrays[written].shape
        out.set_output(True).set_data_type(held).set_dim(list(shape)).set_stride(_strides(shape))
        self._tensors = [out if i == written else tensor for i, tensor in enumerate((x, weight, y))]
        self._graph = graph
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes(_refused(cudnn.numerical_note, name))
        graph.check_support()
        graph.build_plans(cudnn.build_plan_policy.HEURISTICS_CHOICE)
        self._workspace = max(1, graph.get_workspace_size())

    def __call__(self, arrays: tuple[Any, Any, Any], handle: Any) -> None:
        workspace = cupy.empty(self._workspace, np.uint8)
        self._graph.execute({tensor: array.data.ptr for tensor, array in zip(self._tensors, arrays, strict=True)},
                            workspace.data.ptr, handle=handle)


def _refused(note: Any, name: str) -> list[Any]:
    """Notes of engines that are left out: whose additions come in any order, and that round where float32 would not."""
    names = ["NONDETERMINISTIC"]
    if name != "HALF":
        names += ["DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"]
    if name == "FLOAT" and not config.tf32:
        names += ["TENSOR_CORE", "WINOGRAD", "FFT"]
    return [getattr(note, each) for each in names if hasattr(note, each)]
