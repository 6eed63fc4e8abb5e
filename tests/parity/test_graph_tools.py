"""Hooks on saved tensors, forward mode, functional, gradcheck, anomaly mode."""

from __future__ import annotations

import pytest

from .both import Table, check, leaf, raised

case = Table()


# -- hooks on saved tensors

@case
def saved_tensors_hooks(lib):
    packed, unpacked = [], []

    def pack(t):
        packed.append((t.tolist(), t.requires_grad, lib.is_grad_enabled()))
        return t.detach() * 1

    def unpack(t):
        unpacked.append((t.tolist(), lib.is_grad_enabled()))
        return t

    x, w = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    with lib.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = (x * w).exp().sum()
    z = y * y
    z.backward()
    return sorted(p[0] for p in packed), len(unpacked), x.grad, w.grad


@case
def innermost_pair_counts(lib):
    seen = []
    hooks = lib.autograd.graph.saved_tensors_hooks
    x = leaf(lib, 2.0)
    with hooks(lambda t: (seen.append("outer"), t.detach())[1], lambda t: t):
        x.exp()
        with hooks(lambda t: (seen.append("inner"), t.detach())[1], lambda t: t):
            x.exp()
        x.exp()
    x.exp()
    return seen


@case
def pack_to_numbers(lib):
    x = leaf(lib, [1.0, 2.0])
    with lib.autograd.graph.saved_tensors_hooks(lambda t: t.tolist(), lambda v: lib.tensor(v, dtype=lib.float64)):
        y = (x ** 3).sum()
    (g,) = lib.autograd.grad(y, x, create_graph=True)
    return g, lib.autograd.grad(g.sum(), x)


def _bad_unpack(lib, unpack):
    x = leaf(lib, [1.0, 2.0])
    with lib.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), unpack):
        y = x.exp().sum()
    return raised(y.backward)


for name, unpack in {"number": lambda v: 3, "none": lambda v: None, "list": lambda v: [v]}.items():
    case.add(f"unpack_hook_returns_{name}", lambda lib, unpack=unpack: _bad_unpack(lib, unpack))


@case
def raising_pack_hook(lib):
    def fail(t):
        raise KeyError("mine")

    def run():
        with lib.autograd.graph.saved_tensors_hooks(fail, lambda t: t):
            leaf(lib, 2.0).exp()
    return raised(run), leaf(lib, 2.0).exp().requires_grad


@case
def pack_hook_that_changes_in_place(lib):
    def run():
        with lib.autograd.graph.saved_tensors_hooks(lambda t: t.mul_(2), lambda t: t):
            (leaf(lib, 2.0) * 1).sin()
    return raised(run)


@case
def disabled_hooks(lib):
    graph = lib.autograd.graph

    def inside():
        with graph.disable_saved_tensors_hooks("not now"):
            with graph.saved_tensors_hooks(lambda t: t, lambda t: t):
                leaf(lib, 2.0).exp()

    def outside():
        with graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            with graph.disable_saved_tensors_hooks("not now"):
                pass
    return raised(inside), raised(outside), leaf(lib, 2.0).exp().requires_grad


@case
def save_on_cpu(lib):
    x = leaf(lib, [1.0, 2.0])
    with lib.autograd.graph.save_on_cpu():
        y = (x.exp() * x).sum()
    (g,) = lib.autograd.grad(y, x, create_graph=True)
    return g, lib.autograd.grad(g.sum(), x)


@case
def function_under_saved_tensors_hooks(lib):
    class Cube(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx, g):
            return g * 3 * ctx.saved_tensors[0] ** 2

    seen = []
    x = leaf(lib, [1.0, 2.0])
    with lib.autograd.graph.saved_tensors_hooks(lambda t: (seen.append(t.tolist()), t.detach())[1], lambda t: t):
        y = Cube.apply(x)
    y.sum().backward()
    return seen, x.grad


# -- several cotangents at once

@case
def is_grads_batched(lib):
    x, w, unused = leaf(lib, [1.0, 2.0]), leaf(lib, 3.0), leaf(lib, 1.0)
    y = x * x * w
    eye = lib.eye(2, dtype=lib.float64)
    g = lib.autograd.grad(y, [x, w], eye, is_grads_batched=True, retain_graph=True)
    h = lib.autograd.grad(y, [x, unused], eye, is_grads_batched=True, retain_graph=True, allow_unused=True)
    second = lib.autograd.grad(lib.autograd.grad(y, x, eye, is_grads_batched=True, create_graph=True)[0].sum(), w)
    return g, h, second, raised(lambda: lib.autograd.grad(y, x, lib.ones(3, dtype=lib.float64), is_grads_batched=True))


