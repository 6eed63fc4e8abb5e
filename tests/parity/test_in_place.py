"""In-place writes, views, versions, and the rules of requires_grad."""

from __future__ import annotations

import copy

import pytest

from .both import Table, check, leaf, raised

case = Table()


def grid(lib, *, live=True):
    """A (3, 4) tensor of distinct values, no leaf when live."""
    x = leaf(lib, [[float(4 * i + j) / 4 + 0.1 for j in range(4)] for i in range(3)])
    return (x, x * 1) if live else (x, x.detach().clone())


CHANGES = {
    "add_": lambda t, w: t.add_(w), "sub_": lambda t, w: t.sub_(w), "mul_": lambda t, w: t.mul_(w),
    "div_": lambda t, w: t.div_(w + 2), "pow_": lambda t, w: t.pow_(2), "zero_": lambda t, w: t.zero_(),
    "fill_": lambda t, w: t.fill_(3.0), "fill_tensor": lambda t, w: t.fill_(w.sum()),
    "copy_": lambda t, w: t.copy_(w), "exp_": lambda t, w: t.exp_(), "sqrt_": lambda t, w: t.sqrt_(),
    "clamp_": lambda t, w: t.clamp_(0.3, 2.0), "relu_": lambda t, w: t.relu_(), "neg_": lambda t, w: t.neg_(),
    "sigmoid_": lambda t, w: t.sigmoid_(), "tanh_": lambda t, w: t.tanh_(), "abs_": lambda t, w: t.abs_(),
    "masked_fill_": lambda t, w: t.masked_fill_(t.detach() > 1, 5.0), "set row": lambda t, w: t.__setitem__(0, w[0]),
    "add alpha": lambda t, w: t.add_(w, alpha=3), "addcmul_": lambda t, w: t.addcmul_(w, w, value=2),
    "lerp_": lambda t, w: t.lerp_(w, 0.25), "self": lambda t, w: t.add_(t), "self mul": lambda t, w: t.mul_(t),
}
VIEWS = {
    "none": lambda t: t, "row": lambda t: t[1], "rows": lambda t: t[0:2], "column": lambda t: t[:, 2],
    "strided": lambda t: t[::2, 1::2], "t": lambda t: t.t(), "view": lambda t: t.view(2, 6),
    "diagonal": lambda t: t.diagonal(), "unsqueezed": lambda t: t.unsqueeze(1), "flat": lambda t: t.view(-1)[3:9],
    "view of view": lambda t: t.t()[1:3].t()[0:2], "select": lambda t: t.select(1, 3), "narrow": lambda t:
    t.narrow(0, 1, 2), "permute": lambda t: t.permute(1, 0), "view_as": lambda t: t.view_as(t),
    "detached": lambda t: t.detach(), "element": lambda t: t[1, 2],
}

for view_name, view in VIEWS.items():
    for change_name, change in CHANGES.items():
        if change_name == "set row" and view_name == "element":
            continue

        def _written(lib, view=view, change=change):
            x, base = grid(lib)
            w = leaf(lib, [[0.7, 1.3, 1.9, 0.2, 0.4, 0.8]] * 4)
            other = base.t()
            target = view(base)
            weight = w
            while weight.dim() > target.dim():
                weight = weight[0]
            while weight.dim() < target.dim():
                weight = weight.unsqueeze(1)
            for dim, n in enumerate(target.shape):
                weight = weight.narrow(dim, 0, n) if weight.shape[dim] >= n else weight.expand(*target.shape)
            change(target, weight)
            found = [base, target, base._version, base.requires_grad, target.requires_grad, base.is_leaf]
            loss = (base * base).sum() + (target * 3).sum() + (other ** 2).sum()
            found.append(lib.autograd.grad(loss, [x, w], create_graph=True, allow_unused=True))
            if found[-1][0].requires_grad:
                found.append(lib.autograd.grad(found[-1][0].sum(), [x, w], allow_unused=True))
            return found
        case.add(f"write_{change_name}_through_{view_name}", _written)


