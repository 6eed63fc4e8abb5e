"""A cupy for machines without a GPU: its arrays are the strict device's, its raw kernels run in the emulator.

It has what the package uses of cupy, under cupy's names and with its refusals, and lives in tests alone. The
settings say how many devices it pretends to have, and what is wrong with them. Arrays remember the device that was
current where they were made; a launch for arrays of another device is refused, as cupy refuses it without peer access.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import sys
import threading
import weakref
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from distgrad.backend.strict import array as strict_array
from distgrad.backend.strict.array import StrictArray
from distgrad.backend.strict.namespace import Namespace
from tests.gpu import cublas, emulator, queues

__all__ = ["Settings", "install", "remove"]


class Settings(SimpleNamespace):
    """devices, driver and runtime (versions of CUDA), memory and pinned in bytes, broken (what the driver answers).

    memory: the largest array that there is room for, for each device by its number if it is a dict.
    lazy: copies that are not waited for are done as late as may be; see `queues`.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"devices": 1, "driver": 12080, "runtime": 12090, "memory": 1 << 40, "pinned": 1 << 40,
                            "broken": "", "lazy": False, **given})


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class _Pool:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def malloc(self, size: int) -> Any:
        memory = self.settings.memory
        if size > (memory[_thread.device] if isinstance(memory, dict) else memory):
            raise OutOfMemoryError
        return SimpleNamespace(size=size)

    def used_bytes(self) -> int:
        return 3 << 20

    def total_bytes(self) -> int:
        return 5 << 20

    def free_all_blocks(self) -> None:
        """There are none."""


class _Thread(threading.local):
    """Which device is current, in each thread; a new thread begins with the first one."""

    def __init__(self) -> None:
        self.device = 0
        self.before: list[int] = []


_thread = _Thread()


class _Device:
    def __init__(self, number: int | None = None) -> None:
        self.id = _thread.device if number is None else int(number)

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    def __enter__(self) -> _Device:
        _thread.before.append(_thread.device)
        _thread.device = self.id
        return self

    def __exit__(self, *error: Any) -> None:
        _thread.device = _thread.before.pop()

    def use(self) -> None:
        _thread.device = self.id

    def synchronize(self) -> None:
        """At once."""


