"""CUDA C++ of the steps of recurrent layers, as text, which `recurrent` calls. Arrays hold all steps; t is one."""

from __future__ import annotations

__all__ = ["CODE"]

CODE = r"""
__device__ inline T logistic(T x) { return 1 / (1 + exp(-x)); }

// z (steps, batch, 4 size) holds what comes before the gates, and becomes them. Of cells (steps + 1, ...), a step reads
// one and writes the next in its direction.
extern "C" __global__ void lstm_step(T* z, T* cells, T* bent, T* y, int reverse, I batch, I size, I t) {
    I all = batch * size;
    const T* before = cells + (t + reverse) * all;
    T* cell = cells + (t + !reverse) * all;
    z += t * 4 * all; bent += t * all; y += t * all;
    EACH(i, all) {
        I row = i, at = split(row, size);
        at += row * 4 * size;
        T in = logistic(z[at]), keep = logistic(z[at + size]), fresh = tanh(z[at + 2 * size]);
        T open = logistic(z[at + 3 * size]), c = keep * before[i] + in * fresh, b = tanh(c);
        z[at] = in; z[at + size] = keep; z[at + 2 * size] = fresh; z[at + 3 * size] = open;
        cell[i] = c; bent[i] = b; y[i] = open * b;
    }
}

// dh is the gradient of the step's state, without that of its output, gy; dc that of its cell, which becomes that of
// the cell before.
extern "C" __global__ void lstm_step_backward(const T* gy, const T* dh, T* dc, const T* gates, const T* cells,
                                              const T* bent, T* dgates, int reverse, I batch, I size, I t) {
    I all = batch * size;
    const T* before = cells + (t + reverse) * all;
    gates += t * 4 * all; dgates += t * 4 * all; bent += t * all;
    if (gy) gy += t * all;
    EACH(k, all) {
        I row = k, at = split(row, size);
        at += row * 4 * size;
        T i = gates[at], f = gates[at + size], g = gates[at + 2 * size], o = gates[at + 3 * size], b = bent[k];
        T dm = gy ? dh[k] + gy[k] : dh[k], d = dc[k] + dm * o * (1 - b * b);
        dgates[at] = d * g * i * (1 - i);
        dgates[at + size] = d * before[k] * f * (1 - f);
        dgates[at + 2 * size] = d * i * (1 - g * g);
        dgates[at + 3 * size] = dm * b * o * (1 - o);
        dc[k] = d * f;
    }
}

// own (batch, 3 size) is the state's part of this step, without its bias.
extern "C" __global__ void gru_step(T* z, const T* own, const T* bias, const T* h0, T* inner, T* y, I steps,
                                    int reverse, I batch, I size, I t) {
    I all = batch * size, previous = reverse ? t + 1 : t - 1;
    const T* before = previous < 0 || previous == steps ? h0 : y + previous * all;
    z += t * 3 * all; inner += t * all; y += t * all;
    EACH(i, all) {
        I row = i, j = split(row, size), at = row * 3 * size + j;
        T to_r = own[at], to_z = own[at + size], w = own[at + 2 * size];
        if (bias) { to_r += bias[j]; to_z += bias[j + size]; w += bias[j + 2 * size]; }
        T r = logistic(z[at] + to_r), keep = logistic(z[at + size] + to_z), n = tanh(z[at + 2 * size] + r * w);
        z[at] = r; z[at + size] = keep; z[at + 2 * size] = n;
        inner[i] = w;
        y[i] = n + keep * (before[i] - n);
    }
}

// dh, the gradient of the step's state without that of its output, becomes the part of that of the state before which
// needs no product.
extern "C" __global__ void gru_step_backward(const T* gy, T* dh, const T* gates, const T* before, const T* inner,
                                             T* on_input, T* on_state, I batch, I size, I t) {
    I all = batch * size;
    gates += t * 3 * all; on_input += t * 3 * all; on_state += t * 3 * all; before += t * all; inner += t * all;
    if (gy) gy += t * all;
    EACH(i, all) {
        I row = i, at = split(row, size);
        at += row * 3 * size;
        T r = gates[at], keep = gates[at + size], n = gates[at + 2 * size], d = gy ? dh[i] + gy[i] : dh[i];
        T dn = d * (1 - keep) * (1 - n * n), dr = dn * inner[i] * r * (1 - r);
        T dz = d * (before[i] - n) * keep * (1 - keep);
        on_input[at] = dr; on_input[at + size] = dz; on_input[at + 2 * size] = dn;
        on_state[at] = dr; on_state[at + size] = dz; on_state[at + 2 * size] = dn * r;
        dh[i] = d * keep;
    }
}

extern "C" __global__ void rnn_step(T* y, int bend, I batch, I size, I t) {
    y += t * batch * size;
    EACH(i, batch * size) { T z = y[i]; y[i] = bend ? tanh(z) : z < 0 ? (T)0 : z; }
}

extern "C" __global__ void rnn_step_backward(const T* gy, const T* dh, const T* y, T* d, int bend, I batch, I size,
                                             I t) {
    y += t * batch * size; d += t * batch * size;
    if (gy) gy += t * batch * size;
    EACH(i, batch * size) {
        T g = gy ? dh[i] + gy[i] : dh[i];
        d[i] = bend ? g * (1 - y[i] * y[i]) : y[i] > 0 ? g : g * 0;
    }
}
"""
