"""Grad mode and inference mode: nesting, decorators, generators, and what inference tensors may do."""

from __future__ import annotations

import itertools
import threading

import pytest

from .both import Table, check, leaf, raised

case = Table()

MODES = {
    "no_grad": lambda lib: lib.no_grad(), "enable_grad": lambda lib: lib.enable_grad(),
    "set_true": lambda lib: lib.set_grad_enabled(True), "set_false": lambda lib: lib.set_grad_enabled(False),
    "inference": lambda lib: lib.inference_mode(), "inference_false": lambda lib: lib.inference_mode(False),
}


def now(lib):
    x = leaf(lib, 1.0) if not lib.is_inference_mode_enabled() else lib.ones(1)
    y = x * 2
    return lib.is_grad_enabled(), lib.is_inference_mode_enabled(), y.requires_grad, y.is_inference(), x.is_inference()


for depth in (1, 2, 3):
    for names in itertools.product(MODES, repeat=depth):
        def _nested(lib, names=names):
            outer = leaf(lib, 1.0)
            found = [now(lib)]

            def go(rest):
                if not rest:
                    return
                with MODES[rest[0]](lib):
                    found.append((now(lib), (outer * 2).requires_grad, (outer * 2).is_inference()))
                    go(rest[1:])
                    found.append(now(lib))

            go(names)
            return [*found, now(lib)]
        case.add("nested_" + "_in_".join(reversed(names)), _nested)

for name, mode in MODES.items():
    def _decorated(lib, mode=mode):
        @mode(lib)
        def inside(depth):
            return [now(lib), *(inside(depth - 1) if depth else ())]

        @mode(lib)
        def generator():
            sent = []
            try:
                sent.append((now(lib), (yield now(lib))))
                try:
                    yield now(lib)
                except KeyError:
                    sent.append(("caught", now(lib)))
                yield sent
            finally:
                sent.append(("closed", now(lib)))

        class Some:
            @mode(lib)
            def method(self):
                return now(lib)

        before = now(lib)
        steps = generator()
        found = [next(steps), now(lib), steps.send(3), now(lib), steps.throw(KeyError("x")), now(lib)]
        steps.close()

        def fail():
            with mode(lib):
                raise ValueError

        kind = raised(fail)
        return before, inside(2), found, Some().method(), kind, now(lib)
    case.add(f"decorator_{name}", _decorated)


@case
def decorators_without_parentheses(lib):
    found = []
    for mode in (lib.no_grad, lib.enable_grad, lib.inference_mode):
        @mode
        def inside():
            return now(lib)
        found.append((inside(), inside.__name__, now(lib)))
    return found


@case
def decorated_generator_returns(lib):
    @lib.no_grad()
    def numbers():
        yield 1
        return "end"

    def outer():
        return (yield from numbers())

    steps, found = outer(), []
    try:
        while True:
            found.append(next(steps))
    except StopIteration as stop:
        found.append(stop.value)
    return found


@case
def set_grad_enabled_as_function(lib):
    found = []
    lib.set_grad_enabled(False)
    found.append(now(lib))
    lib.set_grad_enabled(True)
    found.append(now(lib))
    switch = lib.set_grad_enabled(False)
    found.append(now(lib))
    with switch:
        found.append(now(lib))
    found.append(now(lib))
    lib.set_grad_enabled(True)
    with lib.no_grad():
        lib.set_grad_enabled(True)
        found.append(now(lib))
    return [*found, now(lib)]


@case
def set_grad_enabled_as_decorator_keeps_the_outside(lib):
    @lib.set_grad_enabled(False)
    def inside():
        return now(lib)
    return now(lib), inside(), now(lib), inside(), now(lib)


@case
def one_mode_object_twice(lib):
    mode = lib.no_grad()
    with mode:
        with mode:
            inner = now(lib)
        between = now(lib)
    return inner, between, now(lib)


@case
def modes_are_per_thread(lib):
    seen = []
    with lib.no_grad():
        thread = threading.Thread(target=lambda: seen.append(now(lib)))
        thread.start()
        thread.join()
    return seen


@case
def results_under_no_grad(lib):
    x = leaf(lib, [1.0, 2.0])
    with lib.no_grad():
        y = x * 2
        made = lib.ones(2, requires_grad=True)
        view = x[:1]
        same = x.detach()
    return (y.requires_grad, y.grad_fn, y.is_leaf, made.requires_grad, view.grad_fn, view._is_view(),
            same.requires_grad)


@case
def views_made_under_no_grad_require_grad(lib):
    x = leaf(lib, [1.0, 2.0])
    with lib.no_grad():
        view = x[:1]
    return view.requires_grad


