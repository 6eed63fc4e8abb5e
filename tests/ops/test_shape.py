"""Shapes: views, joining, taking apart, rearranging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distgrad._tensor.creation import from_numpy
from distgrad.graph.backward import grad
from distgrad.ops import shape as S

from .checking import check, gradient, leaf, numbers

# name: (shape of x, ours, numpy's, whether the result is a view)
CASES: dict[str, tuple[tuple[int, ...], Callable[..., Any], Callable[..., Any], bool]] = {
    "reshape": ((2, 6), lambda x: S.reshape(x, (3, 4)), lambda x: x.reshape(3, 4), True),
    "reshape-1": ((2, 6), lambda x: S.reshape(x, (4, -1)), lambda x: x.reshape(4, 3), True),
    "reshape-0d": ((1, 1), lambda x: S.reshape(x, ()), lambda x: x.reshape(()), True),
    "reshape-copy": ((2, 3), lambda x: S.reshape(S.t(x), (6,)), lambda x: x.T.reshape(6), False),
    "view": ((2, 6), lambda x: S.view(x, (-1, 2)), lambda x: x.reshape(6, 2), True),
    "view-strided": ((2, 2, 3), lambda x: S.view(S.narrow(x, 2, 0, 2), (4, 2)), lambda x: x[..., :2].reshape(4, 2),
                     True),
    "flatten": ((2, 3, 4), S.flatten, lambda x: x.reshape(-1), True),
    "flatten-dims": ((2, 3, 4), lambda x: S.flatten(x, 0, 1), lambda x: x.reshape(6, 4), True),
    "flatten-0d": ((), S.flatten, lambda x: x.reshape(1), True),
    "unflatten": ((2, 6), lambda x: S.unflatten(x, -1, (2, -1)), lambda x: x.reshape(2, 2, 3), True),
    "squeeze": ((1, 2, 1), S.squeeze, np.squeeze, True),
    "squeeze-dim": ((1, 2, 1), lambda x: S.squeeze(x, -1), lambda x: x.squeeze(-1), True),
    "squeeze-not": ((1, 2, 1), lambda x: S.squeeze(x, 1), lambda x: x, True),
    "squeeze-dims": ((1, 2, 1), lambda x: S.squeeze(x, (0, 1)), lambda x: x.squeeze(0), True),
    "unsqueeze": ((2, 3), lambda x: S.unsqueeze(x, 1), lambda x: x[:, None], True),
    "unsqueeze-last": ((2, 3), lambda x: S.unsqueeze(x, -1), lambda x: x[..., None], True),
    "transpose": ((2, 3, 4), lambda x: S.transpose(x, 0, -1), lambda x: x.swapaxes(0, -1), True),
    "transpose-0d": ((), lambda x: S.transpose(x, 0, -1), lambda x: x, True),
    "swapaxes": ((2, 3, 4), lambda x: S.swapaxes(x, 0, 1), lambda x: x.swapaxes(0, 1), True),
    "permute": ((2, 3, 4), lambda x: S.permute(x, (2, 0, 1)), lambda x: x.transpose(2, 0, 1), True),
    "permute-negative": ((2, 3, 4), lambda x: S.permute(x, (-1, 0, -2)), lambda x: x.transpose(2, 0, 1), True),
    "movedim": ((2, 3, 4), lambda x: S.movedim(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), True),
    "movedim-two": ((2, 3, 4, 1), lambda x: S.movedim(x, (0, 3), (2, 0)), lambda x: np.moveaxis(x, (0, 3), (2, 0)),
                    True),
    "t": ((2, 3), S.t, np.transpose, True),
    "t-vector": ((3,), S.t, np.transpose, True),
    "mT": ((2, 3, 4), S.mT, lambda x: x.swapaxes(1, 2), True),
    "expand": ((2, 1), lambda x: S.expand(x, (3, -1, 4)), lambda x: np.broadcast_to(x, (3, 2, 4)), True),
    "expand-0d": ((), lambda x: S.expand(x, (3,)), lambda x: np.broadcast_to(x, (3,)), True),
    "expand-empty": ((1, 2), lambda x: S.expand(x, (0, 2)), lambda x: np.broadcast_to(x, (0, 2)), True),
    "broadcast_to": ((3,), lambda x: S.broadcast_to(x, (2, 3)), lambda x: np.broadcast_to(x, (2, 3)), True),
    "narrow": ((2, 5), lambda x: S.narrow(x, 1, 1, 3), lambda x: x[:, 1:4], True),
    "narrow-negative": ((2, 5), lambda x: S.narrow(x, -1, -2, 2), lambda x: x[:, 3:], True),
    "select": ((2, 5), lambda x: S.select(x, 1, -1), lambda x: x[:, -1], True),
    "select-to-0d": ((5,), lambda x: S.select(x, 0, 2), lambda x: x[2], True),
    "diagonal": ((3, 4), S.diagonal, np.diagonal, True),
    "diagonal-offset": ((2, 3, 4), lambda x: S.diagonal(x, -1, 2, 1), lambda x: np.diagonal(x, -1, 2, 1), True),
    "diagonal-none": ((2, 3), lambda x: S.diagonal(x, 5), lambda x: np.diagonal(x, 5), True),
    "split": ((5, 2), lambda x: S.split(x, 2)[2], lambda x: x[4:], True),
    "split-sizes": ((2, 5), lambda x: S.split(x, (1, 4), -1)[1], lambda x: x[:, 1:], True),
    "split-one": ((2, 5), lambda x: S.split(x, 5, 1)[0], lambda x: x, True),
    "chunk": ((5, 2), lambda x: S.chunk(x, 2)[0], lambda x: x[:3], True),
    "unbind": ((2, 3), lambda x: S.unbind(x, 1)[2], lambda x: x[:, 2], True),
    "unbind-to-0d": ((3,), lambda x: S.unbind(x)[1], lambda x: x[1], True),
    "clone": ((2, 3), S.clone, np.copy, False),
    "flip": ((2, 3), lambda x: S.flip(x, (0, -1)), lambda x: np.flip(x, (0, 1)), False),
    "fliplr": ((2, 3), S.fliplr, np.fliplr, False),
    "flipud": ((2, 3), S.flipud, np.flipud, False),
    "roll": ((2, 3), lambda x: S.roll(x, 2), lambda x: np.roll(x, 2), False),
    "roll-dims": ((2, 3), lambda x: S.roll(x, (1, -1), (0, 1)), lambda x: np.roll(x, (1, -1), (0, 1)), False),
    "roll-same-dim": ((5,), lambda x: S.roll(x, (1, 1), (0, 0)), lambda x: np.roll(x, 2), False),
    "repeat": ((2, 3), lambda x: S.repeat(x, (2, 1, 2)), lambda x: np.tile(x, (2, 1, 2)), False),
    "repeat-none": ((2, 3), lambda x: S.repeat(x, (0, 1)), lambda x: np.zeros((0, 3)), False),
    "tile": ((2, 3), lambda x: S.tile(x, (2,)), lambda x: np.tile(x, (2,)), False),
    "repeat_interleave": ((2, 3), lambda x: S.repeat_interleave(x, 2, 1), lambda x: np.repeat(x, 2, 1), False),
    "repeat_interleave-flat": ((2, 3), lambda x: S.repeat_interleave(x, 2), lambda x: np.repeat(x, 2), False),
    "repeat_interleave-counts": ((2, 3), lambda x: S.repeat_interleave(x, np.array([2, 0, 3]), -1),
                                 lambda x: np.repeat(x, [2, 0, 3], -1), False),
    "diag": ((3,), lambda x: S.diag(x, 1), lambda x: np.diag(x, 1), False),
    "diag-of-matrix": ((3, 4), lambda x: S.diag(x, 2), lambda x: np.diag(x, 2), False),
    "diag-below": ((4, 3), lambda x: S.diag(x, -2), lambda x: np.diag(x, -2), False),
    "diag_embed": ((2, 3), S.diag_embed, lambda x: np.stack([np.diag(row) for row in x]), False),
    "diag_embed-dims": ((2, 3), lambda x: S.diag_embed(x, -1, 0, 2),
                        lambda x: np.stack([np.diag(row, -1) for row in x]).transpose(1, 0, 2), False),
    "tril": ((2, 3, 4), lambda x: S.tril(x, 1), lambda x: np.tril(x, 1), False),
    "triu": ((3, 4), lambda x: S.triu(x, -1), lambda x: np.triu(x, -1), False),
    "rot90": ((2, 3), S.rot90, np.rot90, False),
    "rot90-back": ((2, 3, 2), lambda x: S.rot90(x, -1, (1, 2)), lambda x: np.rot90(x, -1, (1, 2)), False),
    "rot90-twice": ((2, 3), lambda x: S.rot90(x, 2), lambda x: np.rot90(x, 2), False),
    "unfold": ((7,), lambda x: S.unfold(x, 0, 3, 2), lambda x: np.stack([x[0:3], x[2:5], x[4:7]]), False),
    "unfold-dim": ((4, 2), lambda x: S.unfold(x, 0, 2, 1), lambda x: np.stack([x[i:i + 2].T for i in range(3)]), False),
    "pad": ((2, 3), lambda x: S.pad(x, (1, 2)), lambda x: np.pad(x, ((0, 0), (1, 2))), False),
    "pad-value": ((2, 3), lambda x: S.pad(x, (0, 1, 2, 0), value=7.0),
                  lambda x: np.pad(x, ((2, 0), (0, 1)), constant_values=7.0), False),
    "pad-cut": ((2, 5), lambda x: S.pad(x, (-1, 2)), lambda x: np.pad(x[:, 1:], ((0, 0), (0, 2))), False),
    "pad-reflect": ((2, 4), lambda x: S.pad(x, (3, 2), "reflect"), lambda x: np.pad(x, ((0, 0), (3, 2)), "reflect"),
                    False),
    "pad-replicate": ((2, 3), lambda x: S.pad(x, (3, 5, 1, 0), "replicate"),
                      lambda x: np.pad(x, ((1, 0), (3, 5)), "edge"), False),
    "pad-circular": ((2, 3), lambda x: S.pad(x, (3, 1), "circular"), lambda x: np.pad(x, ((0, 0), (3, 1)), "wrap"),
                     False),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    shape, ours, theirs, view = CASES[name]
    x = numbers(*shape)
    expected = theirs(x)
    y = ours(from_numpy(x))
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.numpy(), expected)
    np.testing.assert_array_equal(ours(x), expected)
    if y.array.size:
        assert np.shares_memory(y.array, x) == view
        if view:
            assert y._view is not None, "a view must share its base's version"


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    shape, ours, _, _ = CASES[name]
    check(ours, numbers(*shape))


JOINING = {
    "cat": ([(2, 3), (1, 3)], lambda *xs: S.cat(xs), lambda *xs: np.concatenate(xs)),
    "cat-dim": ([(2, 3), (2, 1), (2, 2)], lambda *xs: S.cat(list(xs), -1), lambda *xs: np.concatenate(xs, -1)),
    "cat-empty": ([(2, 3), (0,), (0, 3)], lambda *xs: S.cat(xs), lambda *xs: xs[0]),
    "stack": ([(2, 3), (2, 3)], lambda *xs: S.stack(xs, 1), lambda *xs: np.stack(xs, 1)),
    "stack-last": ([(), ()], lambda *xs: S.stack(xs, -1), lambda *xs: np.stack(xs)),
    "hstack": ([(2, 3), (2, 1)], lambda *xs: S.hstack(xs), lambda *xs: np.hstack(xs)),
    "hstack-1d": ([(2,), ()], lambda *xs: S.hstack(xs), lambda *xs: np.hstack(xs)),
    "vstack": ([(3,), (2, 3)], lambda *xs: S.vstack(xs), lambda *xs: np.vstack(xs)),
    "dstack": ([(3,), (3,)], lambda *xs: S.dstack(xs), lambda *xs: np.dstack(xs)),
    "broadcast_tensors": ([(3, 1), (2,)], lambda *xs: S.broadcast_tensors(*xs)[0],
                          lambda *xs: np.broadcast_arrays(*xs)[0]),
}


@pytest.mark.parametrize("name", JOINING)
def test_joining(name: str) -> None:
    shapes, ours, theirs = JOINING[name]
    xs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    np.testing.assert_array_equal(ours(*[from_numpy(x) for x in xs]).numpy(), theirs(*xs))
    check(ours, *xs)


def test_joining_promotes() -> None:
    a, b = from_numpy(np.ones(2, np.float32)), from_numpy(np.ones(2, np.int64))
    assert S.cat((a, b)).dtype == np.float32
    assert S.stack((b, from_numpy(np.ones(2)))).dtype == np.float64


@pytest.mark.parametrize("function", [lambda x: S.split(x, (1, 2, 2), 1), lambda x: S.unbind(x, 0)])
def test_outputs_without_gradient_count_as_zeros(function: Callable[..., Any]) -> None:
    x = leaf(numbers(2, 5))
    parts = function(x)
    assert isinstance(parts, tuple)
    (g,) = grad([parts[1]], [x], [from_numpy(np.ones(parts[1].shape))])
    assert g.numpy().sum() == parts[1].numel() and g.shape == (2, 5)
    check(lambda t: function(t)[0] * function(t)[0], numbers(2, 5))


def test_sizes_of_parts() -> None:
    x = leaf(numbers(7, 2))
    assert [len(part) for part in S.split(x, 3)] == [3, 3, 1]
    assert [len(part) for part in S.chunk(x, 3)] == [3, 3, 1]
    assert [len(part) for part in S.chunk(x, 9)] == [1] * 7
    assert [part.shape for part in S.chunk(leaf(numbers(0, 2)), 2)] == [(0, 2)] * 2
    assert S.unbind(leaf(numbers(0, 2))) == ()
    assert [part.shape for part in S.split(leaf(numbers(0, 2)), 3)] == [(0, 2)]


def test_contiguous() -> None:
    x = leaf(numbers(2, 3))
    assert S.contiguous(x) is x
    y = S.contiguous(S.t(x))
    assert y.array.flags.c_contiguous and not np.shares_memory(y.array, x.array)
    check(lambda t: S.contiguous(S.t(t)), numbers(2, 3))


def test_view_refuses_to_copy() -> None:
    x = leaf(numbers(2, 3))
    with pytest.raises(RuntimeError, match="without a copy"):
        S.view(S.t(x), (6,))
    assert S.view(leaf(numbers(2, 0)), (0, 5)).shape == (0, 5)


def test_a_diagonal_can_be_written() -> None:
    x = from_numpy(np.zeros((3, 3)))
    S.diagonal(x).array[...] = 1
    np.testing.assert_array_equal(x.numpy(), np.eye(3))


def test_expand_keeps_no_memory() -> None:
    assert S.expand(leaf([1.0]), (1000, 1000)).array.strides == (0, 0)


def test_gradient_of_an_expanded_leaf_is_its_own_memory() -> None:
    g = gradient(lambda x: S.expand(x, (4, 3)), numbers(3))
    assert g.tolist() == [4, 4, 4] and g.flags.writeable


REFUSED = {
    "reshape": (RuntimeError, lambda x: S.reshape(x, (5,))),
    "reshape two unknown": (RuntimeError, lambda x: S.reshape(x, (-1, -1))),
    "reshape negative": (RuntimeError, lambda x: S.reshape(x, (-2, 3))),
    "reshape type": (TypeError, lambda x: S.reshape(x, ("a",))),
    "flatten": (RuntimeError, lambda x: S.flatten(x, 1, 0)),
    "unflatten": (RuntimeError, lambda x: S.unflatten(x, 1, (2, 2))),
    "squeeze": (IndexError, lambda x: S.squeeze(x, 2)),
    "unsqueeze": (IndexError, lambda x: S.unsqueeze(x, 4)),
    "transpose": (IndexError, lambda x: S.transpose(x, 0, 2)),
    "permute": (RuntimeError, lambda x: S.permute(x, (0,))),
    "permute twice": (RuntimeError, lambda x: S.permute(x, (0, 0))),
    "movedim": (RuntimeError, lambda x: S.movedim(x, (0, 1), (0,))),
    "t": (RuntimeError, lambda x: S.t(S.unsqueeze(x, 0))),
    "mT": (RuntimeError, lambda x: S.mT(x[0])),
    "expand": (RuntimeError, lambda x: S.expand(x, (4, 3))),
    "expand fewer": (RuntimeError, lambda x: S.expand(x, (3,))),
    "expand new -1": (RuntimeError, lambda x: S.expand(x, (-1, 2, 3))),
    "broadcast_tensors": (RuntimeError, lambda x: S.broadcast_tensors(x, S.t(x))),
    "narrow": (RuntimeError, lambda x: S.narrow(x, 1, 1, 3)),
    "narrow start": (IndexError, lambda x: S.narrow(x, 1, 4, 0)),
    "select": (IndexError, lambda x: S.select(x, 1, 3)),
    "cat shapes": (RuntimeError, lambda x: S.cat((x, S.t(x)))),
    "cat nothing": (ValueError, lambda x: S.cat([])),
    "cat 0-d": (RuntimeError, lambda x: S.cat((x[0, 0], x[0, 1]))),
    "cat type": (TypeError, lambda x: S.cat(x)),
    "stack": (RuntimeError, lambda x: S.stack((x, S.t(x)))),
    "split": (RuntimeError, lambda x: S.split(x, (1, 1), 1)),
    "split zero": (RuntimeError, lambda x: S.split(x, 0)),
    "chunk": (RuntimeError, lambda x: S.chunk(x, 0)),
    "unbind": (IndexError, lambda x: S.unbind(x[0, 0])),
    "repeat": (RuntimeError, lambda x: S.repeat(x, (2,))),
    "repeat_interleave": (RuntimeError, lambda x: S.repeat_interleave(x, -1)),
    "roll": (RuntimeError, lambda x: S.roll(x, (1, 1), 0)),
    "pad odd": (RuntimeError, lambda x: S.pad(x, (1,))),
    "pad mode": (NotImplementedError, lambda x: S.pad(x, (1, 1), "mirror")),
    "pad reflect": (RuntimeError, lambda x: S.pad(x, (3, 0), "reflect")),
    "pad circular": (RuntimeError, lambda x: S.pad(x, (4, 0), "circular")),
    "pad value": (RuntimeError, lambda x: S.pad(x, (1, 0), "reflect", 1.0)),
    "diagonal": (RuntimeError, lambda x: S.diagonal(x, 0, 1, 1)),
    "diag": (RuntimeError, lambda x: S.diag(S.unsqueeze(x, 0))),
    "tril": (RuntimeError, lambda x: S.tril(x[0])),
    "unfold": (RuntimeError, lambda x: S.unfold(x, 1, 4, 1)),
    "flip": (RuntimeError, lambda x: S.flip(x, (0, 0))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    kind, function = REFUSED[name]
    with pytest.raises(kind) as caught:
        function(leaf(numbers(2, 3)))
    assert caught.type is kind