@case
def versions(lib):
    x = lib.ones(4)
    view, detached, data, clone = x[1:], x.detach(), x.data, x.clone()
    found = [x._version]
    for act in (lambda: x.add_(1), lambda: view.mul_(2), lambda: detached.zero_(), lambda: data.fill_(3),
                lambda: clone.add_(1), lambda: x.__setitem__(0, 5.0), lambda: x.copy_(lib.zeros(4)),
                lambda: view[1:].view(-1).add_(1), lambda: x.requires_grad_(), lambda: x.detach().add_(1)):
        act()
        found.append([t._version for t in (x, view, detached, data, clone)])
    return found


@case
def out_of_place_leaves_versions(lib):
    x = lib.ones(3)
    x + 1
    x.sum()
    x.reshape(3)[0]
    return x._version


@case
def augmented_assignment(lib):
    x = leaf(lib, [1.0, 2.0])
    y = x * 1
    same = y
    y += 1
    y *= 2
    y -= x
    y /= 3
    y **= 2
    y.sum().backward()
    return y is same, y._version, x.grad


def _saved(build, change):
    def run(lib):
        x, w = leaf(lib, [0.5, 1.5]), leaf(lib, [2.0, 3.0])
        y = x * 1
        z = build(lib, y, w)
        change(lib, y, w, z)
        return raised(z.sum().backward)
    return run


BUILDS = {
    "mul": lambda lib, y, w: y * w, "add": lambda lib, y, w: y + w, "exp": lambda lib, y, w: y.exp(),
    "square": lambda lib, y, w: y ** 2, "matmul": lambda lib, y, w: y @ w, "relu": lambda lib, y, w: y.relu(),
    "div": lambda lib, y, w: y / w, "constant": lambda lib, y, w: y * 2, "sigmoid": lambda lib, y, w: y.sigmoid(),
    "view": lambda lib, y, w: y.view(2, 1), "sum": lambda lib, y, w: y.sum(), "log": lambda lib, y, w: y.log(),
    "tanh": lambda lib, y, w: y.tanh(), "sqrt": lambda lib, y, w: y.sqrt(), "sin": lambda lib, y, w: y.sin(),
    "where": lambda lib, y, w: lib.where(y > 1, y, w), "max": lambda lib, y, w: y.max(0)[0],
    "prod": lambda lib, y, w: y.prod(), "softmax": lambda lib, y, w: y.softmax(0), "abs": lambda lib, y, w: y.abs(),
    "cumsum": lambda lib, y, w: y.cumsum(0), "sort": lambda lib, y, w: y.sort()[0], "index": lambda lib, y, w: y[[0]],
    "mean": lambda lib, y, w: y.mean(), "clamp": lambda lib, y, w: y.clamp(0, 1), "norm": lambda lib, y, w: y.norm(),
    "cat": lambda lib, y, w: lib.cat([y, w]), "maximum": lambda lib, y, w: lib.maximum(y, w),
}
for build_name, build in BUILDS.items():
    for change_name, change in {
        "input": lambda lib, y, w, z: y.add_(1), "input detached": lambda lib, y, w, z: y.detach().add_(1),
        "input data": lambda lib, y, w, z: y.data.add_(1), "output": lambda lib, y, w, z: z.add_(1),
        "weight": lambda lib, y, w, z: _step(lib, w), "part of input": lambda lib, y, w, z: y[:1].zero_(),
        "output detached": lambda lib, y, w, z: z.detach().zero_(),
    }.items():
        case.add(f"saved_by_{build_name}_then_changed_{change_name}", _saved(build, change))


def _step(lib, w):
    with lib.no_grad():
        w.sub_(0.1)


def _forbidden(make, act):
    def run(lib):
        x = leaf(lib, [[1.0, 2.0], [3.0, 4.0]])
        t = make(lib, x)
        recorded = raised(lambda: act(lib, t))
        with lib.no_grad():
            quiet = raised(lambda: act(lib, make(lib, x)))
        return recorded, quiet
    return run