@case
def leaf_changed_under_no_grad(lib):
    x = leaf(lib, [1.0, 2.0])
    with lib.no_grad():
        x.add_(1)
        x[0] = 7
        x -= 0.5
    return x, x.requires_grad, x.is_leaf, x._version


def inference(lib, values=(1.0, 2.0)):
    with lib.inference_mode():
        return lib.tensor(list(values), dtype=lib.float64)


@case
def inference_tensors_and_their_rules(lib):
    t, changed = inference(lib), inference(lib)
    x = leaf(lib, [3.0, 4.0])

    def require():
        t.requires_grad = True

    def inside():
        u = inference(lib)
        with lib.inference_mode():
            u.add_(1)
            u.mul_(2)
        return u

    return {
        "is_inference": t.is_inference(), "requires": t.requires_grad, "version": raised(lambda: t._version),
        "in place outside": raised(lambda: changed.add_(1)), "require grad": raised(require),
        "require grad_": raised(lambda: t.requires_grad_()), "not require": raised(lambda: t.requires_grad_(False)),
        "saved": raised(lambda: x * t), "not saved": (x + t).requires_grad, "in place inside": inside(),
        "clone": (t.clone().is_inference(), t.clone().requires_grad_().requires_grad),
        "detach": t.detach().is_inference(), "plain op outside": (t * 2).is_inference(),
        "data": t.data.is_inference(), "view outside": t[:1].is_inference(), "view in place": raised(lambda:
        changed[:1].add_(1)), "saved but not needed": raised(lambda: x.detach() * t), "setitem": raised(lambda:
        changed.__setitem__(0, 1.0)), "matmul": raised(lambda: x @ t), "sum backward": _used(lib, t),
        "copy into normal": raised(lambda: lib.ones(2, dtype=lib.float64).copy_(t)),
        "add into recorded": _added(lib, t), "mul into recorded": raised(lambda: (x * 1).mul_(t)),
        "cat": raised(lambda: lib.cat([x, t])), "where": raised(lambda: lib.where(t > 1, x, t)),
        "deepcopy": raised(lambda: __import__("copy").deepcopy(t)), "view is_view": t[:1]._is_view(),
    }


def _used(lib, t):
    x = leaf(lib, [3.0, 4.0])
    (x + t).sum().backward()
    return x.grad


def _added(lib, t):
    x = leaf(lib, [3.0, 4.0])
    y = x * 2
    y.add_(t)
    y.sum().backward()
    return y, x.grad


@case
def normal_tensors_inside_inference_mode(lib):
    x = leaf(lib, [1.0, 2.0])
    n = lib.ones(2)
    c = x * 2
    with lib.inference_mode():
        y = x * 2
        view = x[:1]
        view_of_view = view.view(1, 1)
        kept = n.add_(1)
        c.add_(1)
        d = x.detach()
        clone = x.clone()
        inner = lib.ones(2, requires_grad=True)
        inner_result = inner * 2
        unpacked = x.unbind()
        with lib.enable_grad():
            again = (x * 2).requires_grad
        with lib.inference_mode(False):
            normal = lib.ones(2)
            recorded = x * 3
            of_inference = raised(lambda: x * y)
    return (y.is_inference(), view.is_inference(), view_of_view.is_inference(), kept.is_inference(),
            n._version, c.requires_grad, d.is_inference(), clone.is_inference(), inner.requires_grad,
            inner.is_inference(), inner_result.requires_grad, again, normal.is_inference(), recorded.requires_grad,
            of_inference, c._version, [t.is_inference() for t in unpacked], inner.is_leaf)


@case
def normal_tensor_changed_inside_inference_mode(lib):
    x = leaf(lib, [1.0, 2.0])
    y = x * 2
    z = y * y
    with lib.inference_mode():
        y.add_(1)
    return raised(z.sum().backward)


@case
def leaf_changed_inside_inference_mode(lib):
    x = leaf(lib, [1.0, 2.0])
    with lib.inference_mode():
        x.add_(1)
    return x, x.requires_grad, x._version


@case
def view_made_in_inference_mode_then_written(lib):
    x = leaf(lib, [1.0, 2.0]) * 1
    with lib.inference_mode():
        view = x[:1]
    return view.grad_fn, raised(lambda: view.add_(1)), raised(lambda: view * 2)


@case
def backward_inside_inference_mode(lib):
    x = leaf(lib, [1.0, 2.0])
    y = (x * x).sum()
    with lib.inference_mode():
        return raised(y.backward)


@case
def inference_gradient(lib):
    x = leaf(lib, [1.0, 2.0])
    with lib.inference_mode():
        g = lib.ones(2, dtype=lib.float64)
    (x * 2).backward(g)
    return x.grad, x.grad.is_inference()


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
