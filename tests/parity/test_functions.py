"""autograd.Function: both styles, every method of ctx, several outputs, second derivatives, misuse."""

from __future__ import annotations

import pytest

from .both import Table, check, exp_backward, exp_forward, leaf, make, raised

case = Table()


@case
def first_style(lib):
    x = leaf(lib, [1.0, 2.0])
    y = make(lib, exp_forward, exp_backward).apply(x)
    (g,) = lib.autograd.grad(y.sum(), x, create_graph=True)
    return y, g, lib.autograd.grad(g.sum(), x), y.requires_grad, y.is_leaf, y.grad_fn.name()


@case
def second_style(lib):
    seen = []

    def setup(ctx, inputs, output):
        seen.append((len(inputs), inputs[1], output.requires_grad))
        ctx.save_for_backward(inputs[0])
        ctx.n = inputs[1]

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * ctx.n * x ** (ctx.n - 1), None

    power = make(lib, lambda x, n: x ** n, backward, setup)
    x = leaf(lib, [2.0, 3.0])
    (g,) = lib.autograd.grad(power.apply(x, 3).sum(), x, create_graph=True)
    return g, lib.autograd.grad(g.sum(), x), seen


@case
def what_forward_and_backward_see(lib):
    seen = {}

    def forward(ctx, a, b, n, s, none):
        seen["forward"] = (lib.is_grad_enabled(), a.requires_grad, (a * 2).requires_grad, n, s, none,
                           ctx.needs_input_grad)
        return a * b

    def backward(ctx, g):
        seen["backward"] = (lib.is_grad_enabled(), g.requires_grad, ctx.needs_input_grad, type(ctx.needs_input_grad)
                            .__name__)
        return g, None, None, None, None

    f = make(lib, forward, backward)
    x = leaf(lib, [1.0, 2.0])
    f.apply(x, lib.ones(2, dtype=lib.float64), 3, "s", None).sum().backward()
    first = dict(seen)
    lib.autograd.grad(f.apply(x, x, 3, "s", None).sum(), x, create_graph=True)
    return first, seen


@case
def needs_input_grad_follows_the_inputs(lib):
    seen = []

    def backward(ctx, g):
        seen.append(ctx.needs_input_grad)
        return tuple(g if n else None for n in ctx.needs_input_grad)

    f = make(lib, lambda ctx, a, b, c: a + b + c, backward)
    x, y, z = leaf(lib, 1.0), leaf(lib, 2.0), lib.ones((), dtype=lib.float64)
    f.apply(x, z, y).backward()
    f.apply(z, z, y).backward()
    lib.autograd.grad(f.apply(x, x, y), y)
    return seen, f.apply(z, z, z).requires_grad


@case
def mark_dirty_out_of_the_graph_and_in(lib):
    def forward(ctx, x):
        x.add_(1)
        ctx.mark_dirty(x)
        return x

    f = make(lib, forward, lambda ctx, g: g * 10)
    x = leaf(lib, [1.0, 2.0])
    y = x * 2
    before = y._version
    z = f.apply(y)
    z.sum().backward()
    plain = lib.zeros(2)
    same = f.apply(plain)
    return (z is y, y.grad_fn is z.grad_fn, before, y._version, x.grad, y, same is plain, plain, plain._version,
            raised(lambda: f.apply(x)))


@case
def mark_dirty_of_a_view(lib):
    def forward(ctx, x):
        x.mul_(3)
        ctx.mark_dirty(x)
        return x

    f = make(lib, forward, lambda ctx, g: g * 3)
    x = leaf(lib, [1.0, 2.0, 3.0])
    base = x * 1
    f.apply(base[1:])
    (base * base).sum().backward()
    return base, x.grad


@case
def dirty_but_not_returned(lib):
    def forward(ctx, x):
        x.add_(1)
        ctx.mark_dirty(x)
        return x * 2

    return raised(lambda: make(lib, forward, lambda ctx, g: g).apply(leaf(lib, [1.0]) * 1))


@case
def mark_non_differentiable(lib):
    def forward(ctx, x):
        values, index = x.sort()
        ctx.mark_non_differentiable(index)
        copy = values * 2
        ctx.mark_non_differentiable(index, copy)
        ctx.save_for_backward(index)
        return values, index, copy

    seen = []

    def backward(ctx, g, gi, gc):
        seen.append((gi.dtype == lib.int64, gi.tolist(), gc.tolist()))
        (index,) = ctx.saved_tensors
        out = lib.zeros(3, dtype=lib.float64)
        out[index] = g
        return out

    x = leaf(lib, [3.0, 1.0, 2.0])
    values, index, copy = make(lib, forward, backward).apply(x)
    (values * lib.tensor([1.0, 2.0, 3.0], dtype=lib.float64)).sum().backward()
    return x.grad, index.requires_grad, copy.requires_grad, values.requires_grad, seen[0][1:]