# -- forward mode

@case
def forward_mode(lib):
    fw = lib.autograd.forward_ad
    x, t = lib.tensor([1.0, 2.0], dtype=lib.float64), lib.tensor([1.0, 10.0], dtype=lib.float64)
    with fw.dual_level():
        d = fw.make_dual(x, t)
        y = (d * d).exp().sum() + d[0] * 3
        found = fw.unpack_dual(y)
        none = fw.unpack_dual(x * 2).tangent
        inner = fw.unpack_dual(d.detach()).tangent
    return found.primal, found.tangent, none, fw.unpack_dual(d).tangent, type(found).__name__, inner is None


@case
def forward_over_reverse(lib):
    fw = lib.autograd.forward_ad
    x = leaf(lib, [0.5, 2.0])
    with fw.dual_level():
        d = fw.make_dual(x, lib.ones(2, dtype=lib.float64))
        (g,) = lib.autograd.grad((d ** 3).sum(), d, create_graph=True)
        found = fw.unpack_dual(g).tangent
    return found


@case
def forward_mode_is_differentiable(lib):
    fw = lib.autograd.forward_ad
    x = leaf(lib, [0.5, 2.0])
    with fw.dual_level():
        y = fw.unpack_dual((fw.make_dual(x, lib.ones(2, dtype=lib.float64)) ** 3).sum())
        return lib.autograd.grad(y.tangent, x), lib.autograd.grad((fw.make_dual(x, x) ** 2).sum(), x)


@case
def forward_mode_misuse(lib):
    fw = lib.autograd.forward_ad
    x = lib.ones(2, dtype=lib.float64)
    outside = raised(lambda: fw.make_dual(x, x))

    def nested():
        with fw.dual_level():
            with fw.dual_level():
                pass
    with fw.dual_level():
        found = [raised(lambda: fw.make_dual(x, lib.ones(3, dtype=lib.float64))),
                 raised(lambda: fw.make_dual(lib.tensor([1, 2]), lib.tensor([1, 2])))]
    return outside, found, raised(nested), raised(lambda: fw.exit_dual_level())


@case
def tangent_of_another_dtype(lib):
    fw = lib.autograd.forward_ad
    with fw.dual_level():
        return raised(lambda: fw.make_dual(lib.ones(2, dtype=lib.float64), lib.ones(2)))


# -- functional

def cube(x):
    return x ** 3


@case
def functional(lib):
    f = lib.autograd.functional
    x, v = lib.tensor([1.0, 2.0], dtype=lib.float64), lib.tensor([1.0, 10.0], dtype=lib.float64)
    pair = (x, v)

    def both(a, b):
        return a * b, (a + b).sum()

    def scalar(a):
        return (a ** 3).sum()

    def scalar2(a, b):
        return (a ** 2 * b).sum()

    return {
        "jacobian": f.jacobian(cube, x), "jacobian pair": f.jacobian(both, pair), "hessian": f.hessian(scalar, x),
        "hessian pair": f.hessian(scalar2, pair), "vjp": f.vjp(cube, x, v), "vjp pair":
        f.vjp(both, pair, (v, lib.ones((), dtype=lib.float64))), "jvp": f.jvp(cube, x, v), "jvp pair":
        f.jvp(both, pair, (v, x)), "hvp": f.hvp(scalar, x, v), "vhp": f.vhp(scalar, x, v), "hvp pair":
        f.hvp(scalar2, pair, (v, x)), "vhp pair": f.vhp(scalar2, pair, (v, x)), "forward": f.jacobian(
            cube, x, vectorize=True, strategy="forward-mode"), "vectorize": f.jacobian(cube, x, vectorize=True),
        "vjp no v": f.vjp(scalar, x), "jvp no v": raised(lambda: f.jvp(cube, x)), "no tensor": raised(
            lambda: f.vjp(lambda a: 3, x, v)), "wrong v": raised(lambda: f.vjp(cube, x, v[:1])),
        "independent": f.jacobian(lambda a: v * 2, x), "strict": raised(lambda: f.jacobian(lambda a: v * 2, x,
                                                                                           strict=True)),
        "hessian of vector": raised(lambda: f.hessian(cube, x)), "independent hvp": f.hvp(lambda a: v.sum(), x, v),
        "strict hvp": raised(lambda: f.hvp(lambda a: a.sum(), x, v, strict=True)), "linear": f.hessian(
            lambda a: a.sum(), x), "no input": raised(lambda: f.jacobian(cube, 3)),
    }


