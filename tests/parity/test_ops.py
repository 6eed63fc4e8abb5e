"""Every exported operation on ordinary numbers: values, gradients, second derivatives."""

from __future__ import annotations

import numpy as np
import pytest

import distgrad

from .both import Table, check, derivatives, run, torch

case = Table()


def numbers(*shape, seed=0, low=None):
    """Different numbers; positive ones from `low` on."""
    stream = np.random.default_rng([seed, *shape])
    found = stream.standard_normal(shape) if low is None else low + stream.uniform(0.1, 1.0, shape)
    return found.tolist()


A, B, S = numbers(3, 4), numbers(3, 4, seed=1), numbers(4, 4, seed=2)
V, W, P = numbers(4), numbers(4, seed=1), numbers(3, 4, seed=3, low=0.2)
U, T3 = numbers(3, 4, seed=4, low=-0.6), numbers(2, 3, 4)
SPD = (np.array(S) @ np.array(S).T + 2 * np.eye(4)).tolist()


def index(lib, *values):
    return lib.tensor(list(values))


def mask(lib, x):
    return x > 0.1


F = {  # name -> (function, inputs); the first word of a name is the operation's
    "addbmm": (lambda lib, m, a, b: lib.addbmm(m, a, b), [numbers(3, 3), T3, numbers(2, 4, 3)]),
    "addmm": (lambda lib, m, a, b: lib.addmm(m, a, b, beta=0.5, alpha=2), [numbers(3, 3), A, numbers(4, 3)]),
    "addmv": (lambda lib, v, a, b: lib.addmv(v, a, b), [numbers(3), A, V]),
    "addr": (lambda lib, m, a, b: lib.addr(m, a, b), [A, numbers(3), V]),
    "allclose": (lambda lib, a, b: lib.tensor(lib.allclose(a, a + 1e-9) + 2 * lib.allclose(a, b)), [A, B]),
    "equal": (lambda lib, a, b: lib.tensor(lib.equal(a, a) + 2 * lib.equal(a, b)), [A, B]),
    "isclose": (lambda lib, a, b: lib.isclose(a, b, 0.5, 0.1), [A, B]),
    "nan_to_num": (lambda lib, a: lib.nan_to_num(a / (a > 0) * 2, 3.0, 4.0, -5.0), [A]),
    "amax": (lambda lib, x: lib.amax(x, (0, 2)), [T3]), "amin": (lambda lib, x: lib.amin(x, 1, keepdim=True), [T3]),
    "aminmax": (lambda lib, x: lib.aminmax(x, dim=1)[1], [A]), "argmax": (lambda lib, x: lib.argmax(x, 1), [A]),
    "argmin": (lambda lib, x: lib.argmin(x), [A]), "argsort": (lambda lib, x: lib.argsort(x, 1), [A]),
    "argwhere": (lambda lib, x: lib.argwhere(x > 0), [A]), "all": (lambda lib, x: lib.all(x > -9, 1), [A]),
    "any": (lambda lib, x: lib.any(x > 1, 0), [A]), "baddbmm": (lambda lib, m, a, b: lib.baddbmm(m, a, b, beta=2),
                                                             [numbers(2, 3, 3), T3, numbers(2, 4, 3)]),
    "bmm": (lambda lib, a, b: lib.bmm(a, b), [T3, numbers(2, 4, 2)]),
    "broadcast_tensors": (lambda lib, a, b: lib.broadcast_tensors(a, b)[1], [A, V]),
    "broadcast_to": (lambda lib, a: lib.broadcast_to(a, (2, 3, 4)), [A]),
    "cat": (lambda lib, a, b: lib.cat([a, b, a], 1), [A, B]), "chain_matmul": (lambda lib, a, b, c:
    lib.chain_matmul(a, b, c), [A, S, numbers(4, 2)]), "cholesky": (lambda lib, s: lib.linalg.cholesky((s + s.mT) / 2),
                                                                  [SPD]),
    "chunk": (lambda lib, a: lib.chunk(a, 3, 1)[0] * 2, [A]), "clamp": (lambda lib, a: lib.clamp(a, -0.5, 0.5), [A]),
    "clone": (lambda lib, a: lib.clone(a), [A]), "count_nonzero": (lambda lib, a: lib.count_nonzero(a > 0, 1), [A]),
    "cross": (lambda lib, a, b: lib.cross(a, b, dim=0), [A, B]), "cumprod": (lambda lib, a: lib.cumprod(a, 1), [A]),
    "cumsum": (lambda lib, a: lib.cumsum(a, 0), [A]), "det": (lambda lib, s: lib.det(s), [S]),
    "diag": (lambda lib, v: lib.diag(v, 1), [V]), "diag matrix": (lambda lib, a: lib.diag(a, -1), [A]),
    "diag_embed": (lambda lib, a: lib.diag_embed(a), [A]), "diagonal": (lambda lib, x: lib.diagonal(x, 1, 1, 2), [T3]),
    "dot": (lambda lib, a, b: lib.dot(a, b), [V, W]), "dstack": (lambda lib, a, b: lib.dstack([a, b]), [A, B]),
    "eigh values": (lambda lib, s: lib.linalg.eigh((s + s.mT) / 2)[0], [SPD]),
    "eigh vectors": (lambda lib, s: lib.linalg.eigh((s + s.mT) / 2)[1].abs(), [SPD]),
    "eigvalsh": (lambda lib, s: lib.linalg.eigvalsh((s + s.mT) / 2), [SPD]),
    "einsum": (lambda lib, a, b: lib.einsum("bij,kj->bik", a, b), [T3, B]), "einsum diagonal": (lambda lib, s:
    lib.einsum("ii->i", s), [S]), "einsum dots": (lambda lib, x: lib.einsum("...ij->...ji", x), [T3]),
    "einsum three": (lambda lib, a, b, c: lib.einsum("ij,ij,j->i", a, b, c), [A, B, V]),
    "embedding": (lambda lib, w: lib.nn.functional.embedding(lib.tensor([[0, 2], [1, 0]]), w), [A]),
    "expand": (lambda lib, v: v.expand(3, 4), [V]), "flatten": (lambda lib, x: lib.flatten(x, 1), [T3]),
    "flip": (lambda lib, x: lib.flip(x, (0, 2)), [T3]), "fliplr": (lambda lib, a: lib.fliplr(a), [A]),
    "flipud": (lambda lib, a: lib.flipud(a), [A]), "gather": (lambda lib, a: lib.gather(a, 1, lib.tensor(
        [[0, 0], [3, 1], [2, 2]])), [A]), "hstack": (lambda lib, a, b: lib.hstack([a, b]), [A, B]),
    "index_add": (lambda lib, a, b: lib.index_add(a, 0, index(lib, 0, 0, 2), b), [A, B]),
    "index_copy": (lambda lib, a, b: lib.index_copy(a, 0, index(lib, 2, 0, 1), b), [A, B]),
    "index_fill": (lambda lib, a: lib.index_fill(a, 1, index(lib, 0, 2), 3.0), [A]),
    "index_select": (lambda lib, a: lib.index_select(a, 1, index(lib, 3, 3, 0)), [A]),
    "inner": (lambda lib, a, b: lib.inner(a, b), [A, B]), "inv": (lambda lib, s: lib.linalg.inv(s), [SPD]),
    "kron": (lambda lib, a, b: lib.kron(a, b), [A, numbers(2, 2)]),
    "kthvalue": (lambda lib, a: lib.kthvalue(a, 2, 1)[0], [A]), "logcumsumexp": (lambda lib, a: lib.logcumsumexp(a, 1),
                                                                             [A]),
    "log_softmax": (lambda lib, a: lib.log_softmax(a, 0), [A]), "logdet": (lambda lib, s: lib.logdet(s), [SPD]),
    "logsumexp": (lambda lib, x: lib.logsumexp(x, (0, 1)), [T3]), "masked_fill": (lambda lib, a:
    lib.masked_fill(a, mask(lib, a), 2.0), [A]), "masked_scatter": (lambda lib, a, b: lib.masked_scatter(
        a, mask(lib, a), b), [A, B]), "masked_select": (lambda lib, a: lib.masked_select(a, mask(lib, a)), [A]),
    "matmul": (lambda lib, a, b: lib.matmul(a, b), [T3, numbers(4, 2)]), "matmul vectors": (lambda lib, a, b: a @ b,
                                                                                         [A, V]),
    "matmul batched": (lambda lib, a, b: a @ b, [numbers(2, 1, 3, 4), numbers(3, 4, 2)]),
    "matrix_norm": (lambda lib, a: lib.linalg.matrix_norm(a), [A]), "matrix_norm nuc": (lambda lib, a:
    lib.linalg.matrix_norm(a, "nuc"), [A]), "matrix_norm 2": (lambda lib, a: lib.linalg.matrix_norm(a, 2), [A]),
    "matrix_power": (lambda lib, s: lib.matrix_power(s, 3), [S]), "matrix_power inverse": (lambda lib, s:
    lib.matrix_power(s, -2), [SPD]), "max": (lambda lib, a: lib.max(a, 1)[0], [A]), "max pair": (lambda lib, a, b:
    lib.max(a, b), [A, B]), "mean": (lambda lib, x: lib.mean(x, (0, 2), keepdim=True), [T3]),
    "median": (lambda lib, a: lib.median(a, 0)[0], [A]), "min": (lambda lib, a: lib.min(a), [A]),
    "mm": (lambda lib, a, b: lib.mm(a, b), [A, S]), "movedim": (lambda lib, x: lib.movedim(x, 0, 2), [T3]),
    "moveaxis": (lambda lib, x: lib.moveaxis(x, (0, 1), (1, 0)), [T3]), "msort": (lambda lib, a: lib.msort(a), [A]),
    "multi_dot": (lambda lib, a, b, c: lib.linalg.multi_dot([a, b, c]), [A, S, numbers(4, 2)]),
    "mv": (lambda lib, a, v: lib.mv(a, v), [A, V]), "nansum": (lambda lib, a: lib.nansum(a, 1), [A]),
    "narrow": (lambda lib, a: lib.narrow(a, 1, 1, 2), [A]), "nonzero": (lambda lib, a: lib.nonzero(a > 0), [A]),
    "norm": (lambda lib, a: lib.norm(a, 3, 1), [A]), "one_hot": (lambda lib, a: lib.nn.functional.one_hot(
        lib.argmax(a, 1), 4), [A]), "outer": (lambda lib, a, b: lib.outer(a, b), [V, W]),
    "pad": (lambda lib, a: lib.nn.functional.pad(a, (1, 2, 0, 1), value=3.0), [A]), "pad reflect": (lambda lib, x:
    lib.nn.functional.pad(x, (2, 1), mode="reflect"), [T3]), "pad replicate": (lambda lib, x: lib.nn.functional.pad(
        x, (2, 1), mode="replicate"), [T3]), "pad circular": (lambda lib, x: lib.nn.functional.pad(
            x, (2, 1), mode="circular"), [T3]), "pad negative": (lambda lib, a: lib.nn.functional.pad(a, (-1, 1)), [A]),
    "permute": (lambda lib, x: lib.permute(x, (2, 0, 1)), [T3]), "pinv": (lambda lib, a: lib.linalg.pinv(a), [A]),
    "prod": (lambda lib, a: lib.prod(a, 1), [A]), "qr": (lambda lib, a: lib.linalg.qr(a.mT)[1].abs(), [A]),
    "repeat": (lambda lib, a: a.repeat(2, 3), [A]), "repeat_interleave": (lambda lib, a: lib.repeat_interleave(a, 2, 1),
                                                                        [A]),
    "repeat_interleave counts": (lambda lib, a: lib.repeat_interleave(a, index(lib, 1, 0, 2), 0), [A]),
    "reshape": (lambda lib, x: lib.reshape(x, (-1, 6)), [T3]), "roll": (lambda lib, a: lib.roll(a, (1, -1), (0, 1)),
    [A]),
    "roll flat": (lambda lib, a: lib.roll(a, 3), [A]), "rot90": (lambda lib, a: lib.rot90(a, 1, (0, 1)), [A]),
    "scatter": (lambda lib, a, b: lib.scatter(a, 1, lib.tensor([[3, 0, 1, 2]] * 3), b), [A, B]),
    "scatter number": (lambda lib, a: lib.scatter(a, 1, lib.tensor([[3, 0]]), 2.0), [A]),
    "scatter_add": (lambda lib, a, b: lib.scatter_add(a, 1, lib.tensor([[3, 0, 3, 2]] * 3), b), [A, B]),
    "select": (lambda lib, x: lib.select(x, 1, -1), [T3]), "slogdet": (lambda lib, s: lib.linalg.slogdet(s)[1], [S]),
    "softmax": (lambda lib, a: lib.softmax(a, 1), [A]), "solve": (lambda lib, s, b: lib.linalg.solve(s, b),
                                                               [SPD, numbers(4, 2)]),
    "solve vector": (lambda lib, s, b: lib.linalg.solve(s, b), [SPD, V]), "sort": (lambda lib, a: lib.sort(
        a, 1, descending=True)[0], [A]), "split": (lambda lib, a: lib.split(a, [1, 3], 1)[1], [A]),
    "squeeze": (lambda lib, a: lib.squeeze(a[None, :, None], 2), [A]), "stack": (lambda lib, a, b: lib.stack([a, b], 1),
                                                                             [A, B]),
    "std": (lambda lib, a: lib.std(a, 1), [A]), "sum": (lambda lib, x: lib.sum(x, (0, -1)), [T3]),
    "svd": (lambda lib, a: lib.linalg.svd(a, full_matrices=False)[1], [A]), "svd product": (lambda lib, a: _svd(lib, a),
                                                                                         [A]),
    "svdvals": (lambda lib, a: lib.linalg.svdvals(a), [A]), "swapaxes": (lambda lib, x: lib.swapaxes(x, 0, 2), [T3]),
    "swapdims": (lambda lib, x: lib.swapdims(x, 0, 1), [T3]), "t": (lambda lib, a: lib.t(a), [A]), "take": (
        lambda lib, a: lib.take(a, index(lib, 0, 11, 11, 5)), [A]), "take_along_dim": (lambda lib,
        a: lib.take_along_dim(
            a, lib.argsort(a, 1), 1), [A]), "tensordot": (lambda lib, a, b: lib.tensordot(a, b, dims=([2, 1], [1, 0])),
                                                        [T3, A]), "tile": (lambda lib, a: lib.tile(a, (2, 1)), [A]),
    "topk": (lambda lib, a: lib.topk(a, 2, 1)[0], [A]), "topk smallest": (lambda lib, a: lib.topk(a, 2, 0,
    largest=False)
                                                                        [0], [A]),
    "trace": (lambda lib, s: lib.trace(s), [S]), "transpose": (lambda lib, x: lib.transpose(x, 0, -1), [T3]),
    "tril": (lambda lib, a: lib.tril(a, 1), [A]), "triu": (lambda lib, a: lib.triu(a, -1), [A]),
    "unbind": (lambda lib, a: lib.unbind(a, 1)[2], [A]), "unflatten": (lambda lib, a: lib.unflatten(a, 1, (2, 2)), [A]),
    "unfold": (lambda lib, a: a.unfold(1, 3, 1), [A]), "unique": (lambda lib, a: lib.unique((a.detach() * 2).round()),
    [A]),
    "unique_consecutive": (lambda lib, a: lib.unique_consecutive(a > 0), [V]),
    "unsqueeze": (lambda lib, a: lib.unsqueeze(a, 1), [A]), "var": (lambda lib, x: lib.var(x, (0, 1), correction=0),
    [T3]),
    "vdot": (lambda lib, a, b: lib.vdot(a, b), [V, W]), "vector_norm": (lambda lib, a: lib.linalg.vector_norm(a, 3, 0),
                                                                     [A]),
    "vstack": (lambda lib, a, b: lib.vstack([a, b]), [A, B]), "where": (lambda lib, a, b: lib.where(a > b, a, b), [A,
    B]),
    "complex": (lambda lib, a, b: lib.complex(a, b).abs(), [A, B]), "mean of all": (lambda lib, x: x.mean(), [T3]),
    "floor_divide": (lambda lib, a, b: a.detach() // b.detach(), [A, B]),
    "getitem": (lambda lib, x: x[0, 1:, ::2], [T3]), "getitem mixed": (lambda lib, x: x[:, index(lib, 0, 2), 1:], [T3]),
    "getitem apart": (lambda lib, x: x[index(lib, 0, 1), :, index(lib, 1, 3)], [T3]), "getitem negative": (
        lambda lib, x: x[..., -1, None], [T3]), "getitem mask": (lambda lib, x: x[x.sum(-1) > 0], [T3]),
    "getitem two masks": (lambda lib, a: a[index(lib, 1, 0)][:, index(lib, 1, 1)], [A]),
    "addcmul": (lambda lib, a, b: a.addcmul(a, b, value=2), [A, B]), "addcdiv": (lambda lib, a, p: a.addcdiv(a, p), [A,
    P]),
    "lerp": (lambda lib, a, b: a.lerp(b, 0.3), [A, B]), "lerp tensor": (lambda lib, a, b, w: a.lerp(b, w), [A, B, P]),
    "layer_norm": (lambda lib, a, w, b: lib.nn.functional.layer_norm(a, (4,), w, b), [A, V, W]),
    "linear": (lambda lib, a, w, b: lib.nn.functional.linear(a, w, b), [T3, numbers(2, 4), numbers(2)]),
    "mse_loss": (lambda lib, a, b: lib.nn.functional.mse_loss(a, b), [A, B]),
    "l1_loss": (lambda lib, a, b: lib.nn.functional.l1_loss(a, b), [A, B]),
    "cross_entropy": (lambda lib, a: lib.nn.functional.cross_entropy(a, index(lib, 0, 3, 1)), [A]),
    "nll_loss": (lambda lib, a: lib.nn.functional.nll_loss(lib.log_softmax(a, 1), index(lib, 0, 3, 1)), [A]),
    "smooth_l1": (lambda lib, a, b: lib.nn.functional.smooth_l1_loss(a, b), [A, B]),
    "bce_with_logits": (lambda lib, a: lib.nn.functional.binary_cross_entropy_with_logits(a, (a > 0).to(a.dtype)), [A]),
    "conv1d": (lambda lib, x, w: lib.nn.functional.conv1d(x, w, padding=1), [T3, numbers(2, 3, 2)]),
    "conv2d": (lambda lib, x, w: lib.nn.functional.conv2d(x, w, stride=2), [numbers(1, 2, 5, 5), numbers(3, 2, 3, 3)]),
    "max_pool": (lambda lib, x: lib.nn.functional.max_pool2d(x, 2), [numbers(1, 2, 4, 4)]),
    "avg_pool": (lambda lib, x: lib.nn.functional.avg_pool2d(x, 2), [numbers(1, 2, 4, 4)]),
}
ELEMENTWISE = ("acos asin atanh erfinv abs angle asinh atan ceil cos cosh digamma erf erfc exp exp2 expm1 floor frac "
               "neg reciprocal relu round sigmoid sign sin sinh square tan tanh trunc acosh lgamma log log10 log1p "
               "log2 rsqrt sqrt isfinite isinf isnan logical_not").split()
PAIRS = ("add atan2 copysign div eq fmod ge gt hypot le logaddexp lt maximum minimum mul ne pow remainder sub "
         "xlogy logical_and logical_or logical_xor").split()
# Compared in other files: bitwise ones with the promotion, activations with the edges, parts with complex numbers.
ELSEWHERE = set("bitwise_and bitwise_not bitwise_or bitwise_xor conj contiguous dropout expand_as gelu imag leaky_relu "
                "log_sigmoid real silu softplus view_as_complex view_as_real".split())


def _svd(lib, a):
    u, s, v = lib.linalg.svd(a, full_matrices=False)
    return u @ (v * s[:, None] ** 2)


for name, (function, inputs) in F.items():
    case.add(name, lambda lib, f=function, i=inputs: derivatives(lib, f, *i))
for name in ELEMENTWISE:
    domain = {"acosh": numbers(3, 4, low=1.0), "acos": U, "asin": U, "atanh": U, "erfinv": U}.get(
        name, P if name in ("lgamma", "digamma", "log", "log10", "log1p", "log2", "rsqrt", "sqrt") else A)
    case.add(name, lambda lib, n=name, d=domain: derivatives(lib, lambda lib, x: getattr(lib, n)(x), d))
for name in PAIRS:
    domain = (P, B) if name == "pow" else (A, P) if name == "xlogy" else (A, B)
    case.add(name, lambda lib, n=name, d=domain: derivatives(lib, lambda lib, x, y: getattr(lib, n)(x, y), *d))
    case.add(f"{name} broadcast", lambda lib, n=name: derivatives(lib, lambda lib, x, y: getattr(lib, n)(x, y), P, V
                                                                 if n not in ("pow", "xlogy") else P[0]))


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)


def test_every_operation_is_compared():
    from distgrad.functions import __all__ as names

    compared = {name.split()[0] for name in case.cases}
    assert not sorted(set(names) - compared - ELSEWHERE)


def test_every_operation_runs_with_torch():
    """A case that torch refuses would compare two exceptions."""
    assert run(lambda lib: lib.ones(1), distgrad) is not None
    refused = [name for name, function in case.cases.items() if type(run(function, torch)).__name__ == "Raised"]
    assert not refused