for make_name, make in {
    "leaf": lambda lib, x: x, "view of leaf": lambda lib, x: x[0], "view of view of leaf": lambda lib, x: x.t()[0],
    "detached leaf": lambda lib, x: x.detach(), "leaf data": lambda lib, x: x.data, "non leaf": lambda lib, x: x * 1,
    "unbind": lambda lib, x: (x * 1).unbind()[0], "split": lambda lib, x: (x * 1).split(1)[0],
    "chunk": lambda lib, x: (x * 1).chunk(2)[0], "iter": lambda lib, x: next(iter(x * 1)),
    "view of unbind": lambda lib, x: (x * 1).unbind()[0][:1],
    "unbind of plain": lambda lib, x: lib.ones(2, 2).unbind()[0],
    "unbind of leaf": lambda lib, x: x.unbind()[0], "split of leaf": lambda lib, x: x.split(1)[1],
    "no_grad view of leaf": lambda lib, x: _quiet(lib, lambda: x[0]),
    "no_grad view": lambda lib, x: _quiet(lib, lambda y=x * 1: y[0]),
    "view of no_grad view": lambda lib, x: _quiet(lib, lambda y=x * 1: y[0])[:1],
    "no_grad view of plain": lambda lib, x: _quiet(lib, lambda: lib.ones(2, 2)[0]),
    "no_grad clone": lambda lib, x: _quiet(lib, lambda: x.clone()), "expanded": lambda lib, x: (x * 1)[0].expand(3, 2),
    "clone of leaf": lambda lib, x: x.clone(), "reshaped leaf": lambda lib, x: x.reshape(4),
    "contiguous leaf": lambda lib, x: x.contiguous(), "to same": lambda lib, x: x.to(lib.float64),
    "view_as leaf": lambda lib, x: x.view_as(x), "real of real": lambda lib, x: (x * 1).real,
    "unbind under no_grad": lambda lib, x: _quiet(lib, lambda y=x * 1: y.unbind()[0]),
}.items():
    for act_name, act in {
        "add_": lambda lib, t: t.add_(1), "zero_": lambda lib, t: t.zero_(), "setitem": lambda lib, t:
        t.__setitem__(0, 1.0), "requires_grad_(False)": lambda lib, t: t.requires_grad_(False),
        "requires_grad_": lambda lib, t: t.requires_grad_(), "detach_": lambda lib, t: t.detach_(),
        "add_ live": lambda lib, t: t.mul_(leaf(lib, 2.0)), "data set": lambda lib, t: setattr(t, "data", t.data * 2),
        "deepcopy": lambda lib, t: copy.deepcopy(t),
    }.items():
        case.add(f"{act_name}_on_{make_name}", _forbidden(make, act))


def _quiet(lib, function):
    with lib.no_grad():
        return function()


@case
def plain_tensor_joins_the_graph(lib):
    x, w = lib.ones(2, dtype=lib.float64), leaf(lib, [3.0, 4.0])
    view = x[:1]
    x.mul_(w)
    found = [x.requires_grad, x.is_leaf, view.requires_grad]
    (x * view).sum().backward()
    return found, w.grad


@case
def plain_base_joins_through_a_view(lib):
    buffer, w = lib.zeros(3, dtype=lib.float64), leaf(lib, 2.0)
    view = buffer[1:2]
    view.add_(w)
    (buffer * 5).sum().backward()
    return buffer.requires_grad, view.requires_grad, w.grad, buffer


@case
def filling_a_buffer_row_by_row(lib):
    x = leaf(lib, [1.0, 2.0])
    out = lib.zeros(4, 2, dtype=lib.float64)
    for i in range(4):
        out[i] = x * i + (out[i - 1] if i else 0)
    (out ** 2).sum().backward()
    return out, x.grad, out._version


@case
def setitem_keys(lib):
    found = []
    for key in (0, -1, slice(1, 3), (slice(None), 1), (0, 2), [0, 2], lib.tensor([0, 0, 1]), ..., None,
                (slice(None, None, 2), [1, 3]), lib.tensor([True, False, True])):
        x, base = grid(lib)
        v = leaf(lib, 2.0)
        base[key] = v * 3
        (base * base).sum().backward()
        found.append((base, x.grad, v.grad))
    return found


@case
def write_into_a_view_of_fortran_memory(lib):
    x = lib.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=lib.float64).t().clone().t().requires_grad_()
    base = x * 1
    flat = base.t().reshape(-1)
    flat[1:4].mul_(10)
    (base * base).sum().backward()
    return base, x.grad


@case
def infinite_gradient_of_what_was_overwritten(lib):
    x, w = leaf(lib, [1.0, 2.0, 3.0]), leaf(lib, [0.0])
    base = x * 1
    base[:1] = w
    base.sqrt().sum().backward()
    return x.grad, w.grad