@case
def functional_with_create_graph(lib):
    f = lib.autograd.functional
    x, v = leaf(lib, [1.0, 2.0]), lib.ones(2, dtype=lib.float64)
    found = []
    for result in (f.jacobian(cube, x, create_graph=True), f.vjp(cube, x, v, create_graph=True)[1],
                   f.jvp(cube, x, v, create_graph=True)[1], f.hessian(lambda a: (a ** 4).sum(), x, create_graph=True),
                   f.hvp(lambda a: (a ** 4).sum(), x, v, create_graph=True)[1],
                   f.vhp(lambda a: (a ** 4).sum(), x, v, create_graph=True)[1]):
        found.append((result.requires_grad, lib.autograd.grad(result.sum(), x)))
    return found, f.jacobian(cube, x).requires_grad, f.vjp(cube, x, v)[0].requires_grad


# -- checks

@case
def gradcheck(lib):
    class Wrong(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx, g):
            return g * 2 * ctx.saved_tensors[0] ** 2

    class WrongTwice(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx, g):
            return g * 3 * ctx.saved_tensors[0].detach() ** 2

    x, c = leaf(lib, [1.0, 2.0]), leaf(lib, [1.0 + 2j, 0.5j], "complex128")
    check1, check2 = lib.autograd.gradcheck, lib.autograd.gradgradcheck
    return {
        "right": check1(lambda a: a ** 3, (x,)), "single": check1(cube, x), "twice": check2(cube, (x,)),
        "wrong": raised(lambda: check1(Wrong.apply, (x,))), "quiet": check1(Wrong.apply, (x,), raise_exception=False),
        "wrong twice": raised(lambda: check2(WrongTwice.apply, (x,))), "once": check1(WrongTwice.apply, (x,)),
        "no grad": raised(lambda: check1(cube, (x.detach(),))), "complex": check1(lambda a: a * a.conj(), (c,)),
        "complex abs": check1(lambda a: a.abs(), (c,)), "complex twice": check2(lambda a: a ** 3, (c,)),
        "several": check1(lambda a: (a * 2, a.exp()), (x,)), "constant output": raised(lambda: check1(
            lambda a: (a * 2, a.detach()), (x,))), "integer output": check1(lambda a: (a * 2, a.argmax()), (x,)),
        "float32": raised(lambda: check1(cube, (leaf(lib, [1.0], "float32"),), atol=1e-12, rtol=1e-12)),
        "overlapping": raised(lambda: check1(cube, (lib.ones(1, dtype=lib.float64).expand(2).requires_grad_(),))),
        "number input": check1(lambda a, n: a * n, (x, 3)), "grad outputs": check2(cube, (x,), (leaf(lib, [1.0,
        3.0]),)),
        "discontinuous": raised(lambda: check1(lambda a: a.detach() * 2 + a * 0, (x,))),
    }


# -- anomaly mode

@case
def anomaly_nan(lib):
    def run():
        with lib.autograd.detect_anomaly():
            x = leaf(lib, [0.0, -1.0])
            (x.sqrt() * 0).sum().backward()

    def without_check():
        with lib.autograd.detect_anomaly(check_nan=False):
            x = leaf(lib, [0.0, -1.0])
            (x.sqrt() * 0).sum().backward()

    def by_function():
        with lib.autograd.set_detect_anomaly(True):
            x = leaf(lib, [0.0, -1.0])
            (x.sqrt() * 0).sum().backward()

    def off():
        with lib.autograd.detect_anomaly():
            with lib.autograd.set_detect_anomaly(False):
                x = leaf(lib, [0.0, -1.0])
                (x.sqrt() * 0).sum().backward()
    return [raised(f) for f in (run, without_check, by_function, off)]


@case
def anomaly_of_a_clean_graph(lib):
    with lib.autograd.detect_anomaly():
        x = leaf(lib, [1.0, 2.0])
        (x * x).sum().backward()
        return x.grad


@case
def anomaly_inf(lib):
    with lib.autograd.detect_anomaly():
        x = leaf(lib, [0.0])
        return raised(lambda: x.sqrt().sum().backward())


@case
def anomaly_keeps_the_users_exception(lib):
    class Fails(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            raise KeyError("mine")

    with lib.autograd.detect_anomaly():
        return raised(lambda: Fails.apply(leaf(lib, [1.0])).sum().backward())


# -- Variable

@case
def variable(lib):
    v = lib.autograd.Variable(lib.ones(2), requires_grad=True)
    (v * 3).sum().backward()
    return v.grad, isinstance(lib.ones(1), lib.autograd.Variable), isinstance(3, lib.autograd.Variable)


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
