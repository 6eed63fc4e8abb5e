"""The CUDA C++ of the compiled kernels, as text: T is float or double, every kernel takes rows or lines that lie whole.

It imports nothing, so that the text can be compiled, and run on a processor thread by thread, where there is no GPU.
A block has a power of two of threads. Sums are taken in one fixed order, which depends on the block's size alone.
"""

from __future__ import annotations

__all__ = ["BINARY", "HEADER", "LINES", "RECURRENT", "ROWS", "UNARY", "elementwise"]

HEADER = r"""
typedef long long I;
#define ENDLESS ((T)(1e308 * 10.0))
#define NO_NUMBER (ENDLESS - ENDLESS)
#define EACH(i, n) for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (I)gridDim.x * blockDim.x)

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
"""

ROWS = r"""
#define OVER_ROW(j) for (I j = threadIdx.x; j < n; j += blockDim.x)
#define LOWEST (-ENDLESS)

__device__ inline T row_top(const T* x, I n, T* shared) {
    T top = LOWEST;
    OVER_ROW(j) { T v = x[j]; if (v > top || v != v) top = v; }
    return largest(top, shared);
}

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

extern "C" __global__ void layer_norm(const T* x, const T* weight, const T* bias, I n, T eps, int centered, T* y,
                                      T* mean, T* rstd) {
    __shared__ T shared[1024];
    I row = blockIdx.x;
    x += row * n; y += row * n;
    T middle = 0, square = 0;
    if (centered) {
        OVER_ROW(j) middle += x[j];
        middle = add_up(middle, shared) / n;
    }
    OVER_ROW(j) { T d = x[j] - middle; square += d * d; }
    T scale = 1 / sqrt(add_up(square, shared) / n + eps);
    OVER_ROW(j) {
        T v = (x[j] - middle) * scale;
        if (weight) v *= weight[j];
        y[j] = bias ? v + bias[j] : v;
    }
    if (threadIdx.x == 0) { if (centered) mean[row] = middle; rstd[row] = scale; }
}

extern "C" __global__ void layer_norm_backward(const T* g, const T* x, const T* mean, const T* rstd, const T* weight,
                                               I n, T* gx) {
    __shared__ T shared[1024];
    I row = blockIdx.x;
    g += row * n; x += row * n; gx += row * n;
    T middle = mean ? mean[row] : (T)0, scale = rstd[row], sum = 0, along = 0;
    OVER_ROW(j) {
        T gh = weight ? g[j] * weight[j] : g[j];
        sum += gh;
        along += gh * (x[j] - middle) * scale;
    }
    sum = mean ? add_up(sum, shared) / n : (T)0;
    along = add_up(along, shared) / n;
    OVER_ROW(j) {
        T gh = weight ? g[j] * weight[j] : g[j];
        gx[j] = scale * (gh - sum - (x[j] - middle) * scale * along);
    }
}

// Scores become exp(score - largest), with the row's largest score and sum; row % queries looks at keys up to itself.
extern "C" __global__ void attend(T* scores, I n, I queries, int causal, T* tops, T* sums) {
    __shared__ T shared[1024];
    I row = blockIdx.x, keys = causal && row % queries + 1 < n ? row % queries + 1 : n;
    scores += row * n;
    T top = row_top(scores, keys, shared), sum = 0;
    if (top == LOWEST) top = 0;
    OVER_ROW(j) { T v = j < keys ? exp(scores[j] - top) : (T)0; scores[j] = v; sum += v; }
    sum = add_up(sum, shared);
    if (threadIdx.x == 0) { tops[row] = top; sums[row] = sum; }
}

// Scores become weights again, by what `attend` has kept.
extern "C" __global__ void weights_of(T* scores, I n, I queries, int causal, const T* tops, const T* sums) {
    I row = blockIdx.x, keys = causal && row % queries + 1 < n ? row % queries + 1 : n;
    scores += row * n;
    T sum = sums[row] == 0 ? (T)1 : sums[row];
    OVER_ROW(j) scores[j] = j < keys ? exp(scores[j] - tops[row]) / sum : (T)0;
}

extern "C" __global__ void divide_rows(T* y, I n, const T* sums) {
    I row = blockIdx.x;
    T sum = sums[row] == 0 ? (T)1 : sums[row];
    OVER_ROW(j) y[row * n + j] /= sum;
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

RECURRENT = r"""
__device__ inline T logistic(T x) { return 1 / (1 + exp(-x)); }

// One step: `z` (batch, 4 size) holds the input's part and becomes the gates; `own` is the state's part.
extern "C" __global__ void lstm_step(T* z, const T* own, const T* before, T* cell, T* bent, T* out, I batch, I size) {
    EACH(i, batch * size) {
        I row = i / size, at = row * 4 * size + i % size;
        T in = logistic(z[at] + own[at]), keep = logistic(z[at + size] + own[at + size]);
        T fresh = tanh(z[at + 2 * size] + own[at + 2 * size]), open = logistic(z[at + 3 * size] + own[at + 3 * size]);
        T c = keep * before[i] + in * fresh, b = tanh(c);
        z[at] = in; z[at + size] = keep; z[at + 2 * size] = fresh; z[at + 3 * size] = open;
        cell[i] = c; bent[i] = b; out[i] = open * b;
    }
}

// `dm` is the gradient of the step's output; dc that of its cell, which becomes that of the cell before.
extern "C" __global__ void lstm_step_backward(const T* dm, T* dc, const T* gates, const T* before, const T* bent,
                                              T* dgates, I batch, I size) {
    EACH(k, batch * size) {
        I row = k / size, at = row * 4 * size + k % size;
        T i = gates[at], f = gates[at + size], g = gates[at + 2 * size], o = gates[at + 3 * size], b = bent[k];
        T d = dc[k] + dm[k] * o * (1 - b * b);
        dgates[at] = d * g * i * (1 - i);
        dgates[at + size] = d * before[k] * f * (1 - f);
        dgates[at + 2 * size] = d * i * (1 - g * g);
        dgates[at + 3 * size] = dm[k] * b * o * (1 - o);
        dc[k] = d * f;
    }
}

extern "C" __global__ void gru_step(T* z, const T* own, const T* before, T* inner, T* out, I batch, I size) {
    EACH(i, batch * size) {
        I row = i / size, at = row * 3 * size + i % size;
        T r = logistic(z[at] + own[at]), keep = logistic(z[at + size] + own[at + size]), w = own[at + 2 * size];
        T n = tanh(z[at + 2 * size] + r * w);
        z[at] = r; z[at + size] = keep; z[at + 2 * size] = n;
        inner[i] = w;
        out[i] = n + keep * (before[i] - n);
    }
}

// dh, the gradient of the step's output, becomes the part of that of the state before which needs no product.
extern "C" __global__ void gru_step_backward(T* dh, const T* gates, const T* before, const T* inner, T* on_input,
                                             T* on_state, I batch, I size) {
    EACH(i, batch * size) {
        I row = i / size, at = row * 3 * size + i % size;
        T r = gates[at], keep = gates[at + size], n = gates[at + 2 * size], d = dh[i];
        T dn = d * (1 - keep) * (1 - n * n), dr = dn * inner[i] * r * (1 - r);
        T dz = d * (before[i] - n) * keep * (1 - keep);
        on_input[at] = dr; on_input[at + size] = dz; on_input[at + 2 * size] = dn;
        on_state[at] = dr; on_state[at + size] = dz; on_state[at + 2 * size] = dn * r;
        dh[i] = d * keep;
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
