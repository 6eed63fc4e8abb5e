"""Where distgrad is meant to differ from torch: the name of the case, and why.

A case listed here must differ; one that has come to agree fails, so that the list stays true.
"""

from __future__ import annotations

__all__ = ["DELIBERATE"]

_COMPOSED = "mv bmm gather sort repeat diag trace addmm scatter_add lerp addcmul mse select masked_fill"
_OVERLOADS = "pow tensor, rpow, prod dim, squeeze dim, clamp"

DELIBERATE: dict[str, str] = {
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
    "grad_of_a_non_leaf_and_its_hooks": "grad(y) is what y's hooks made of it, also where an input behind y is asked for",
    "callback_queued_in_a_nested_backward": "callbacks wait for the outermost backward: only then is every gradient there",
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
}
