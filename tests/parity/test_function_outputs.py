"""autograd.Function: what forward may return, and how its node looks from outside."""

from __future__ import annotations

import pytest

from .both import Table, check, exp_backward, exp_forward, leaf, make, raised, warned

case = Table()


@case
def returning_an_input(lib):
    f = make(lib, lambda ctx, x: x, lambda ctx, g: g * 5)
    x = leaf(lib, [1.0, 2.0])
    y = f.apply(x)
    y.sum().backward()
    plain = lib.ones(2)
    z = f.apply(plain)
    return y is x, y.requires_grad, y.is_leaf, y._is_view(), x.grad, x.grad_fn, z is plain, z.requires_grad


@case
def returning_a_view_of_an_input(lib):
    f = make(lib, lambda ctx, x: x.view(2, 1), lambda ctx, g: g.reshape(2) * 5)
    x = leaf(lib, [1.0, 2.0])
    y = f.apply(x * 1)
    found = raised(lambda: y.add_(1))
    f.apply(x).sum().backward()
    return x.grad, found


@case
def returning_the_same_tensor_twice(lib):
    def forward(ctx, x):
        y = x * 2
        return y, y

    seen = []

    def backward(ctx, a, b):
        seen.append((a.tolist(), b.tolist()))
        return a * 2 + b * 2

    x = leaf(lib, [1.0])
    a, b = make(lib, forward, backward).apply(x)
    (a * 3 + b * 5).sum().backward()
    return x.grad, a is b


@case
def outputs_that_are_no_tensors(lib):
    x = leaf(lib, [1.0])
    found = []
    for value in (3, "s", None, [x], {"a": x}, ()):
        f = make(lib, lambda ctx, t, value=value: value, lambda ctx, g: g)
        found.append(raised(lambda f=f: f.apply(x)))
    f = make(lib, lambda ctx, t: (t * 2, None, 4), lambda ctx, g, n, m: g)
    out = f.apply(x)
    return found, out[1:], type(out).__name__


@case
def list_output(lib):
    f = make(lib, lambda ctx, t: [t * 2, t * 3], lambda ctx, *gs: gs[0])
    out = f.apply(leaf(lib, [1.0]))
    return type(out).__name__


@case
def one_output_in_a_tuple(lib):
    f = make(lib, lambda ctx, t: (t * 2,), lambda ctx, g: (g * 2,))
    x = leaf(lib, [1.0])
    out = f.apply(x)
    out[0].sum().backward()
    return type(out).__name__, x.grad


@case
def integer_outputs(lib):
    f = make(lib, lambda ctx, t: (t * 2, t.argmax()), lambda ctx, g, h: g * 2)
    x = leaf(lib, [1.0, 5.0])
    y, i = f.apply(x)
    y.sum().backward()
    return i, i.requires_grad, x.grad


@case
def keywords_and_missing_methods(lib):
    x = leaf(lib, [1.0])

    class NoBackward(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    class NoForward(lib.autograd.Function):
        pass

    f = make(lib, lambda ctx, x, n=3: x * n, lambda ctx, g, *rest: (g * 2, *[None] * len(rest)))
    return (raised(lambda: f.apply(x, n=4)), raised(lambda: NoBackward.apply(x).sum().backward()),
            raised(lambda: NoForward.apply(x)), raised(lambda: lib.autograd.Function()), f.apply(x),
            raised(lambda: f.apply(x).sum().backward()))


@case
def arbitrary_attributes(lib):
    def forward(ctx, x):
        ctx.factor, ctx.values = 3, {"a": 1}
        ctx.shape_of_x = x.shape
        return x * 3

    f = make(lib, forward, lambda ctx, g: g * ctx.factor * ctx.values["a"])
    x = leaf(lib, [1.0])
    f.apply(x).sum().backward()
    return x.grad


@case
def attributes_named_like_the_nodes_own(lib):
    def forward(ctx, x, names):
        for name in names:
            setattr(ctx, name, 3)
        ctx.save_for_backward(x)
        return x * 3

    f = make(lib, forward, lambda ctx, g: (g * getattr(ctx, "shape", 3) * ctx.saved_tensors[0], None))
    x = leaf(lib, [2.0])
    f.apply(x, ("shape", "dtype", "op", "edges", "values", "outputs", "hooks", "seq", "own", "expected", "packed",
                "guard", "made_at")).sum().backward()
    return x.grad


@case
def grad_mode_inside_forward(lib):
    def forward(ctx, x):
        with lib.enable_grad():
            inner = x.detach().requires_grad_()
            ctx.inner, ctx.out = inner, (inner ** 3).sum()
        return ctx.out.detach()

    def backward(ctx, g):
        return lib.autograd.grad(ctx.out, ctx.inner, g)

    x = leaf(lib, [1.0, 2.0])
    make(lib, forward, backward).apply(x).backward()
    return x.grad


@case
def under_no_grad_and_inference(lib):
    f = make(lib, exp_forward, exp_backward)
    x = leaf(lib, [1.0])
    with lib.no_grad():
        quiet = f.apply(x)
    with lib.inference_mode():
        still = f.apply(x)
    return quiet.requires_grad, quiet.grad_fn, still.is_inference(), still.requires_grad


@case
def hooks_on_a_user_node(lib):
    seen = []
    f = make(lib, lambda ctx, x, n: x * n, lambda ctx, g: (g * 2, None))
    x = leaf(lib, [1.0])
    y = f.apply(x, 2)
    y.grad_fn.register_hook(lambda gi, go: seen.append((len(gi), gi[0].tolist(), go[0].tolist())))
    y.grad_fn.register_prehook(lambda go: seen.append(go[0].tolist()))
    y.sum().backward()
    return seen


@case
def next_functions_of_a_user_node(lib):
    f = make(lib, lambda ctx, x, n, y: x * n, lambda ctx, g: (g * 2, None, None))
    x = leaf(lib, [1.0])
    y = f.apply(x, 2, lib.ones(1))
    return [(None if n is None else n.name().split(":")[-1], i) for n, i in y.grad_fn.next_functions]


@case
def views_given_to_a_function(lib):
    f = make(lib, lambda ctx, x: x * 2, lambda ctx, g: g * 2)
    x = leaf(lib, [1.0, 2.0, 3.0])
    f.apply(x[1:]).sum().backward()
    return x.grad


@case
def in_place_on_the_result(lib):
    f = make(lib, exp_forward, exp_backward)
    x = leaf(lib, [1.0])
    y = make(lib, lambda ctx, x: x * 2, lambda ctx, g: g * 2).apply(x)
    y.mul_(3)
    y.sum().backward()
    a, b = make(lib, lambda ctx, x: (x * 2, x * 3), lambda ctx, g, h: g * 2 + h * 3).apply(x)
    found = raised(lambda: a.mul_(2))
    return x.grad, found, f.apply(x).is_leaf


@case
def old_style_instances_are_refused(lib):
    class Old(lib.autograd.Function):
        def forward(self, x):
            return x

        def backward(self, g):
            return g

    return raised(lambda: Old()(leaf(lib, [1.0])))


@case
def no_warnings_in_ordinary_use(lib):
    x = leaf(lib, [1.0])
    return warned(lambda: make(lib, exp_forward, exp_backward).apply(x).sum().backward())


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