class _Places:
    """On which device memory lies: by whoever owns it, so that views lie where their base does."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._ranges: dict[int, tuple[int, int]] = {}  # addresses [begin, end)

    def note(self, array: StrictArray) -> None:
        """New memory lies on the current device, and is asked of its allocator."""
        owner = _owner(array._memory)
        if id(owner) not in self._known:
            _allocator[0](owner.nbytes)
            self._known[id(owner)] = _thread.device
            begin = int(owner.__array_interface__["data"][0])
            self._ranges[id(owner)] = begin, begin + owner.nbytes
            weakref.finalize(owner, self._forget, id(owner)).atexit = False

    def _forget(self, owner: int) -> None:
        del self._known[owner], self._ranges[owner]

    def at(self, address: int, nbytes: int) -> int | None:
        """On which device these bytes belong to a live array; None if they do not."""
        now = self._ranges.copy()  # at once: the garbage collector takes arrays away while one goes through them
        return next((self._known.get(owner) for owner, (begin, end) in now.items()
                     if begin <= address and address + nbytes <= end), None)

    def of(self, array: StrictArray) -> int:
        return self._known.get(id(_owner(array._memory)), 0)

    def check(self, arrays: list[StrictArray]) -> None:
        """Refuse to launch a kernel for arrays that are not on the current device."""
        for array in arrays:
            if (where := self.of(array)) != _thread.device:
                raise ValueError(f"The device where the array resides ({where}) is different from the current device "
                                 f"({_thread.device}). Peer access is unavailable between these devices.")


def _owner(memory: np.ndarray) -> np.ndarray:
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    return memory


_places = _Places()
_allocator: list[Any] = [lambda size: None]
_copied, _real = StrictArray.copy, StrictArray.real  # type: ignore[attr-defined]
_init, _opened, _closed = StrictArray.__init__, strict_array._opened, strict_array._closed


def _made(self: StrictArray, memory: np.ndarray) -> None:
    _init(self, memory)
    _places.note(self)


def _launching(x: Any, inside: list[StrictArray]) -> Any:
    """An operand; what was queued before the launch is done before it."""
    if isinstance(x, StrictArray):
        queues.current_stream().run()
    return _opened(x, inside)


def _launched(result: Any, inside: list[StrictArray]) -> Any:
    """What a function gave back, after a look at whether it was one that launches: views and truths are not."""
    if isinstance(result, np.ndarray):
        changed = any(result is array._memory for array in inside)
        view = any(_owner(result) is _owner(array._memory) for array in inside)
        launched = changed or not view
    else:
        launched = result is None or isinstance(result, np.generic)
    if launched:
        _places.check(inside)
    return _closed(result, inside)


_pinned: dict[int, int] = {}  # address -> size
_one_at_a_time = threading.Lock()  # simulated ranks launch from several threads


class _Kernel:
    def __init__(self, library: Any, name: str) -> None:
        self._run = getattr(library, f"run_{name}")

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
        assert len(grid) == len(block) == 1 and 1 <= block[0] <= 1024 and 1 <= grid[0] < 1 << 31
        queues.current_stream().run()
        with _one_at_a_time:
            parted = self._run(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), *map(_argument, args))
        assert not parted, "some threads of a block wait where others do not"


_SCALARS = {"i4": ctypes.c_int32, "i8": ctypes.c_int64, "u8": ctypes.c_uint64, "f4": ctypes.c_float,
            "f8": ctypes.c_double}


def _argument(value: Any) -> Any:
    """As cupy passes it: an array's address, a numpy scalar of its own size; Python numbers are refused here."""
    if isinstance(value, StrictArray):
        if _places.of(value) != _thread.device:  # cupy does not look at these
            raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
        return ctypes.c_void_p(value.address)
    if isinstance(value, np.ndarray):  # a struct by value
        assert value.size == 1 and value.itemsize % 8 == 0, value.shape
        whole = type("Struct", (ctypes.Structure,), {"_fields_": [("words", ctypes.c_uint64 * (value.itemsize // 8))]})
        return whole.from_buffer_copy(value.tobytes())
    assert isinstance(value, np.generic), f"a kernel's argument is an array or a numpy scalar, not {type(value)}"
    return _SCALARS[value.dtype.str[1:]](value.item())


class _RawModule:
    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        self._code = code

    def get_function(self, name: str) -> _Kernel:
        return _Kernel(emulator.compiled(self._code), name)


def _unheld(memory: np.ndarray) -> np.ndarray:
    """The same memory, on which this array does not hold: whoever reads it later may find somebody else's numbers."""
    return np.asarray(SimpleNamespace(__array_interface__=memory.__array_interface__))


def _get(self: StrictArray, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
    flags = self.flags
    if out is None:
        out = np.empty(self.shape, self.dtype, "F" if order == "A" and flags.f_contiguous and not flags.c_contiguous
                       else "C")
    if out.shape != self.shape:
        raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
    if out.dtype != self.dtype:
        raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
    if not (out.flags.c_contiguous or out.flags.f_contiguous):
        raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
    owner, source, target = weakref.ref(_owner(self._memory)), _unheld(self._memory), _unheld(out)

    def copy() -> None:
        assert owner() is not None, "memory of the device was freed before the copy from it had ended"
        target[...] = source

    stream = stream or queues.current_stream()
    stream.put(copy)
    if blocking or not _is_pinned(out):
        stream.synchronize()
    return out


def _set(self: StrictArray, host: np.ndarray, stream: Any = None) -> None:
    """As the driver does it: memory that is not pinned has been read when the call returns."""
    assert self.shape == host.shape and self.dtype == host.dtype and self.flags.c_contiguous
    source = _unheld(host) if _is_pinned(host) else host.copy()
    memory = self._memory
    (stream or queues.current_stream()).put(lambda: memory.__setitem__(..., source))


def _pinned_at(where: int) -> bool:
    return any(begin <= where < begin + size for begin, size in _pinned.copy().items())


def _copy(self: StrictArray, order: str = "C") -> StrictArray:
    """On the current device, wherever the array lies."""
    queues.current_stream().run()
    return StrictArray(self._memory.copy(order))  # type: ignore[arg-type]


def _is_pinned(host: np.ndarray) -> bool:
    return _pinned_at(host.__array_interface__["data"][0])


def _runtime(settings: Settings) -> Any:
    def version() -> int:
        return settings.driver

    def devices() -> int:
        if settings.broken:
            raise CUDARuntimeError(settings.broken)
        return settings.devices

    return SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, runtimeGetVersion=lambda: settings.runtime, driverGetVersion=version,
        getDeviceCount=devices, getDevice=lambda: _thread.device,
        setDevice=lambda number: _Device(number).use(), deviceSynchronize=queues.run_all,
        memGetInfo=lambda: (7 << 20, 16 << 20), getDeviceProperties=lambda number: {
            "name": b"Stand-in", "major": 9, "minor": 0, "totalGlobalMem": 16 << 20, "multiProcessorCount": 4},
        CUDA_R_16F=2, CUDA_R_32F=0, CUDA_R_64F=1, deviceGetPCIBusId=lambda number: f"0000:{number:02X}:00.0",
        hostRegister=lambda where, size, flags: _pinned.__setitem__(where, size),
        hostUnregister=lambda where: _pinned.pop(where, None))


def install(**given: Any) -> Any:
    """Put it where `import cupy` finds it; the settings, which may be changed."""
    settings = Settings(**given)
    pool = _Pool(settings)
    cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
    names = Namespace(np)
    _allocator[0] = pool.malloc
    _pinned.clear()
    pinned = queues.PinnedPool(_pinned, lambda: settings.pinned,
                               lambda: CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"))
    queues.reset(lambda: _thread.device, lambda: settings.lazy)

    def array(host: Any, order: str = "C") -> StrictArray:
        if isinstance(host, StrictArray):
            return names.array(host, order=order)  # type: ignore[no-any-return]
        if isinstance(host, np.ndarray) and host.ndim and _is_pinned(host):
            made: StrictArray = names.empty(host.shape, host.dtype)
            memory = made._memory
            queues.current_stream().put(lambda: memory.__setitem__(..., host))  # holds on to it, as cupy does
            return made
        return StrictArray(np.array(host, order=order))  # type: ignore[call-overload]

    cupy.__getattr__ = lambda name: getattr(names, name)  # type: ignore[method-assign]
    cupy.ndarray, cupy.array, cupy.RawModule = StrictArray, array, _RawModule  # type: ignore
    cupy.get_default_memory_pool = lambda: pool  # type: ignore[attr-defined]
    cupy.get_default_pinned_memory_pool = lambda: pinned  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=_runtime(settings), nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError), Device=_Device,
        device=SimpleNamespace(get_cublas_handle=lambda: cublas.handle_of(_thread.device)),
        Event=queues.Event, Stream=queues.Stream, get_current_stream=queues.current_stream,
        get_elapsed_time=queues.elapsed_time, alloc_pinned_memory=pinned.malloc,
        pinned_memory=SimpleNamespace(is_memory_pinned=_pinned_at),
        set_allocator=lambda function: _allocator.__setitem__(0, function), nccl=SimpleNamespace(available=False))
    cupy.__version__ = "14.2.0"  # type: ignore[attr-defined]
    cupyx.errstate = lambda **options: nullcontext()  # type: ignore[attr-defined]
    cupyx.scipy = ModuleType("cupyx.scipy")  # type: ignore[attr-defined]
    special = ModuleType("cupyx.scipy.special")
    special.__getattr__ = lambda name: getattr(_special(), name)  # type: ignore[method-assign]
    cupyx.scipy.special = special  # type: ignore[attr-defined]
    StrictArray.get, StrictArray.set, StrictArray.copy = _get, _set, _copy  # type: ignore[attr-defined]
    StrictArray.real = property(lambda self: _real.fget(self) if self.dtype.kind == "c" else self)  # type: ignore
    StrictArray.device = property(lambda self: _Device(_places.of(self)))  # type: ignore[attr-defined]
    StrictArray.__init__ = _made  # type: ignore[method-assign]
    strict_array._opened, strict_array._closed = _launching, _launched
    _thread.device = 0
    _thread.before.clear()
    StrictArray.data = property(lambda self: SimpleNamespace(
        ptr=self.address, device_id=_places.of(self)))  # type: ignore[attr-defined]
    cublas.install(lambda: _thread.device, lambda: queues.current_stream().run())
    sys.modules["cudnn"] = None  # type: ignore[assignment]  # a real one would take the host's addresses for a GPU's
    for name, module in {"cupy": cupy, "cupy.cuda": cupy.cuda, "cupyx": cupyx, "cupyx.scipy": cupyx.scipy,
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
    StrictArray.__init__ = _init  # type: ignore[method-assign]
    StrictArray.copy, StrictArray.real = _copied, _real  # type: ignore[attr-defined,misc]
    strict_array._opened, strict_array._closed = _opened, _closed
    for name in ("get", "set", "device", "data"):
        if name in StrictArray.__dict__:
            delattr(StrictArray, name)
