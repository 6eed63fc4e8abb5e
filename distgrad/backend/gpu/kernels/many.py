"""Kernels over many arrays in one launch: norms for clipping, scaling, the update of parameters.

The arrays' addresses and sizes are an argument that a launch passes by value, so that no table is copied to the device.
It knows arrays and numbers; which of them belong together, its callers say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cupy
import numpy as np

from .launch import add_family, fits, kernel, plain

__all__ = ["adam_plan", "clip_factor", "multiply_", "norm_blocks", "norm_from", "norms_of", "sgd_plan"]

_ROOM = 64  # arrays of one launch
_ROLES = 5  # arrays that belong together: a parameter, its gradient, and up to three of state
_SHARE = 2048  # elements that a block works on
_THREADS = 256
_WIDEST = 1024  # threads of a block that works alone
_TABLE = np.dtype([("where", np.uint64, (_ROLES, _ROOM)), ("size", np.int64, _ROOM), ("first", np.int32, _ROOM + 1),
                   ("count", np.int32)])  # struct Many; with the other arguments it stays below the 4 KiB of a launch

add_family("many", f"""
#define ROOM {_ROOM}
#define ROLES {_ROLES}
""" + r"""
// Addresses by role, sizes, and the first block of each array; first[count] is the number of blocks.
struct Many { T* where[ROLES][ROOM]; I size[ROOM]; int first[ROOM + 1]; int count; };

// The array on which this block works.
__device__ inline int mine(const Many& many) {
    int low = 0, high = many.count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if ((int)blockIdx.x < many.first[middle]) high = middle; else low = middle;
    }
    return low;
}

__device__ inline I start(const Many& many, int k, I share) { return ((I)blockIdx.x - many.first[k]) * share; }
__device__ inline I end(const Many& many, int k, I share) {
    I past = start(many, k, share) + share;
    return past < many.size[k] ? past : many.size[k];
}
#define EACH_OF_SHARE(i) for (I i = start(many, k, share) + threadIdx.x, past = end(many, k, share); i < past; \
                              i += blockDim.x)

