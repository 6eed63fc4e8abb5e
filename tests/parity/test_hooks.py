"""Order of nodes and hooks, retained gradients, and which hooks run where."""

from __future__ import annotations

from typing import Any

import pytest

from .both import Table, check, leaf, log, raised

case = Table()


def end_of(lib: Any, leaf: Any) -> Any:
    """A leaf's AccumulateGrad."""
    return (leaf * 1).grad_fn.next_functions[0][0]


@case
def order_on_a_leaf(lib):
    seen = []
    x = leaf(lib, [2.0, 3.0])
    node = end_of(lib, x)
    x.register_post_accumulate_grad_hook(lambda t: seen.append(("post accumulate", t.grad.tolist())))
    node.register_hook(log(seen, "posthook"))
    node.register_prehook(log(seen, "prehook"))
    lib.autograd.graph.register_multi_grad_hook([x], log(seen, "multi"))
    x.register_hook(log(seen, "tensor 1"))
    x.register_hook(log(seen, "tensor 2"))
    (x * 3 + x * x).sum().backward()
    return seen


@case
def order_on_a_non_leaf(lib):
    seen = []
    x = leaf(lib, 2.0)
    y = x * 3
    y.grad_fn.register_hook(log(seen, "posthook"))
    y.grad_fn.register_prehook(log(seen, "prehook"))
    y.retain_grad()
    y.register_hook(lambda g: (seen.append(("tensor", g.item())), g * 10)[1])
    (y * y).backward()
    return seen, y.grad, x.grad


@case
def several_prehooks_and_posthooks_chain(lib):
    seen = []
    x = leaf(lib, 2.0)
    y = x * 3
    y.grad_fn.register_prehook(lambda gs: (seen.append(gs[0].item()), (gs[0] * 2,))[1])
    y.grad_fn.register_prehook(lambda gs: (seen.append(gs[0].item()), (gs[0] + 1,))[1])
    y.grad_fn.register_hook(lambda gi, go: (seen.append((gi[0].item(), go[0].item())), (gi[0] * 5, None))[1])
    y.grad_fn.register_hook(lambda gi, go: seen.append((gi[0].item(), gi[1], go[0].item())))
    y.backward()
    return seen, x.grad


@case
def prehook_of_accumulate_replaces(lib):
    seen = []
    x = leaf(lib, 2.0)
    node = end_of(lib, x)
    node.register_prehook(lambda gs: (gs[0] * 100,))
    node.register_hook(log(seen, "posthook"))
    x.register_hook(lambda g: g + 1)
    (x * 3).backward()
    return seen, x.grad


@case
def posthook_of_accumulate_returns_value(lib):
    x = leaf(lib, 2.0)
    end_of(lib, x).register_hook(lambda gi, go: (go[0],))
    return raised(lambda: (x * 3).backward())


@case
def posthook_with_wrong_count(lib):
    x = leaf(lib, 2.0)
    y = x * 3
    y.grad_fn.register_hook(lambda gi, go: (go[0],))
    return raised(y.backward)


@case
def prehook_with_wrong_count(lib):
    x = leaf(lib, 2.0)
    y = x * 3
    y.grad_fn.register_prehook(lambda gs: (gs[0], gs[0]))
    return raised(y.backward)


@case
def order_of_nodes_is_newest_first(lib):
    seen = []
    x = leaf(lib, 1.0)
    parts = {}
    parts["a"] = x * 2
    parts["b"] = x.exp()
    parts["c"] = parts["a"] * parts["b"]
    parts["d"] = parts["a"] + 1
    parts["e"] = parts["c"] * parts["d"]
    for name, t in parts.items():
        t.grad_fn.register_hook(lambda gi, go, name=name: seen.append(name))
    x.register_hook(lambda g: seen.append("x"))
    parts["e"].backward()
    return seen


@case
def leaves_accumulate_as_soon_as_ready(lib):
    seen = []
    ws = [leaf(lib, float(i + 1)) for i in range(4)]
    h = leaf(lib, 1.0)
    for i, w in enumerate(ws):
        w.register_post_accumulate_grad_hook(lambda t, i=i: seen.append(i))
    for i, w in enumerate(ws):
        h = h * w
        h.register_hook(lambda g, i=i: seen.append(f"h{i}"))
    (h + ws[0]).backward()
    return seen, [w.grad for w in ws]


