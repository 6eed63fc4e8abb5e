"""Where distgrad is meant to differ from torch: the name of the case, and why.

A case listed here must differ; one that has come to agree fails, so that the list stays true.
"""

from __future__ import annotations

__all__ = ["DELIBERATE", "LENIENT"]

_COMPOSED = "mv bmm gather sort repeat diag trace addmm scatter_add lerp addcmul mse select masked_fill"
_OVERLOADS = "pow tensor, rpow, prod dim, squeeze dim, clamp"

_EDGES = {  # edges at which the two differ, in float64 and float32
    "lgamma_at_its_edges lgamma_twice digamma_at_its_edges digamma_twice":
        "at the poles polygamma is inf, where torch has a large number; and scipy's lgamma(-inf) is -inf",
    "elu_at_its_edges selu_at_its_edges celu_at_its_edges":
        "the second derivative at 0 is the left one, as the first is; torch's is 0",
    "hardsigmoid_at_its_edges det_singular": "the second derivative: one of the two refuses it",
    "pow_on_a_grid": "second derivatives at 0 ** y are finite where torch's are NaN; (-1) ** 0 the other way round",
    "atan2_on_a_grid copysign_on_a_grid": "the second derivative at 0 is finite, where torch's is NaN",
    "x_pow_0.5 x_pow_-0.5": "minus zero: torch computes these powers as roots",
    "ties_in_kthvalue": "which of several equal elements is the k-th is nobody's promise",
    "norm_2_of_zero norm_0.5_of_zero norm_0.5_of_one_zero norm_1.5_of_zero norm_1.5_of_one_zero norm_of_rows "
    "norm_frobenius": "the second derivative of a norm at 0 is 0 as the first is; torch's is NaN",
    "var_single": "the variance of one element is NaN, and so is every derivative; torch's second is 0",
    "logsumexp_of_row_all_minus_inf": "no element has a part in the sum of none, so the gradient is 0; torch's is NaN",
    "logcumsumexp_of_row_plus_inf": "a NaN more than torch where inf - inf is computed",
}

DELIBERATE: dict[str, str] = {
    **{f"{name}_{dtype}": reason for names, reason in _EDGES.items() for name in names.split()
       for dtype in ("float64", "float32")},
    "mish_at_its_edges_float32": "0 at 100, where torch's second derivative overflows to NaN",
    **{f"einsum_{order}": "every einsum wants operands of one dtype; torch's only where it multiplies matrices"
       for order in ("of_real_and_complex", "complex_and_real")},
    **{f"where_{order}": "a real branch gets the real part of a complex gradient; torch fails in backward"
       for order in ("of_real_and_complex", "complex_and_real")},
    **{f"angle_at_zero_{dtype}": "the second derivative at 0 is finite, where torch's is NaN"
       for dtype in ("complex128", "complex64")},
    "scalar_var": "as var_single", "empty_median": "the median of nothing is NaN and has no gradient",
    "empty_two_dims_median": "as above",
    **{f"name_of_{op}": "made of other operations, whose last one gives the name" for op in _COMPOSED.split()},
    **{f"name_of_{op}": "the number after Backward counts torch's overloads; kept for sums, means, max, min only"
       for op in _OVERLOADS.split(", ")},
    **{f"name_of_{op}": "here one operation; in torch made of others"
       for op in ("rsub", "rdiv", "einsum", "square", "linear", "cross_entropy")},
    **{f"name_of_{op}": "one rule for all that overwrites" for op in ("zero_", "fill_", "copy_")},
    "name_of_log1p": "torch writes Log1P",
    "name_of_setitem": "a write by key is one operation; torch's is a view and a copy into it",
    "tangent_of_another_dtype": "a tangent has the dtype of its tensor; torch lets the two differ",
    "anomaly_inf": "Inf is an anomaly as NaN is (check_inf=False gives torch's meaning)",
    "grad_of_a_non_leaf_and_its_hooks": "grad(y) is what y's hooks made of it, also where inputs of y are asked for",
    "callback_queued_in_a_nested_backward": "callbacks wait for the outermost backward: then all gradients are there",
    "backward_of_what_is_no_tensor": "a TypeError says so; torch has an assertion that fails",
    "backward_with_more_gradients_than_tensors": "torch ignores the gradients that are left over",
    "hooks_where_no_gradient_comes": "a hook is called with a gradient or not at all; torch calls it with None",
    "saved_by_prod_then_changed_output": "the gradient of prod does not need its result, so that may be changed",
    "saved_by_prod_then_changed_output detached": "as above",
    "requires_grad_(False)_on_view of no_grad view": "follows from views_made_under_no_grad_require_grad",
    "deepcopy_on_view of no_grad view": "follows from views_made_under_no_grad_require_grad",
    "zero__on_expanded": "one memory behind several elements is never written; torch lets fills through",
    "setitem_on_expanded": "as above",
    "one_mode_object_twice": "leaving twice restores what was before; torch stays in the mode",
    "views_made_under_no_grad_require_grad": "no_grad means requires_grad == False, for views too; torch's view of a "
                                             "leaf says True and collects a gradient of its own",
    **{f"pow_bool_{dims}d_number": "numpy's power of booleans is int8" for dims in (0, 1)},
    **{f"unary_{op}": "a bool for every dtype; torch makes an exception for uint8" for op in ("all", "any")},
}

_ORDER = "numpy orders complex numbers by their real parts; torch refuses to compare them"
_HALF = "halves beside complex numbers compute in complex64; torch lacks many functions of complex32"
_FLAGS = "numpy counts with booleans; torch refuses"

LENIENT: dict[str, str] = {  # operations that compute for some dtypes which torch refuses
    "sub": _FLAGS, "floor_divide": _FLAGS, "remainder": _FLAGS, "pow": _FLAGS + "; " + _HALF, "div": _HALF,
    "logical_and": _HALF, "lt": _ORDER, "ge": _ORDER, "maximum": _ORDER,
    **{f"unary_{op}": _FLAGS for op in ("abs", "frac")},
    **{f"unary_{op}": _FLAGS + "; " + _ORDER for op in
       ("relu", "floor", "ceil", "trunc", "round", "sign", "max", "min", "amax", "argmax", "median", "sort", "clamp")},
    "unary_nansum": "numpy sums complex numbers", "unary_erf": "scipy has it for complex numbers",
}
