"""Products of matrices: by whichever BLAS, from whichever memory, the same values; and who is chosen when."""

from __future__ import annotations

import ctypes
import inspect

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import blas, get
from distgrad.backend.blas import mkl, mkl_products, tall
from distgrad.backend.reference import find as reference
from distgrad.config import Config
from distgrad.nn import functional as F

INSTALLED = mkl.path() is not None
needs_mkl = pytest.mark.skipif(not INSTALLED, reason="needs MKL (the extra 'mkl')")
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


class Emulated:
    """What `mkl.Library` offers, computed by numpy from the addresses, with as few assumptions as MKL makes."""

    def __init__(self):
        self.calls = 0
        self.gemm = {name: self._taking(name, False) for name in ("float32", "float64")}
        self.batched = {name: self._taking(name, True) for name in ("float32", "float64")}

    def _taking(self, name, batched):
        element = ctypes.c_float if name == "float32" else ctypes.c_double

        def matrix(address, trans, rows, columns, ld):
            """A matrix by columns whose shape is (rows, columns) after `trans`."""
            if trans == b"T":
                rows, columns = columns, rows
            assert ld >= max(1, rows)
            whole = np.frombuffer((element * ((columns - 1) * ld + rows)).from_address(address), name)
            step = whole.itemsize
            seen = np.lib.stride_tricks.as_strided(whole, (rows, columns), (step, ld * step))
            return seen.T if trans == b"T" else seen

        def gemm(*addresses):
            self.calls += 1
            addresses = [x if isinstance(x, int) else ctypes.addressof(x) for x in addresses]
            kinds = [ctypes.c_char] * 2 + [ctypes.c_int] * 3 + [element, None, ctypes.c_int]
            kinds += [ctypes.c_int] * batched + [None, ctypes.c_int] + [ctypes.c_int] * batched
            kinds += [element, None, ctypes.c_int] + [ctypes.c_int] * 2 * batched
            given = [address if kind is None else kind.from_address(address).value
                     for kind, address in zip(kinds, addresses, strict=True)]
            if not batched:
                ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = given
                far, count = (0, 0, 0), 1
            else:
                ta, tb, m, n, k, alpha, a, lda, *rest = given
                far_a, b, ldb, far_b, beta, c, ldc, far_c, count = rest
                far = (far_a, far_b, far_c)
            assert (alpha, beta) == (1, 0)
            size = ctypes.sizeof(element)
            for i in range(count):
                at, bt, ct = (x + i * step * size for x, step in zip((a, b, c), far, strict=True))
                matrix(ct, b"N", m, n, ldc)[...] = matrix(at, ta, m, k, lda) @ matrix(bt, tb, k, n, ldb)

        return gemm


@pytest.fixture(params=["emulated", *["installed"] * INSTALLED])
def by_mkl(request, monkeypatch):
    """MKL's matmul, that takes small products too; its library is the real one, or one that counts its calls."""
    library = Emulated() if request.param == "emulated" else mkl.load()
    monkeypatch.setattr(mkl_products, "load", lambda: library)
    monkeypatch.setattr(mkl_products, "SMALL", 0)
    monkeypatch.setattr(mkl_products, "_plans", {})

    def matmul(a, b, out=None, calls=None):
        before = getattr(library, "calls", 0)
        y = mkl_products.matmul(a, b, out)
        if calls is not None and request.param == "emulated":
            assert library.calls - before == calls, f"{library.calls - before} calls of MKL"
        return y

    return matmul


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def agree(y, a, b):
    assert y.dtype == a.dtype
    np.testing.assert_allclose(y, np.matmul(a.astype("float64"), b.astype("float64")),
                               rtol=TOLERANCE[a.dtype.name], atol=TOLERANCE[a.dtype.name] * a.shape[-1])


# -- the kernel


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "int64"])
def test_the_kernel_is_numpys_matmul(dtype):
    matmul = get("cpu").kernels.matmul
    a, b = (numbers(*shape, dtype="float32").astype(dtype) for shape in ((2, 5, 7), (7, 3)))
    want = np.matmul(a, b)
    got, out = matmul(a, b), np.empty_like(want)
    assert got.dtype == want.dtype and matmul(a, b, out) is out
    tolerance = 2e-3 if dtype == "float16" else 1e-6
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(out, got)


