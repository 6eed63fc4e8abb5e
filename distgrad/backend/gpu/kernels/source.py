"""CUDA C++ as text: what all kernels use, and those over rows and lines. Further ones stand beside their callers.

T is float or double, and arrays lie whole. A block has a power of two of threads. Sums are taken in one fixed order,
which depends on shapes and the block's size alone. The text can be compiled, and run on a processor thread by thread,
where there is no GPU.
"""

from __future__ import annotations

__all__ = ["BINARY", "HEADER", "LINES", "ROWS", "UNARY", "elementwise"]

HEADER = r"""
typedef long long I;
#define ENDLESS ((T)(1e308 * 10.0))
#define NO_NUMBER (ENDLESS - ENDLESS)
#define EACH(i, n) for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (I)gridDim.x * blockDim.x)
#define OVER_ROW(j) for (I j = threadIdx.x; j < n; j += blockDim.x)

// The remainder of i by n; i becomes the quotient. In 32 bits, where they suffice, that is several times faster.
__device__ inline I split(I& i, I n) {
    I q = ((i | n) >> 32) ? i / n : (I)((unsigned)i / (unsigned)n), rest = i - q * n;
    i = q;
    return rest;
}

template <typename V> __device__ V add_up(V value, V* shared) {
    I me = threadIdx.x;
    shared[me] = value;
    __syncthreads();
    for (I half = blockDim.x / 2; half > 0; half /= 2) {
        if (me < half) shared[me] += shared[me + half];
        __syncthreads();
    }
    V found = shared[0];
    __syncthreads();
    return found;
}

__device__ inline T largest(T value, T* shared) {
    I me = threadIdx.x;
    shared[me] = value;
    __syncthreads();
    for (I half = blockDim.x / 2; half > 0; half /= 2) {
        if (me < half) {
            T other = shared[me + half];
            if (other > shared[me] || other != other) shared[me] = other;  // a NaN is the largest of all
        }
        __syncthreads();
    }
    T found = shared[0];
    __syncthreads();
    return found;
}

// As add_up, for a block of `wide` columns with several threads each; the sum is right in all of a column's threads.
__device__ inline T add_lanes(T value, T* shared, I wide) {
    I me = threadIdx.x;
    shared[me] = value;
    __syncthreads();
    for (I half = blockDim.x / 2; half >= wide; half /= 2) {
        if (me < half) shared[me] += shared[me + half];
        __syncthreads();
    }
    T found = shared[me % wide];
    __syncthreads();
    return found;
}

#define LOWEST (-ENDLESS)

__device__ inline T row_top(const T* x, I n, T* shared) {
    T top = LOWEST;
    OVER_ROW(j) { T v = x[j]; if (v > top || v != v) top = v; }
    return largest(top, shared);
}
"""

ROWS = r"""
extern "C" __global__ void softmax(const T* x, T* y, I n, int logarithm) {
    __shared__ T shared[1024];
    x += (I)blockIdx.x * n; y += (I)blockIdx.x * n;
    T top = row_top(x, n, shared), sum = 0;
    OVER_ROW(j) sum += exp(x[j] - top);
    sum = add_up(sum, shared);
    T under = log(sum);
    OVER_ROW(j) y[j] = logarithm ? x[j] - top - under : exp(x[j] - top) / sum;
}

extern "C" __global__ void softmax_backward(const T* g, const T* y, T* gx, I n, int logarithm) {
    __shared__ T shared[1024];
    I row = (I)blockIdx.x * n;
    g += row; y += row; gx += row;
    T sum = 0;
    OVER_ROW(j) sum += logarithm ? g[j] : g[j] * y[j];
    sum = add_up(sum, shared);
    OVER_ROW(j) gx[j] = logarithm ? g[j] - exp(y[j]) * sum : y[j] * (g[j] - sum);
}

// The loss of each row, e = exp(x - max) and its sum. A target that is no class makes its row's loss NaN.
extern "C" __global__ void cross_entropy(const T* x, const I* target, const T* weight, I n, I ignore, T* losses, T* e,
                                         T* s, I* safe, T* r) {
    __shared__ T shared[1024];
    I row = blockIdx.x;
    x += row * n; e += row * n;
    T top = row_top(x, n, shared), sum = 0;
    OVER_ROW(j) { T v = exp(x[j] - top); e[j] = v; sum += v; }
    sum = add_up(sum, shared);
    if (threadIdx.x == 0) {
        I t = target[row];
        int kept = t != ignore, inside = t >= 0 && t < n;
        T w = !kept ? (T)0 : !inside ? NO_NUMBER : weight ? weight[t] : (T)1;
        s[row] = sum;
        r[row] = w;
        safe[row] = kept && inside ? t : 0;
        losses[row] = kept ? (inside ? (log(sum) - (x[t] - top)) * w : NO_NUMBER) : (T)0;
    }
}

// `g` is one number, or one a row (each = 1); `norm`, if given, is what it is divided by.
extern "C" __global__ void cross_entropy_backward(const T* g, int each, const T* norm, const T* e, const T* s,
                                                  const I* safe, const T* r, const I* target, I n, I ignore, T* gx) {
    I row = blockIdx.x;
    e += row * n; gx += row * n;
    int kept = target[row] != ignore;
    T picked = r[row] * (norm ? g[each ? row : 0] / norm[0] : g[each ? row : 0]), share = picked / s[row];
    OVER_ROW(j) gx[j] = kept ? e[j] * share - (j == safe[row] ? picked : (T)0) : (T)0;
}

// The sum of a, divided by that of b if given. One block.
extern "C" __global__ void total(const T* a, const T* b, I n, T* out) {
    __shared__ T shared[1024];
    T sum = 0, under = 0;
    OVER_ROW(j) { sum += a[j]; if (b) under += b[j]; }
    sum = add_up(sum, shared);
    under = add_up(under, shared);
    if (threadIdx.x == 0) out[0] = b ? sum / under : sum;
}

// Every row of y becomes `row`.
extern "C" __global__ void repeat(const T* row, T* y, I n) {
    y += (I)blockIdx.x * n;
    OVER_ROW(j) y[j] = row[j];
}
"""