def _two_outputs(lib, seen, materialize=None):
    def forward(ctx, x):
        if materialize is not None:
            ctx.set_materialize_grads(materialize)
        return x * 2, x * 3, 7, "s"

    def backward(ctx, a, b, n, s):
        seen.append([None if g is None else g.tolist() for g in (a, b)] + [n, s])
        a = 0 if a is None else a
        b = 0 if b is None else b
        return a * 2 + b * 3

    return make(lib, forward, backward)


for materialize in (None, True, False):
    def _materialized(lib, materialize=materialize):
        seen = []
        x = leaf(lib, [1.0, 2.0])
        a, b, n, s = _two_outputs(lib, seen, materialize).apply(x)
        a.sum().backward(retain_graph=True)
        b.sum().backward(retain_graph=True)
        (a + b).sum().backward()
        return seen, x.grad, n, s, a.output_nr, b.output_nr, a.grad_fn is b.grad_fn
    case.add(f"set_materialize_grads_{materialize}", _materialized)


@case
def several_outputs_and_second_derivative(lib):
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y, x + y

    def backward(ctx, g, h):
        x, y = ctx.saved_tensors
        return g * y + h, g * x + h

    x, y = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    p, s = make(lib, forward, backward).apply(x, y)
    gs = lib.autograd.grad((p * p * s).sum(), [x, y], create_graph=True)
    return gs, lib.autograd.grad((gs[0] * gs[1]).sum(), [x, y])


@case
def once_differentiable(lib):
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y

    f = make(lib, exp_forward, backward, decorate=lib.autograd.function.once_differentiable)
    x = leaf(lib, [1.0, 2.0])
    f.apply(x).sum().backward()
    (g,) = lib.autograd.grad(f.apply(x).sum(), x, create_graph=True)
    return x.grad, g, raised(lambda: lib.autograd.grad(g.sum(), x))


@case
def once_differentiable_where_cotangents_require_grad(lib):
    f = make(lib, exp_forward, exp_backward, decorate=lib.autograd.function.once_differentiable)
    x = leaf(lib, [1.0, 2.0])
    (g,) = lib.autograd.grad((f.apply(x) ** 2).sum(), x, create_graph=True)
    return g, g.requires_grad, raised(lambda: lib.autograd.grad(g.sum(), x))


@case
def saved_tensors_freed_and_changed(lib):
    f = make(lib, exp_forward, exp_backward)
    x = leaf(lib, [1.0, 2.0])
    y = f.apply(x)
    y.sum().backward()
    first = raised(y.sum().backward)
    y = f.apply(x)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    z = f.apply(x)
    z.add_(1)
    return first, x.grad, raised(z.sum().backward)


@case
def saved_input_changed(lib):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    def backward(ctx, g):
        return g * 2 * ctx.saved_tensors[0]

    y = leaf(lib, [1.0, 2.0]) * 1
    z = make(lib, forward, backward).apply(y)
    y.add_(1)
    return raised(z.sum().backward)


@case
def save_for_backward_misuse(lib):
    def backward(ctx, g):
        return g

    x = leaf(lib, [1.0])
    found = []
    for value in (3, "s", [x], None, (x, x)):
        def forward(ctx, t, value=value):
            ctx.save_for_backward(value)
            return t * 2
        found.append(raised(lambda forward=forward: make(lib, forward, backward).apply(x)))
    return found


@case
def save_twice_keeps_the_last(lib):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_backward(x * 3, x)
        return x * 2

    def backward(ctx, g):
        return g * len(ctx.saved_tensors) * ctx.saved_tensors[0]

    x = leaf(lib, [1.0, 2.0])
    make(lib, forward, backward).apply(x).sum().backward()
    return x.grad


@case
def saving_none_and_nothing(lib):
    seen = []

    def forward(ctx, x):
        ctx.save_for_backward(None, x)
        return x * 2

    def backward(ctx, g):
        seen.append([t is None for t in ctx.saved_tensors])
        return g

    def bare(ctx, g):
        seen.append(ctx.saved_tensors)
        return g

    x = leaf(lib, [1.0])
    make(lib, forward, backward).apply(x).sum().backward()
    y = make(lib, lambda ctx, x: x * 2, bare).apply(x)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    return seen


@case
def saved_tensors_keep_their_identity_and_history(lib):
    seen = []

    def forward(ctx, x):
        y = x * 2
        ctx.save_for_backward(x, y)
        return y

    def backward(ctx, g):
        x, y = ctx.saved_tensors
        seen.append((x.requires_grad, x.is_leaf, y.requires_grad, y.grad_fn.name()))
        return g * 2

    x = leaf(lib, [1.0, 2.0])
    f = make(lib, forward, backward)
    f.apply(x).sum().backward()
    f.apply(x * 1).sum().backward()
    return seen


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
