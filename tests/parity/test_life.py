"""What a graph keeps and frees, how gradients accumulate, and what `backward` and `grad` refuse."""

from __future__ import annotations

import pytest

from .both import Table, check, leaf, raised

case = Table()


@case
def second_backward_where_nothing_was_saved(lib):
    x = leaf(lib, [1.0, 2.0])
    y = (x + 1).sum()
    y.backward()
    y.backward()
    return x.grad


def _twice(build):
    def run(lib):
        x = leaf(lib, [[0.5, 0.25], [0.3, 0.6]])
        y = build(lib, x)
        y = y if y.dim() == 0 else y.sum()
        y.backward()
        return raised(y.backward)
    return run


for name, build in {
    "mul": lambda lib, x: x * x, "mul_number": lambda lib, x: x * 2, "div_number": lambda lib, x: x / 2,
    "rdiv": lambda lib, x: 1 / x, "pow": lambda lib, x: x ** 2, "exp": lambda lib, x: x.exp(),
    "neg": lambda lib, x: -x, "sub": lambda lib, x: x - 3, "sum": lambda lib, x: x.sum(0),
    "mean": lambda lib, x: x.mean(), "t": lambda lib, x: x.t(), "reshape": lambda lib, x: x.reshape(4),
    "getitem": lambda lib, x: x[0], "expand": lambda lib, x: x.sum().expand(3), "matmul": lambda lib, x: x @ x,
    "matmul_constant": lambda lib, x: x @ lib.ones(2, 2, dtype=lib.float64), "clone": lambda lib, x: x.clone(),
    "cat": lambda lib, x: lib.cat([x, x]), "stack": lambda lib, x: lib.stack([x, x]), "relu": lambda lib, x: x.relu(),
    "max": lambda lib, x: x.max(), "prod": lambda lib, x: x.prod(), "var": lambda lib, x: x.var(),
    "to": lambda lib, x: x.to(lib.float32), "sigmoid": lambda lib, x: x.sigmoid(), "where": lambda lib, x:
    lib.where(x > 0.3, x, x * 2), "cumsum": lambda lib, x: x.cumsum(0), "softmax": lambda lib, x: x.softmax(0),
    "abs": lambda lib, x: x.abs(), "clamp": lambda lib, x: x.clamp(min=0.3), "sort": lambda lib, x: x.sort()[0],
    "index": lambda lib, x: x[lib.tensor([0, 1])], "unbind": lambda lib, x: x.unbind()[0], "floor": lambda lib, x:
    x.floor(), "sign": lambda lib, x: x.sign(), "flip": lambda lib, x: x.flip(0), "norm": lambda lib, x: x.norm(),
}.items():
    case.add(f"second_backward_through_{name}", _twice(build))


@case
def retain_graph_and_its_default(lib):
    x = leaf(lib, 3.0)
    y = x * x
    y.backward(retain_graph=True)
    (g,) = lib.autograd.grad(y, x, create_graph=True)
    (g2,) = lib.autograd.grad(y, x, create_graph=True, retain_graph=False)
    return x.grad, g, g2, raised(lambda: lib.autograd.grad(y, x))


@case
def freed_part_of_a_shared_graph(lib):
    x = leaf(lib, 3.0)
    shared = x.exp()
    (shared * 2).backward()
    return raised(lambda: (shared * 3).backward()), x.grad


@case
def same_object_accumulates(lib):
    x = leaf(lib, [1.0, 2.0])
    (x * 2).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    return x.grad is first, first, first._version


@case
def create_graph_accumulates_out_of_place(lib):
    x = leaf(lib, [1.0, 2.0])
    (x ** 3).sum().backward(create_graph=True)
    first = x.grad
    (x ** 3).sum().backward(create_graph=True)
    second = x.grad
    (x ** 3).sum().backward()
    return x.grad is first, first.requires_grad, first, second, x.grad, x.grad.requires_grad


@case
def gradient_is_not_the_cotangent_given(lib):
    x = leaf(lib, [1.0, 2.0])
    g = lib.tensor([5.0, 6.0], dtype=lib.float64)
    x.backward(g)
    first = x.grad is g
    x.grad += 1
    (x * 1).backward(g)
    return first, g, x.grad