@case
def hooks_and_in_place(lib):
    x = leaf(lib, [1.0, 2.0])
    seen = []
    y = x * 2
    y.register_hook(lambda g: seen.append(("before", g.tolist())))
    y.mul_(3)
    y.register_hook(lambda g: seen.append(("after", g.tolist())))
    y.sum().backward()
    return seen, x.grad


@case
def retain_grad_and_in_place(lib):
    x = leaf(lib, [1.0, 2.0])
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    (y * 5).sum().backward()
    return y.grad, x.grad


@case
def requires_grad_rules(lib):
    def make(dtype):
        return lambda: lib.ones(2, dtype=getattr(lib, dtype)).requires_grad_()

    x = leaf(lib, [1.0])
    y = x * 2

    def assign(t, value):
        def run():
            t.requires_grad = value
        return raised(run)

    return ([raised(make(d)) for d in ("int64", "bool", "uint8", "float16", "float32", "complex64")],
            raised(lambda: lib.tensor([1, 2], requires_grad=True)), assign(y, False), assign(y, True),
            assign(x, False), x.requires_grad, assign(x, True), raised(lambda: copy.deepcopy(y)),
            raised(lambda: copy.deepcopy(y.detach())), raised(lambda: copy.copy(y)), (x > 0).requires_grad,
            x.argmax().requires_grad, x.detach().requires_grad, assign(lib.ones(1), "yes"))


@case
def deepcopy_of_a_leaf(lib):
    x = leaf(lib, [1.0, 2.0])
    (x * 3).sum().backward()
    x.register_hook(lambda g: g * 2)
    other = copy.deepcopy(x)
    (other * 5).sum().backward()
    pair = copy.deepcopy([x, x])
    return other, other.grad, other.requires_grad, x.grad, pair[0] is pair[1]


@case
def detach_in_place(lib):
    x = leaf(lib, [1.0, 2.0])
    y = x * 2
    y.detach_()
    x.detach_()
    return y.requires_grad, y.is_leaf, y.grad_fn, x.requires_grad


@case
def data_assignment(lib):
    x = leaf(lib, [1.0, 2.0])
    (x * 2).sum().backward()
    x.data = lib.tensor([5.0, 6.0, 7.0], dtype=lib.float64)
    return (x, x.requires_grad, x._version, x.is_leaf, raised(lambda: setattr(x, "data", 3)), x.data.requires_grad,
            raised(lambda: setattr(x, "data", lib.ones(2, dtype=lib.int64))))


@case
def results_that_do_not_fit_in_place(lib):
    return (raised(lambda: lib.ones(2).add_(lib.ones(3, 2))), raised(lambda: lib.ones(2, dtype=lib.int64).add_(0.5)),
            raised(lambda: lib.ones(2, dtype=lib.int64).div_(2)), lib.ones(2, dtype=lib.float32).add_(lib.ones(
                2, dtype=lib.float64)), raised(lambda: lib.ones(2).mul_(1j)), lib.ones(2, dtype=lib.int64).add_(
                lib.ones(2, dtype=lib.int32)), raised(lambda: lib.ones(2, dtype=lib.bool).add_(1)),
            lib.zeros(2, dtype=lib.int64).copy_(lib.ones(2) * 2.7), lib.ones(2, dtype=lib.int64).fill_(2.5),
            raised(lambda: lib.ones(1).add_(lib.ones(2))), raised(lambda: lib.ones(2, dtype=lib.int64).mul_(1.5)))


@case
def in_place_on_expanded_memory(lib):
    return raised(lambda: lib.ones(1).expand(3).add_(1))


@case
def is_view_and_base(lib):
    x = lib.ones(2, 3)
    return [t._is_view() for t in (x, x[0], x.t(), x.reshape(6), x.t().reshape(6), x.clone(), x.detach(), x.view(6)[1:],
                                   x.expand(4, 2, 3), x.unbind()[0], x * 1, x.squeeze(), x.flatten(), x.contiguous(),
                                   x.to(lib.float32), x.diagonal(), x.unfold(1, 2, 1), x.swapaxes(0, 1),
                                   x[lib.tensor([0])])]


@case
def properties_of_leaves_and_results(lib):
    x = leaf(lib, [1.0, 2.0])
    y = x * 2
    z = x.detach()
    return [(t.requires_grad, t.is_leaf, t.grad_fn is None, t.output_nr) for t in (x, y, z, x.unbind()[1], lib.ones(1))]


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
