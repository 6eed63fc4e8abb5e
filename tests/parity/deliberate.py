"""Where distgrad is meant to differ from torch: the name of the case, and why.

A case listed here must differ; one that has come to agree fails, so that the list stays true.
"""

from __future__ import annotations

__all__ = ["DELIBERATE"]

DELIBERATE: dict[str, str] = {
    "grad_of_a_non_leaf_and_its_hooks": "grad(y) is what y's hooks made of it, also where an input behind y is asked for",
    "callback_queued_in_a_nested_backward": "callbacks wait for the outermost backward: only then is every gradient there",
}