@case
def two_leaves_do_not_share_a_gradient(lib):
    x, y = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    (x + y).backward(lib.tensor([1.0, 2.0], dtype=lib.float64))
    x.grad.add_(100)
    (x.detach().requires_grad_() + y).sum().backward()
    return x.grad, y.grad


@case
def clone_of_the_gradient_does_not_share(lib):
    x, y = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    z = x + y
    z.retain_grad()
    z.sum().backward()
    x.grad.mul_(3)
    return x.grad, y.grad, z.grad


@case
def accumulation_into_a_given_gradient(lib):
    x = leaf(lib, [1.0, 2.0])
    mine = lib.tensor([10.0, 20.0], dtype=lib.float64)
    x.grad = mine
    (x * 3).sum().backward()
    return x.grad is mine, mine


@case
def memory_order_of_gradients(lib):
    found = []
    for make in (lambda: lib.ones(3, 2), lambda: lib.ones(2, 3).t(), lambda: lib.ones(2, 4, 3).permute(2, 0, 1)):
        for use in (lambda x: (x * 2).sum(), lambda x: x.sum(), lambda x: (x.exp() * x).sum(), lambda x: x.mean(),
                    lambda x: x.reshape(-1).cumsum(0).sum()):
            x = make().detach().requires_grad_()
            use(x).backward()
            found.append((tuple(x.stride()), tuple(x.grad.stride())))
    return found


@case
def memory_order_stays_through_steps(lib):
    x = lib.ones(2, 3).t().detach().requires_grad_()
    (x * 2).sum().backward()
    first = tuple(x.grad.stride())
    x.grad.zero_()
    (x * x).sum().backward()
    return first, tuple(x.grad.stride())


@case
def gradient_dtype_is_the_leafs(lib):
    x = leaf(lib, [1.0, 2.0], "float32")
    h = leaf(lib, [1.0, 2.0], "float16")
    (x.to(lib.float64) * 2 * h).sum().backward()
    return x.grad, h.grad


@case
def unused_inputs(lib):
    x, y = leaf(lib, 2.0), leaf(lib, [1.0, 2.0])
    grad = lib.autograd.grad
    (x * 2).backward()
    return (y.grad, raised(lambda: grad(x * 2, y)), grad(x * 2, [x, y], allow_unused=True),
            grad(x * 2, [y], materialize_grads=True), raised(lambda: grad(x * 2, [x, y], allow_unused=False)),
            raised(lambda: grad(x * 2, y, allow_unused=False, materialize_grads=True)),
            raised(lambda: grad(x * 2, lib.ones(2))), raised(lambda: grad(x * 2, [])),
            raised(lambda: grad(x * 2, [lib.ones(2)], allow_unused=True)))


@case
def unreached_because_of_none(lib):
    class Half(lib.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, g):
            return g, None

    x, y = leaf(lib, 2.0), leaf(lib, 3.0)
    z = y * 2
    Half.apply(x, z).backward(retain_graph=True)
    found = lib.autograd.grad(Half.apply(x, z), [x, y], allow_unused=True, retain_graph=True)
    (Half.apply(x, z) + z).backward()
    return found, x.grad, y.grad


@case
def hooks_where_no_gradient_comes(lib):
    class Nothing(lib.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 2

        @staticmethod
        def backward(ctx, g):
            return None

    x, seen = leaf(lib, 2.0), []
    x.register_hook(lambda g: seen.append(g))
    Nothing.apply(x).backward()
    return seen


@case
def grad_of_the_output_itself(lib):
    x = leaf(lib, 2.0)
    y = x * 3
    return lib.autograd.grad(y, y), lib.autograd.grad(x, x), lib.autograd.grad(y, [y, x])


@case
def same_input_twice(lib):
    x = leaf(lib, 2.0)
    return lib.autograd.grad(x * x, [x, x])


@case
def several_outputs(lib):
    x, y = leaf(lib, [1.0, 2.0]), leaf(lib, 3.0)
    g = lib.tensor([10.0, 20.0], dtype=lib.float64)
    lib.autograd.backward([x * y, x.sum(), y], [g, None, None])
    return x.grad, y.grad, lib.autograd.grad([x * y, (x * x).sum()], [x, y], [g, None])


@case
def same_output_twice(lib):
    x = leaf(lib, 3.0)
    y = x * 2
    lib.autograd.backward([y, y])
    return x.grad


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