@pytest.mark.parametrize("shape", [(4, 8), (2, 3, 8), (8,)])
def test_a_layer_gives_rows_in_memory(shape):
    """A small batch is no exception: what torch's users view, they can view."""
    x = dg.tensor(numbers(*shape), requires_grad=True)
    weight, bias = dg.tensor(numbers(256, 8), requires_grad=True), dg.tensor(numbers(256), requires_grad=True)
    y = F.linear(x, weight, bias)
    agree(y.detach().numpy() - bias.detach().numpy(), x.detach().numpy(), weight.detach().numpy().T)
    y.view(-1).sum().backward()
    assert x.grad.is_contiguous() and weight.grad.is_contiguous()
    np.testing.assert_allclose(bias.grad.numpy(), np.full(256, y.numel() // 256))


@pytest.mark.parametrize("out", [None, "rows", "columns", "wide"])
def test_turned_over_products(out):
    a, b = numbers(16, 256), numbers(1024, 256).T
    target = {None: None, "rows": np.empty((16, 1024), "f"), "columns": np.empty((1024, 16), "f").T,
              "wide": np.empty((16, 1030), "f")[:, 3:1027]}[out]
    y = tall.matmul(a, b, target)
    assert y is target if out else y.flags.c_contiguous
    agree(y, a, b)


# -- who is chosen


@pytest.fixture
def choose(monkeypatch):
    def choose(wanted, path="libmkl_rt.so.3", suits=True, load=None):
        monkeypatch.setattr(blas, "config", Config(blas=wanted))
        monkeypatch.setattr(mkl, "path", lambda: path)
        monkeypatch.setattr(mkl, "suits", lambda: suits)
        monkeypatch.setattr(mkl, "load", load or (lambda: None))
        blas.provider.cache_clear()
        return blas.provider()

    yield choose
    blas.provider.cache_clear()


def test_auto_takes_mkl_where_it_serves(choose):
    def broken():
        raise OSError("wrong ELF class")

    assert choose("auto") == "mkl"
    assert choose("auto", path=None) == "numpy"
    assert choose("auto", suits=False) == "numpy"
    assert choose("auto", load=broken) == "numpy"
    assert choose("numpy") == "numpy"
    assert choose("mkl", suits=False) == "mkl"


def test_what_cannot_be_had_is_said(choose):
    with pytest.raises(RuntimeError, match=r'no libmkl_rt in .*pip install "distgrad\[mkl\]"'):
        choose("mkl", path=None)
    with pytest.raises(RuntimeError, match="DISTGRAD_BLAS='openblas' is none of"):
        choose("openblas")


def test_an_unused_mkl_is_mentioned(choose, monkeypatch):
    choose("auto", suits=False)
    assert "MKL is installed" in blas.describe()
    choose("auto", path=None)
    assert "MKL" not in blas.describe()


def test_the_newest_library_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(mkl, "folders", lambda: [str(tmp_path / "missing"), str(tmp_path)])
    mkl.path.cache_clear()
    try:
        assert mkl.path() is None
        for name in ("libmkl_rt.so.2", "libmkl_rt.so.10", "libmkl_rt.so.3", "libmkl_core.so.99"):
            (tmp_path / name).touch()
        mkl.path.cache_clear()
        assert mkl.path() == str(tmp_path / "libmkl_rt.so.10")
    finally:
        mkl.path.cache_clear()


# -- MKL's products


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m, k, n", [(3, 5, 7), (1, 5, 7), (3, 1, 7), (3, 5, 1), (1, 1, 1), (64, 33, 17)])
def test_every_orientation(by_mkl, m, k, n, dtype):
    for a in (numbers(m, k, dtype=dtype), numbers(k, m, dtype=dtype).T, numbers(m, k + 3, dtype=dtype)[:, 1:k + 1]):
        for b in (numbers(k, n, dtype=dtype), numbers(n, k, dtype=dtype).T, numbers(2 * k, n, dtype=dtype)[::2]):
            agree(by_mkl(a, b, calls=1), a, b)
            wide = np.full((m, n + 4), 7, dtype)
            part = wide[:, 1:n + 1]
            assert by_mkl(a, b, part, calls=1) is part
            agree(part, a, b)
            assert (wide[:, 0] == 7).all() and (wide[:, n + 1:] == 7).all()


BATCHES = {  # shapes, or arrays that lie in other ways, and how many calls they take
    "both": ((5, 3, 4), (5, 4, 2), 1),
    "one matrix on the right": ((5, 3, 4), (4, 2), 1),
    "one matrix on the left": ((3, 4), (5, 4, 2), 1),
    "two dimensions as one": ((2, 5, 3, 4), (2, 5, 4, 6), 1),
    "broadcast outside": ((2, 5, 3, 4), (5, 4, 6), 2),
    "broadcast inside": ((2, 5, 3, 4), (2, 1, 4, 6), 2),
    "broadcast both": ((2, 1, 3, 4), (1, 5, 4, 6), 2),
    "of one": ((1, 1, 3, 4), (1, 1, 4, 2), 1),
    "every other": (numbers(6, 3, 4)[::2], (3, 4, 2), 1),
    "heads": (numbers(2, 8, 3, 4, 5)[:, :, 0].transpose(0, 2, 1, 3),
              numbers(2, 8, 3, 4, 5)[:, :, 1].transpose(0, 2, 3, 1), 2),
}


@pytest.mark.parametrize("case", BATCHES)
def test_batches(by_mkl, case):
    a, b, calls = BATCHES[case]
    a, b = (numbers(*x) if isinstance(x, tuple) else x for x in (a, b))
    agree(by_mkl(a, b, calls=calls), a, b)
    out = np.empty(np.matmul(a, b).shape, "f")
    agree(by_mkl(a, b, out, calls=calls), a, b)


def test_what_mkl_cannot_take_goes_to_numpy(by_mkl):
    a, b = numbers(6, 4), numbers(4, 3)
    shifted = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view("f").reshape(6, 4)
    for x, y in ((numbers(6, 8)[:, ::2], b), (a[::-1], b), (a, numbers(4)), (shifted, b), (a.astype(">f4"), b),
                 (a.astype("int64"), b.astype("int64")), (numbers(6, 0), numbers(0, 3)), (numbers(0, 4), b)):
        got, want = by_mkl(x, y, calls=0), np.matmul(x, y)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5)
    turned = np.empty((3, 6), "f").T
    assert by_mkl(a, b, turned, calls=0) is turned
    agree(turned, a, b)


def test_an_output_over_an_input(by_mkl):
    a, b = numbers(5, 5), numbers(5, 5)
    want = a @ b
    for left, right in ((a.copy(), b), (a, b.copy())):
        out = left if left is not a else right
        np.testing.assert_allclose(by_mkl(left, right, out, calls=0), want, rtol=1e-5, atol=1e-6)


def test_wrong_calls_are_refused_as_by_numpy(by_mkl):
    a, b = numbers(6, 4), numbers(4, 3)
    fixed = np.empty((6, 3), "f")
    fixed.flags.writeable = False
    for arguments in ((a, a), (a, b, np.empty((6, 4), "f")), (a, b, fixed), (numbers(2, 6, 4), numbers(3, 4, 3))):
        with pytest.raises(ValueError):
            by_mkl(*arguments)


def test_inputs_may_be_read_only(by_mkl):
    a, b = numbers(6, 4), numbers(3, 4).T
    a.flags.writeable = b.flags.writeable = False
    agree(by_mkl(a, b, calls=1), a, b)


def test_nan_and_infinity_pass(by_mkl):
    a, b = numbers(40, 30), numbers(30, 20)
    a[3, 4], a[5, 6] = np.nan, np.inf
    got, want = by_mkl(a, b, np.full((40, 20), np.nan, "f"), calls=1), np.matmul(a, b)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


def test_small_products_are_numpys(by_mkl, monkeypatch):
    monkeypatch.setattr(mkl_products, "SMALL", 1000)
    by_mkl(numbers(9, 10), numbers(10, 11), calls=0)
    by_mkl(numbers(10, 10), numbers(10, 10), calls=1)


def test_plans_are_forgotten_in_time(by_mkl, monkeypatch):
    monkeypatch.setattr(mkl_products, "_PLANS", 3)
    for rows in range(1, 9):
        agree(by_mkl(numbers(rows, 4), numbers(4, 3), calls=1), numbers(rows, 4), numbers(4, 3))
        assert len(mkl_products._plans) <= 3


def at(offset, values):
    """A copy that begins so many bytes after a multiple of 64."""
    memory = np.empty(values.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start:start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


@needs_mkl
@pytest.mark.parametrize("m, k, n", [(64, 784, 512), (33, 77, 129), (1024, 256, 16), (16, 256, 1024), (5, 1000, 3)])
def test_bits_of_mkl_do_not_depend_on_where_arrays_begin(monkeypatch, m, k, n):
    monkeypatch.setattr(mkl_products, "SMALL", 0)
    a, b = numbers(m, k), numbers(n, k)
    want = mkl_products.matmul(at(0, a), at(0, b).T)
    for first, second, third in ((16, 0, 0), (0, 16, 0), (0, 0, 16), (8, 24, 40), (48, 32, 4)):
        out = at(third, np.empty((m, n), "f"))
        np.testing.assert_array_equal(mkl_products.matmul(at(first, a), at(second, b).T, out), want)


@needs_mkl
def test_mkl_says_its_version():
    assert mkl.load().describe().startswith("MKL 20")


def test_overrides_are_called_as_the_reference():
    want = list(inspect.signature(reference("matmul")).parameters.values())[1:]  # without xp
    for override in (mkl_products.matmul, tall.matmul):
        assert list(inspect.signature(override).parameters.values()) == want