@case
def shared_leaf_fires_once(lib):
    seen = []
    x = leaf(lib, [1.0, 2.0])
    x.register_hook(log(seen, "x"))
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.tolist()))
    y = x
    for _ in range(5):
        y = y * x + x
    y.sum().backward()
    return seen


@case
def retain_grad_first_or_last(lib):
    x = leaf(lib, 2.0)
    y, z = x * 2, x * 3
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    z.register_hook(lambda g: g * 10)
    z.retain_grad()
    (y * z).backward()
    return y.grad, z.grad, x.grad, y.retains_grad, x.retains_grad, (x * 1).retains_grad


@case
def retain_grad_accumulates(lib):
    x = leaf(lib, 2.0)
    y = x * 2
    y.retain_grad()
    y.backward(retain_graph=True)
    (y * 3).backward()
    return y.grad


@case
def retain_grad_twice_and_on_leaf(lib):
    x = leaf(lib, 2.0)
    x.retain_grad()
    y = x * 2
    y.retain_grad()
    y.retain_grad()
    y.backward()
    return y.grad, x.grad, raised(lib.ones(2).retain_grad)


@case
def retain_grad_of_an_input_in_autograd_grad(lib):
    x = leaf(lib, 2.0)
    y = x * 2
    y.retain_grad()
    lib.autograd.grad(y * 3, x)
    return y.grad, x.grad


@case
def retain_grad_on_one_of_several_outputs(lib):
    x = leaf(lib, [1.0, 2.0, 3.0])
    a, b, c = x.unbind()
    b.retain_grad()
    (a * 2 + b * 3 + c).backward()
    return b.grad, x.grad


@case
def grad_runs_tensor_hooks_only(lib):
    seen = []
    x = leaf(lib, 2.0)
    node = end_of(lib, x)
    x.register_hook(lambda g: (seen.append("tensor"), g * 2)[1])
    node.register_prehook(lambda gs: seen.append("prehook"))
    node.register_hook(lambda gi, go: seen.append("posthook"))
    x.register_post_accumulate_grad_hook(lambda t: seen.append("post accumulate"))
    return lib.autograd.grad(x * 3, x), seen, x.grad


@case
def grad_of_a_non_leaf_and_its_hooks(lib):
    seen = []
    x = leaf(lib, 2.0)
    y = x * 3
    y.register_hook(lambda g: (seen.append("tensor"), g * 2)[1])
    y.grad_fn.register_prehook(lambda gs: seen.append("prehook"))
    y.grad_fn.register_hook(lambda gi, go: seen.append("posthook"))
    first = lib.autograd.grad(y * 5, y, retain_graph=True)
    second = lib.autograd.grad(y * 5, [y, x])
    return first, second, seen


@case
def prehook_changes_what_grad_captures(lib):
    x = leaf(lib, 2.0)
    y = x * 3
    y.grad_fn.register_prehook(lambda gs: (gs[0] * 7,))
    return lib.autograd.grad(y * 5, [y, x])


@case
def backward_inputs_runs_all(lib):
    seen = []
    w, v = leaf(lib, 2.0), leaf(lib, 5.0)
    nodes = [end_of(lib, w), end_of(lib, v)]  # torch forgets a node's hooks with the last reference to the node
    for name, t, node in (("w", w, nodes[0]), ("v", v, nodes[1])):
        t.register_hook(log(seen, name + " tensor"))
        node.register_prehook(log(seen, name + " prehook"))
        node.register_hook(log(seen, name + " posthook"))
        t.register_post_accumulate_grad_hook(lambda t, name=name: seen.append(name + " post accumulate"))
    (w * v).backward(inputs=[w])
    return seen, w.grad, v.grad


@case
def backward_inputs_non_leaf(lib):
    x = leaf(lib, 2.0)
    y = x * 3
    z = y * y
    z.backward(inputs=[y, x])
    return y.grad, x.grad


@case
def backward_inputs_single_tensor_and_twice(lib):
    x = leaf(lib, 2.0)
    y = x * 3
    y.backward(inputs=x, retain_graph=True)
    y.backward(inputs=(x,))
    return x.grad


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
