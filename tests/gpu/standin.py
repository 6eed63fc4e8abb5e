"""A cupy for machines without a GPU: its arrays are the strict device's, its raw kernels run in the emulator.

It has what the package uses of cupy, under cupy's names and with its refusals, and lives in tests alone. The
settings say how many devices it pretends to have, and what is wrong with them.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import sys
import threading
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from distgrad.backend.strict.array import StrictArray
from distgrad.backend.strict.namespace import Namespace
from tests.gpu import cublas, emulator

__all__ = ["Settings", "install", "remove"]


class Settings(SimpleNamespace):
    """devices, driver and runtime (versions of CUDA), memory in bytes, broken (what the driver answers)."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"devices": 1, "driver": 12080, "runtime": 12090, "memory": 1 << 40, "broken": "", **given})


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class _Pool:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def malloc(self, size: int) -> Any:
        if size > self.settings.memory:
            raise OutOfMemoryError
        return SimpleNamespace(size=size)

    def used_bytes(self) -> int:
        return 3 << 20

    def total_bytes(self) -> int:
        return 5 << 20

    def free_all_blocks(self) -> None:
        """There are none."""


class _Device:
    now = 0

    def __init__(self, number: int | None = None) -> None:
        self.id = _Device.now if number is None else number

    def __enter__(self) -> _Device:
        self.before, _Device.now = _Device.now, self.id
        return self

    def __exit__(self, *error: Any) -> None:
        _Device.now = self.before

    def use(self) -> None:
        _Device.now = self.id


class _Event:
    done = True

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        """Everything has ended when it is asked."""

    def record(self, stream: Any = None) -> None:
        assert stream is not None

    def synchronize(self) -> None:
        """At once."""


class _Stream:
    ptr = 0

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        """Work is done when it is queued."""

    def wait_event(self, event: _Event) -> None:
        assert isinstance(event, _Event)


_one_at_a_time = threading.Lock()  # simulated ranks launch from several threads


class _Kernel:
    def __init__(self, library: Any, name: str) -> None:
        self._run = getattr(library, f"run_{name}")

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
        assert len(grid) == len(block) == 1 and 1 <= block[0] <= 1024 and 1 <= grid[0] < 1 << 31
        with _one_at_a_time:
            parted = self._run(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), *map(_argument, args))
        assert not parted, "some threads of a block wait where others do not"


_SCALARS = {"i4": ctypes.c_int32, "i8": ctypes.c_int64, "u8": ctypes.c_uint64, "f4": ctypes.c_float,
            "f8": ctypes.c_double}


def _argument(value: Any) -> Any:
    """As cupy passes it: an array's address, a numpy scalar of its own size; Python numbers are refused here."""
    if isinstance(value, StrictArray):
        return ctypes.c_void_p(value.address)
    assert isinstance(value, np.generic), f"a kernel's argument is an array or a numpy scalar, not {type(value)}"
    return _SCALARS[value.dtype.str[1:]](value.item())


class _RawModule:
    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        self._code = code

    def get_function(self, name: str) -> _Kernel:
        return _Kernel(emulator.compiled(self._code), name)


def _get(self: StrictArray, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
    if out is not None:
        assert out.shape == self.shape and out.dtype == self.dtype and out.flags.c_contiguous
        out[...] = self._memory
        return out
    return np.array(self._memory, order=order)  # type: ignore[call-overload]


def _set(self: StrictArray, host: np.ndarray, stream: Any = None) -> None:
    assert self.shape == host.shape and self.dtype == host.dtype and self.flags.c_contiguous
    self._memory[...] = host


def _runtime(settings: Settings) -> Any:
    def version() -> int:
        return settings.driver

    def devices() -> int:
        if settings.broken:
            raise CUDARuntimeError(settings.broken)
        return settings.devices

    return SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, runtimeGetVersion=lambda: settings.runtime, driverGetVersion=version,
        getDeviceCount=devices, getDevice=lambda: _Device.now, deviceSynchronize=lambda: None,
        memGetInfo=lambda: (7 << 20, 16 << 20), getDeviceProperties=lambda number: {"name": b"Stand-in"},
        CUDA_R_16F=2, CUDA_R_32F=0, CUDA_R_64F=1, hostRegister=lambda where, size, flags: None,
        hostUnregister=lambda where: None)


def install(**given: Any) -> Any:
    """Put it where `import cupy` finds it; the settings, which may be changed."""
    settings = Settings(**given)
    pool = _Pool(settings)
    cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
    names = Namespace(np)
    allocator: list[Any] = [pool.malloc]

    def array(host: Any, order: str = "C") -> StrictArray:
        made = StrictArray(np.array(host, order=order))  # type: ignore[call-overload]
        allocator[0](made.nbytes)
        return made

    def empty(shape: Any, dtype: Any = float) -> StrictArray:
        made = names.empty(shape, dtype)
        allocator[0](made.nbytes)
        return made

    cupy.__getattr__ = lambda name: getattr(names, name)  # type: ignore[method-assign]
    cupy.ndarray, cupy.array, cupy.empty, cupy.RawModule = StrictArray, array, empty, _RawModule  # type: ignore
    cupy.get_default_memory_pool = lambda: pool  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=_runtime(settings), memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError), Device=_Device,
        device=SimpleNamespace(get_cublas_handle=lambda: cublas.HANDLE),
        Event=_Event, Stream=_Stream, get_current_stream=_Stream, alloc_pinned_memory=bytearray,
        set_allocator=lambda function: allocator.__setitem__(0, function))
    cupyx.errstate = lambda **options: nullcontext()  # type: ignore[attr-defined]
    cupyx.scipy = ModuleType("cupyx.scipy")  # type: ignore[attr-defined]
    special = ModuleType("cupyx.scipy.special")
    special.__getattr__ = lambda name: getattr(_special(), name)  # type: ignore[method-assign]
    cupyx.scipy.special = special  # type: ignore[attr-defined]
    StrictArray.get, StrictArray.set = _get, _set  # type: ignore[attr-defined]
    StrictArray.device = property(lambda self: _Device(0))  # type: ignore[attr-defined]
    StrictArray.data = property(lambda self: SimpleNamespace(ptr=self.address))  # type: ignore[attr-defined]
    cublas.install()
    sys.modules["cudnn"] = None  # type: ignore[assignment]  # a real one would take the host's addresses for a GPU's
    for name, module in {"cupy": cupy, "cupyx": cupyx, "cupyx.scipy": cupyx.scipy,
                         "cupyx.scipy.special": special}.items():  # type: ignore[attr-defined]
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
    return settings


def _special() -> Any:
    import scipy.special

    return Namespace(scipy.special, ("digamma", "erf", "erfc", "erfinv", "expit", "gammaln", "polygamma", "psi",
                                     "xlogy"))


def remove() -> None:
    """Take it away again, with what was made of it."""
    sys.modules.pop("cudnn", None)
    for name in [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx", "cupy_backends")
                 or name.startswith("distgrad.backend.gpu")]:
        del sys.modules[name]
    for name in ("get", "set", "device", "data"):
        if name in StrictArray.__dict__:
            delattr(StrictArray, name)