// Sums of squares of `share` elements each; the last of an array may have fewer.
extern "C" __global__ void squares(const Many many, I share, double* out) {
    __shared__ double shared[1024];
    int k = mine(many);
    const T* x = many.where[0][k];
    double sum = 0;
    EACH_OF_SHARE(i) sum += (double)x[i] * (double)x[i];
    sum = add_up(sum, shared);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// The same for |x|^p; for p = 0 how many are not 0, for p = inf the largest |x|, and NaN if there is one.
extern "C" __global__ void powers(const Many many, I share, double p, double* out) {
    __shared__ double shared[1024];
    int k = mine(many);
    const T* x = many.where[0][k];
    double sum = 0;
    if (p > 1e308) {
        T top = 0;
        EACH_OF_SHARE(i) { T v = fabs(x[i]); if (v > top || v != v) top = v; }
        sum = largest(top, (T*)shared);
    } else {
        EACH_OF_SHARE(i) { double v = fabs((double)x[i]); sum += p == 0 ? (double)(v != 0) : p == 1 ? v : pow(v, p); }
        sum = add_up(sum, shared);
    }
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// What they come to: (the sum of n of them)^(1/p), for p = 0 the sum, for p = inf the largest. One block, one order.
extern "C" __global__ void norm_from(const double* parts, I n, double p, T* out) {
    __shared__ double shared[1024];
    double found = 0;
    if (p > 1e308) {
        T top = 0;
        for (I i = threadIdx.x; i < n; i += blockDim.x) { T v = (T)parts[i]; if (v > top || v != v) top = v; }
        found = largest(top, (T*)shared);
    } else {
        for (I i = threadIdx.x; i < n; i += blockDim.x) found += parts[i];
        found = add_up(found, shared);
        if (p == 2) found = sqrt(found); else if (p != 0) found = pow(found, 1 / p);
    }
    if (threadIdx.x == 0) *out = (T)found;
}

// Where a factor is an array, `at` is its address; else that is null.
extern "C" __global__ void multiply(const Many many, I share, const T* at, T factor) {
    int k = mine(many);
    T* x = many.where[0][k];
    T f = at ? *at : factor;
    EACH_OF_SHARE(i) x[i] *= f;
}

// What is left of 1 comes as a number of its own: in float32, 1 - 0.999 is not 0.001. x keeps so much of itself, and d
// gets so much of x, as decay says.
extern "C" __global__ void adam(const Many many, I share, int top, T fresh, T beta2, T fresh2, T eps, T kept, T decay,
                                T size, T root, const T* at, T factor) {
    int k = mine(many);
    T* __restrict__ p = many.where[0][k];
    const T* __restrict__ g = many.where[1][k];
    T* __restrict__ m = many.where[2][k];
    T* __restrict__ v = many.where[3][k];
    T* __restrict__ vmax = many.where[4][k];
    T f = at ? *at : factor;
    EACH_OF_SHARE(i) {
        T d = g[i] * f + p[i] * decay, x = p[i] * kept;
        T mm = m[i] + fresh * (d - m[i]);
        T vv = beta2 * v[i] + fresh2 * d * d;
        m[i] = mm; v[i] = vv;
        if (top) { if (!(vv < vmax[i])) vmax[i] = vv; vv = vmax[i]; }
        p[i] = x - size * (mm / (sqrt(vv) / root + eps));
    }
}

extern "C" __global__ void sgd(const Many many, I share, int smooth, T lr, T momentum, T fresh, T decay, int nesterov,
                               int first, const T* at, T factor) {
    int k = mine(many);
    T* __restrict__ p = many.where[0][k];
    const T* __restrict__ g = many.where[1][k];
    T* __restrict__ buf = many.where[2][k];
    T f = at ? *at : factor;
    EACH_OF_SHARE(i) {
        T d = g[i] * f + p[i] * decay;
        if (smooth) {
            T b = first ? d : momentum * buf[i] + fresh * d;
            buf[i] = b;
            d = nesterov ? d + momentum * b : b;
        }
        p[i] -= lr * d;
    }
}

// min(1, limit / (norm + 1e-6)), as float or double; NaN stays NaN.
extern "C" __global__ void clip_factor(const T* norm, double limit, float* narrow, double* wide) {
    double found = limit / ((double)*norm + 1e-6);
    if (found > 1) found = 1;
    if (narrow) *narrow = (float)found; else *wide = found;
}
""")


class _Many:
    """Arrays of one dtype and device and what belongs to them, as the tables of launches.

    Args:
        columns: for each role the arrays that have it, or None for those that come with `point`; the first
            role's are all there.
        share: the elements of a block.
    """

    def __init__(self, columns: Sequence[Sequence[Any] | None], share: int = _SHARE) -> None:
        arrays = columns[0]
        assert arrays is not None
        self.dtype = arrays[0].dtype
        self.share = share
        self.launches: list[tuple[list[int], int, Any]] = []  # which arrays, blocks, table
        places = [i for i, array in enumerate(arrays) if array.size]
        for start in range(0, len(places), _ROOM):
            chosen = places[start:start + _ROOM]
            table = np.zeros((), _TABLE)
            sizes = np.array([arrays[i].size for i in chosen], np.int64)
            table["size"][:len(chosen)] = sizes
            table["first"][1:len(chosen) + 1] = np.cumsum(-(-sizes // share))
            table["count"] = len(chosen)
            self.launches.append((chosen, int(table["first"][len(chosen)]), table))
        for role, column in enumerate(columns):
            if column is not None:
                self.point(role, column)

    def point(self, role: int, arrays: Sequence[Any]) -> None:
        """These arrays now have that role."""
        for chosen, _, table in self.launches:
            table["where"][role, :len(chosen)] = [arrays[i].data.ptr for i in chosen]

    def run(self, name: str, *args: Any) -> None:
        """Launch a kernel over all of them."""
        launch, share = kernel("many", name, self.dtype), np.int64(self.share)
        for _, blocks, table in self.launches:
            launch((blocks,), (_THREADS,), (table, share, *args))


def _factor(dtype: Any, factor: Any) -> tuple[Any, Any]:
    """A factor as kernels take it: where it is, or null and what it is."""
    if isinstance(factor, cupy.ndarray):
        return factor.astype(dtype, copy=False), dtype.type(1)
    return np.uintp(0), dtype.type(factor)


# -- norms and scaling

def norm_blocks(flat: Any, norm_type: float, grid: int) -> Any:
    return norms_of([flat], norm_type, grid)


def norms_of(arrays: Sequence[Any], norm_type: float, grid: int) -> Any:
    """As the reference; arrays that do not lie whole are copied first."""
    lines = [x if x.flags.c_contiguous else x.reshape(-1) for x in arrays]
    if not lines or not fits(*lines):
        return plain("norms_of", arrays[0])(arrays, norm_type, grid) if lines else cupy.zeros(0, "float64")
    many = _Many([lines], grid)
    name, given = ("squares", ()) if norm_type == 2 else ("powers", (np.float64(norm_type),))
    out = cupy.empty(sum(-(-x.size // grid) for x in lines), "float64")
    at = 0
    for _, blocks, table in many.launches:
        kernel("many", name, many.dtype)((blocks,), (_THREADS,), (table, np.int64(grid), *given, out[at:at + blocks]))
        at += blocks
    return out


def norm_from(partials: Any, norm_type: float, dtype: Any) -> Any:
    kind = np.dtype(dtype)
    if kind.char not in "fd" or not partials.flags.c_contiguous:
        return plain("norm_from", partials)(partials, norm_type, dtype)
    out = cupy.empty((), kind)
    kernel("many", "norm_from", kind)((1,), (_WIDEST if partials.size > _THREADS else _THREADS,), (
        partials, np.int64(partials.size), np.float64(norm_type), out))
    return out


def clip_factor(norm: Any, max_norm: float, dtype: Any) -> Any:
    kind = np.dtype(dtype)
    if kind.char not in "fd" or not fits(norm):
        return plain("clip_factor", norm)(norm, max_norm, dtype)
    out, none = cupy.empty((), kind), np.uintp(0)
    kernel("many", "clip_factor", norm.dtype)(
        (1,), (1,), (norm, np.float64(max_norm), *((out, none) if kind.char == "f" else (none, out))))
    return out


def multiply_(arrays: Sequence[Any], factor: Any) -> None:
    whole, rest = [], []
    for x in arrays:
        (whole if fits(x) or fits(x.T) else rest).append(x)
    if whole:
        many = _Many([whole])
        many.run("multiply", *_factor(many.dtype, factor))
    if rest:
        plain("multiply_", rest[0])(rest, factor)


# -- the update

def _plan(name: str, ps: Sequence[Any], states: Sequence[Sequence[Any] | None],
          launch: Callable[..., tuple[Any, ...]]) -> Callable[..., None]:
    """run(gs, *options, factor) for one of the rules.

    Args:
        states: the state's columns as the reference takes them; None for one that is not kept.
        launch: from the options to the kernel's arguments between share and factor.
    """
    kept = [column for column in states if column is not None]
    slow = plain(f"{name}_plan", ps[0])(ps, *states)
    many = _Many([ps, None, *kept]) if fits(*ps, *[x for column in kept for x in column]) else None
    last: Sequence[Any] | None = None
    fit = False

    def run(gs: Sequence[Any], *options: Any) -> None:
        nonlocal last, fit
        if many is not None and gs is not last:
            last, fit = gs, fits(ps[0], *gs)
            if fit:
                many.point(1, gs)
        if many is None or not fit:
            slow(gs, *options)
            return
        many.run(name, *launch(many.dtype.type, *options[:-1]), *_factor(many.dtype, options[-1]))

    return run


def sgd_plan(ps: Sequence[Any], bufs: Sequence[Any] | None) -> Callable[..., None]:
    def launch(number: Callable[[float], Any], lr: float, momentum: float, dampening: float, weight_decay: float,
               nesterov: bool, first: bool) -> tuple[Any, ...]:
        return (np.int32(bufs is not None), number(lr), number(momentum), number(1 - dampening), number(weight_decay),
                np.int32(nesterov), np.int32(first))

    return _plan("sgd", ps, [bufs], launch)


def adam_plan(ps: Sequence[Any], ms: Sequence[Any], vs: Sequence[Any],
              vmaxs: Sequence[Any] | None) -> Callable[..., None]:
    def launch(number: Callable[[float], Any], lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
               decoupled: bool, step: int) -> tuple[Any, ...]:
        kept, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
        return (np.int32(vmaxs is not None), number(1 - beta1), number(beta2), number(1 - beta2), number(eps),
                number(kept), number(decay), number(lr / (1 - beta1 ** step)), number(math.sqrt(1 - beta2 ** step)))

    return _plan("adam", ps, [ms, vs, vmaxs], launch)
