"""Operations under torch's names: `distgrad.exp`, `distgrad.cat`, ... Layer 5; nothing is computed here."""

from __future__ import annotations

from .ops.cumulative import cumprod, cumsum, logcumsumexp
from .ops.dropout import dropout
from .ops.index import (argwhere, embedding, gather, index_add, index_copy, index_fill, index_select, masked_scatter,
                        masked_select, nonzero, one_hot, scatter, scatter_add, take, take_along_dim)
from .ops.linalg import (addbmm, addmm, addmv, addr, baddbmm, bmm, chain_matmul, cholesky, cross, det, dot, eigh,
                         eigvalsh, einsum, inner, inv, kron, logdet, matmul, matrix_norm, matrix_power, mm, multi_dot,
                         mv, outer, pinv, qr, slogdet, solve, svd, svdvals, tensordot, trace, vdot)
from .ops.parts import angle, complex, conj, imag, real, view_as_complex, view_as_real
from .ops.pointwise import (abs, acos, acosh, add, asin, asinh, atan, atan2, atanh, bitwise_and, bitwise_not,
                            bitwise_or, bitwise_xor, ceil, copysign, cos, cosh, digamma, div, eq, erf, erfc, erfinv,
                            exp, exp2, expm1, floor, floor_divide, fmod, frac, ge, gelu, gt, hypot, isfinite, isinf,
                            isnan, le, leaky_relu, lgamma, log, log10, log1p, log2, log_sigmoid, logaddexp,
                            logical_and, logical_not, logical_or, logical_xor, lt, maximum, minimum, mul, ne, neg, pow,
                            reciprocal, relu, remainder, round, rsqrt, sigmoid, sign, silu, sin, sinh, softplus, sqrt,
                            square, sub, tan, tanh, trunc, xlogy)
from .ops.reduce import (all, amax, amin, aminmax, any, argmax, argmin, count_nonzero, logsumexp, max, mean, median,
                         min, nansum, norm, prod, std, sum, var, vector_norm)
from .ops.select import clamp, masked_fill, where
from .ops.shape import (broadcast_tensors, broadcast_to, cat, chunk, clone, contiguous, diag, diag_embed, diagonal,
                        dstack, expand_as, flatten, flip, fliplr, flipud, hstack, moveaxis, movedim, narrow, pad,
                        permute, repeat_interleave, reshape, roll, rot90, select, split, squeeze, stack, swapaxes,
                        swapdims, t, tile, transpose, tril, triu, unbind, unflatten, unfold, unsqueeze, vstack)
from .ops.softmax import log_softmax, softmax
from .ops.sort import argsort, kthvalue, msort, sort, topk, unique, unique_consecutive

__all__ = [
    "abs", "acos", "acosh", "add", "addbmm", "addmm", "addmv", "addr", "all", "amax", "amin", "aminmax", "angle",
    "any", "argmax", "argmin", "argsort", "argwhere", "asin", "asinh", "atan", "atan2", "atanh", "baddbmm",
    "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "bmm", "broadcast_tensors", "broadcast_to", "cat",
    "ceil", "chain_matmul", "cholesky", "chunk", "clamp", "clone", "complex", "conj", "contiguous", "copysign", "cos",
    "cosh", "count_nonzero", "cross", "cumprod", "cumsum", "det", "diag", "diag_embed", "diagonal", "digamma", "div",
    "dot", "dropout", "dstack", "eigh", "eigvalsh", "einsum", "embedding", "eq", "erf", "erfc", "erfinv", "exp",
    "exp2", "expand_as", "expm1", "flatten", "flip", "fliplr", "flipud", "floor", "floor_divide", "fmod", "frac",
    "gather", "ge", "gelu", "gt", "hstack", "hypot", "imag", "index_add", "index_copy", "index_fill", "index_select",
    "inner", "inv", "isfinite", "isinf", "isnan", "kron", "kthvalue", "le", "leaky_relu", "lgamma", "log", "log10",
    "log1p", "log2", "log_sigmoid", "log_softmax", "logaddexp", "logcumsumexp", "logdet", "logical_and",
    "logical_not", "logical_or", "logical_xor", "logsumexp", "lt", "masked_fill", "masked_scatter", "masked_select",
    "matmul", "matrix_norm", "matrix_power", "max", "maximum", "mean", "median", "min", "minimum", "mm", "moveaxis",
    "movedim", "msort", "mul", "multi_dot", "mv", "nansum", "narrow", "ne", "neg", "nonzero", "norm", "one_hot",
    "outer", "pad", "permute", "pinv", "pow", "prod", "qr", "real", "reciprocal", "relu", "remainder",
    "repeat_interleave", "reshape", "roll", "rot90", "round", "rsqrt", "scatter", "scatter_add", "select", "sigmoid",
    "sign", "silu", "sin", "sinh", "slogdet", "softmax", "softplus", "solve", "sort", "split", "sqrt", "square",
    "squeeze", "stack", "std", "sub", "sum", "svd", "svdvals", "swapaxes", "swapdims", "t", "take", "take_along_dim",
    "tan", "tanh", "tensordot", "tile", "topk", "trace", "transpose", "tril", "triu", "trunc", "unbind", "unflatten",
    "unfold", "unique", "unique_consecutive", "unsqueeze", "var", "vdot", "vector_norm", "view_as_complex",
    "view_as_real", "vstack", "where", "xlogy",
]