LINES = r"""
// Philox 4x32-10 (Salmon et al., 2011): a number of each index under a key, in [0, 1) with 24 bits.
extern "C" __global__ void uniform(float* out, I n, unsigned long long key) {
    EACH(i, (n + 3) / 4) {
        unsigned c0 = (unsigned)i, c1 = (unsigned)(i >> 32), c2 = 0, c3 = 0;
        unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
        for (int round = 0; round < 10; round++) {
            unsigned long long a = 0xD2511F53ULL * c0, b = 0xCD9E8D57ULL * c2;
            unsigned n0 = (unsigned)(b >> 32) ^ c1 ^ k0, n2 = (unsigned)(a >> 32) ^ c3 ^ k1;
            c1 = (unsigned)b; c3 = (unsigned)a; c0 = n0; c2 = n2;
            k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
        }
        unsigned drawn[4] = {c0, c1, c2, c3};
        for (int part = 0; part < 4 && 4 * i + part < n; part++)
            out[4 * i + part] = (drawn[part] >> 8) * (1.0f / 16777216.0f);
    }
}
"""

# Elementwise functions of x, and their gradients g * f'(.) of what the row's derivative takes (y: the result).
UNARY = {
    "gelu": "x * (T)0.5 * (1 + erf(x * (T)0.70710678118654752440))",
    "gelu_tanh": "(T)0.5 * x * (1 + tanh((T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x)))",
    "log_sigmoid": "(x < 0 || x != x ? x : (T)0) - log1p(exp(-fabs(x)))",
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x / (1 + exp(-x))",
}
BINARY = {
    "gelu_backward": "g * ((T)0.5 * (1 + erf(x * (T)0.70710678118654752440)) + "
                     "x * exp(x * x * (T)-0.5) * (T)0.39894228040143267794)",
    "gelu_tanh_backward": "g * (T)0.5 * (1 + tanh((T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x))) + "
                          "g * (T)0.5 * x * slope((T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x)) * "
                          "(T)0.79788456080286535588 * (1 + (T)0.134145 * x * x)",
    "relu_backward": "g * (T)!(x <= 0)",
    "sigmoid_backward": "g * x * (1 - x)",
    "tanh_backward": "g * (1 - x * x)",
}


def elementwise() -> str:
    """The kernels of UNARY and BINARY."""
    text = "__device__ inline T slope(T u) { T t = tanh(u); return 1 - t * t; }\n"  # of tanh
    for name, formula in UNARY.items():
        text += f'extern "C" __global__ void {name}(const T* xs, T* out, I n) {{\n' \
                f"    EACH(i, n) {{ T x = xs[i]; out[i] = {formula}; }}\n}}\n"
    for name, formula in BINARY.items():
        text += f'extern "C" __global__ void {name}(const T* gs, const T* xs, T* out, I n) {{\n' \
                f"    EACH(i, n) {{ T g = gs[i], x = xs[i]; out[i] = {formula}; }}\n}}\n"
    return text
