"""Compiled kernels against the reference, and their cache: private, whole, shared by processes that start together."""

from __future__ import annotations

import importlib.util
import inspect
import math
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from distgrad.backend import fused
from distgrad.backend.reference import find as reference
from distgrad.config import Launcher
from distgrad.flat import GRID

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba (the extra 'fast')", allow_module_level=True)

from distgrad.backend.fused import store
from distgrad.backend.fused.native import LOOPS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 90  # seconds; four processes start at once on machines with few cores
NAMES = ("adam_", "adam_plan", "mean_of_ranks", "norm_blocks", "norms_of", "sgd_", "sgd_plan", "share_plan",
         "sum_of_ranks", "watch_plan")
SIZES = [0, 1, 7, 2047, 2049, 16385]
kernel = {name: fused.find(name) for name in NAMES}


def arrays(count, size, dtype):
    rng = np.random.default_rng(size)
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


def same_bits(a, b):
    """Equal bit by bit, except that one NaN is like another."""
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a[a == 0]), np.signbit(b[b == 0]))


# -- what there is


@pytest.mark.parametrize("name", NAMES)
def test_an_override_is_called_as_its_reference(name):
    assert list(inspect.signature(kernel[name]).parameters.values()) == \
        list(inspect.signature(reference(name)).parameters.values())[1:]  # without xp


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_every_loop_compiles(loop, dtype):
    assert loop(dtype) is not None


def test_there_is_an_override_only_where_numba_and_the_user_allow_it(monkeypatch):
    assert fused.find("diagonal") is None
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert fused.find("adam_") is None
    monkeypatch.undo()
    assert fused.find("adam_") is kernel["adam_"]
    monkeypatch.setattr(fused, "config", fused.config.from_environment({"DISTGRAD_KERNELS": "reference"}))
    assert fused.find("adam_") is None


# -- updates


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("amsgrad", "decay", "decoupled", "factor"), [
    (False, 0, False, 1.0), (False, 0.1, False, 0.37), (False, 0.1, True, -1.0), (True, 0.1, False, 1.0),
    (True, 0.1, True, 0.37),
])
def test_adam_has_the_bits_of_the_reference(amsgrad, decay, decoupled, factor, size, dtype):
    p, g = arrays(2, size, dtype)
    mine = [p.copy(), *np.zeros((3, size), dtype)]
    theirs = [x.copy() for x in mine]
    for step in range(1, 4):
        kept = g.copy()
        for call, (q, m, v, vmax) in ((kernel["adam_"], mine), (lambda *a: reference("adam_")(np, *a), theirs)):
            call(q, g, m, v, vmax if amsgrad else None, 0.01, 0.9, 0.99, 1e-6, decay, decoupled, step, factor)
        same_bits(g, kept)
        for a, b in zip(mine, theirs):
            same_bits(a, b)
        g = g * np.asarray(-0.3, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("momentum", "dampening", "nesterov", "decay", "factor"), [
    (0, 0, False, 0, 1.0), (0, 0, False, 0.1, 0.37), (0.9, 0, False, 0, 1.0), (0.9, 0.5, False, 0.1, -1.0),
    (0.9, 0, True, 0.1, 0.37),
])
def test_sgd_has_the_bits_of_the_reference(momentum, dampening, nesterov, decay, factor, size, dtype):
    p, g = arrays(2, size, dtype)
    mine = [p.copy(), np.full(size, np.nan, dtype)]
    theirs = [x.copy() for x in mine]
    for step in range(3):
        for call, (q, b) in ((kernel["sgd_"], mine), (lambda *a: reference("sgd_")(np, *a), theirs)):
            call(q, g, b if momentum else None, 0.1, momentum, dampening, decay, nesterov, step == 0, factor)
        for a, b in zip(mine, theirs):
            same_bits(a, b)
        g = -g


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow", "ignore:divide")
@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_what_is_not_finite_goes_the_same_ways(amsgrad, decay):
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, 1.0], "float32")
    p, g, m, v, vmax = (x.reshape(-1).copy() for x in np.meshgrid(odd, odd, odd[:4], np.abs(odd), np.abs(odd[:4])))
    mine, theirs = [p, m, v, vmax], [p.copy(), m.copy(), v.copy(), vmax.copy()]
    rest = (0.01, 0.9, 0.99, 1e-8, decay, False, 2, 0.5)
    kernel["adam_"](p, g, m, v, vmax if amsgrad else None, *rest)
    reference("adam_")(np, theirs[0], g, theirs[1], theirs[2], theirs[3] if amsgrad else None, *rest)
    for a, b in zip(mine, theirs):
        same_bits(a, b)
    assert np.isnan(p).any() and np.isfinite(p).any()


def test_updates_fall_through_to_the_reference():
    rest = (0.1, 0.9, 0.99, 1e-8, 0, False, 1, 1.0)
    for dtype in ("float16", ">f4"):
        p, g, m, v = (np.ones(5, dtype) for _ in range(4))
        kernel["adam_"](p, g, m, v, None, *rest)
        np.testing.assert_allclose(p.astype("float32"), 0.9, rtol=1e-2)
    p, g, m, v = np.ones((4, 10), "float32")[:, ::2]  # with gaps
    kernel["adam_"](p, g, np.zeros(5, "float32"), v, None, *rest)
    assert (p < 1).all()
    with pytest.raises(ValueError):
        kernel["sgd_"](np.ones(5), np.ones(4), None, 0.1, 0, 0, 0, False, True, 1.0)
    frozen = np.ones(5)
    frozen.flags.writeable = False
    with pytest.raises(ValueError):
        kernel["sgd_"](frozen, np.ones(5), None, 0.1, 0, 0, 0, False, True, 1.0)
    p = np.ones(5)
    kernel["sgd_"](p, frozen, None, 0.1, 0, 0, 0, False, True, 1.0)  # a gradient is only read
    np.testing.assert_array_equal(p, 0.9)


# -- sums of squares and the mean


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, 255, 257, GRID - 1, GRID, GRID + 1, 5 * GRID + 17])
def test_sums_of_squares(size, dtype):
    (x,) = arrays(1, size, dtype)
    blocks = kernel["norm_blocks"](x, 2, GRID)
    wide = x.astype("float64")
    expected = [math.fsum(wide[start:start + GRID] ** 2) for start in range(0, size, GRID)]
    assert blocks.dtype == np.float64 and blocks.shape == (-(-size // GRID),)
    np.testing.assert_allclose(blocks, expected, rtol=1e-13)
    padded = np.append(x, np.zeros(-size % GRID, dtype))
    same_bits(kernel["norm_blocks"](padded, 2, GRID), blocks)
    for start in range(0, size, GRID):  # a block by itself, elsewhere in memory
        same_bits(kernel["norm_blocks"](x[start:start + GRID].copy(), 2.0, GRID), blocks[start // GRID:][:1])


def test_a_sum_of_squares_depends_on_the_values_alone():
    (x,) = arrays(1, 3 * GRID + 100, "float32")
    blocks = kernel["norm_blocks"](x, 2, GRID)
    shifted = np.empty(x.size + 1, "float32")[1:]
    gaps = np.empty((x.size, 2), "float32")[:, 0]
    odd = np.empty(x.size * 4 + 1, "uint8")[1:].view("float32")  # not aligned
    for other in (shifted, gaps, odd):
        other[:] = x
        same_bits(kernel["norm_blocks"](other, 2, GRID), blocks)
    shifted.flags.writeable = False
    same_bits(kernel["norm_blocks"](shifted, 2, GRID), blocks)


@pytest.mark.parametrize("p", [0, 1, 3, math.inf])
def test_other_norms_are_the_references(p):
    (x,) = arrays(1, GRID + 5, "float32")
    same_bits(kernel["norm_blocks"](x, p, GRID), reference("norm_blocks")(np, x, p, GRID))


def test_sums_of_squares_do_not_hide_what_is_not_finite():
    x = np.ones(4 * GRID, "float32")
    x[5], x[GRID + 300], x[-1] = np.nan, -np.inf, 3e38
    a, b, c, d = kernel["norm_blocks"](x, 2, GRID)
    assert math.isnan(a) and b == math.inf and c == GRID and d == pytest.approx(float(x[-1]) ** 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_the_mean_over_ranks(ranks, dtype):
    size = 3 * GRID
    flats = arrays(ranks, size, dtype)
    flats[0][7], flats[-1][8], flats[0][9] = np.nan, np.inf, 1e-42
    expected = flats[0].copy()
    for other in flats[1:]:
        expected += other
    expected /= ranks
    partials = [np.full(3, np.nan) for _ in range(ranks)]
    kernel["mean_of_ranks"](flats, partials, GRID, ranks)
    for flat, partial in zip(flats, partials):
        same_bits(flat, expected)
        same_bits(partial, kernel["norm_blocks"](expected, 2, GRID))
    assert math.isnan(partials[0][0]) and np.isfinite(partials[0][1:]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_sum_over_ranks(ranks, dtype):
    flats = arrays(ranks, 2 * GRID, dtype)
    flats[0][7], flats[-1][8] = np.nan, np.inf
    wide = "float32" if dtype == "float16" else dtype
    expected, mine = np.empty(2 * GRID, wide), np.empty(2 * GRID, wide)
    reference("sum_of_ranks")(np, flats, expected, GRID)
    kernel["sum_of_ranks"](flats, mine, GRID)
    same_bits(mine, expected)
    if wide == dtype:  # into the first one's memory
        kernel["sum_of_ranks"](flats, flats[0], GRID)
        same_bits(flats[0], expected)


def test_updates_of_many_parameters_are_those_of_each():
    rng = np.random.default_rng(4)
    sizes = [5, 0, 4097, 1]
    lists = [[np.abs(rng.standard_normal(n)).astype("float32") for n in sizes] for _ in range(4)]
    alone = [[x.copy() for x in each] for each in lists]
    ps, gs, ms, vs = lists
    plan = kernel["adam_plan"](ps, ms, vs, None)
    momentum = kernel["sgd_plan"](ps, ms)
    for step in (1, 2):
        plan(gs, 0.01, 0.9, 0.99, 1e-8, 0.1, False, step, 0.5)
        momentum(gs, 0.01, 0.9, 0.1, 0.1, False, False, 0.5)
        for p, g, m, v in zip(*alone, strict=True):
            reference("adam_")(np, p, g, m, v, None, 0.01, 0.9, 0.99, 1e-8, 0.1, False, step, 0.5)
            reference("sgd_")(np, p, g, m, 0.01, 0.9, 0.1, 0.1, False, False, 0.5)
        gs = [g[::-1].copy() for g in gs]  # gradients of the next step lie elsewhere
        alone[1] = [g.copy() for g in gs]
    for mine, theirs in zip(lists, alone, strict=True):
        if mine is not lists[1]:
            for a, b in zip(mine, theirs, strict=True):
                same_bits(a, b)


def test_waiting_sees_what_others_write():
    rows = [np.zeros(8, np.int64) for _ in range(3)]
    look = kernel["watch_plan"](rows, 100)
    assert not look(2, 1, 0, 3)
    rows[0][2] = rows[1][2] = 1
    assert look(2, 1, 0, 2) and not look(2, 1, 0, 3) and not look(2, 2, 0, 2)
    patient = kernel["watch_plan"](rows, 10**9)
    timer = threading.Timer(0.2, lambda: rows[2].__setitem__(2, 7))
    timer.start()
    assert patient(2, 5, 2, 3)
    timer.join()


@pytest.mark.parametrize("divisor", [2, 3.0, 0.1, 2.0 ** -100, 12345.678])
def test_weighted_means_keep_their_sums_and_go_elsewhere(divisor):
    mine, theirs = ([arrays(3, 2 * GRID, "float32"), [np.zeros(2), np.zeros(2)], np.zeros(2 * GRID, "float32"),
                     [np.empty(2 * GRID, "float32") for _ in range(2)]] for _ in range(2))
    before = [x.copy() for x in mine[0]]
    with np.errstate(over="ignore"):
        for more in (False, True):
            flats, partials, sums, outs = mine
            kernel["mean_of_ranks"](flats, partials, GRID, divisor, sums, more, outs)
            flats, partials, sums, outs = theirs
            reference("mean_of_ranks")(np, flats, partials, GRID, divisor, sums, more, outs)
            for a, b in zip([*mine[0], mine[2], *mine[3]], [*theirs[0], theirs[2], *theirs[3]]):
                same_bits(a, b)
            for a, b in zip(mine[1], theirs[1]):
                np.testing.assert_allclose(a, b, rtol=1e-13)
    for a, b in zip(mine[0], before):
        same_bits(a, b)


@pytest.mark.parametrize("dtype", ["float16", "complex64"])
def test_means_fall_through_to_the_reference(dtype):
    flats = [np.full(GRID, value, dtype) for value in (1, 2)]
    partials = [np.zeros(1), np.zeros(1)]
    kernel["mean_of_ranks"](flats, partials, GRID, 2)
    assert (flats[1] == 1.5).all() and partials[1][0] == 2.25 * GRID


# -- the cache


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "cache_folder", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_store_is_private_and_gives_back_what_it_got(place):
    kept = store.Store("kernels")
    assert kept.read("a.o") is None
    kept.write("a.o", b"code")
    assert kept.read("a.o") == store.Store("kernels").read("a.o") == b"code"
    for path in (place, place / "kernels"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "kernels" / "a.o").stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:10], lambda data: data[:-1], lambda data: data + b"x",
    lambda data: data[:-2] + b"xx", lambda data: b"something else entirely" * 9,
])
def test_damaged_files_count_as_absent(damage, place):
    kept = store.Store("kernels")
    kept.write("a.o", b"some code")
    path = place / "kernels" / "a.o"
    path.write_bytes(damage(path.read_bytes()))
    assert kept.read("a.o") is None
    kept.write("a.o", b"some code")
    assert kept.read("a.o") == b"some code"
    path.rename(path.with_name("b.o"))
    assert kept.read("b.o") is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("inner", [False, True])
def test_a_folder_that_others_may_write_to_is_refused(inner, mode, place):
    store.Store("kernels").write("a.o", b"code")
    path = place / "kernels" if inner else place
    path.chmod(mode)
    kept = store.Store("kernels")
    assert not kept.folder and "may be written by others" in kept.reason
    assert kept.read("a.o") is None
    kept.write("a.o", b"code")
    with kept.alone(lambda: None) as found:
        assert found is None


def test_a_folder_of_somebody_else_or_none_is_refused(place, monkeypatch):
    store.Store("kernels")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert "another user" in store.Store("kernels").reason
    monkeypatch.undo()
    monkeypatch.setattr(store, "cache_folder", lambda: str(place / "kernels" / "file"))
    (place / "kernels" / "file").write_text("")
    assert store.Store("kernels").reason
    monkeypatch.setattr(store, "cache_folder", lambda: "~/.cache/distgrad")
    assert "absolute" in store.Store("kernels").reason


def test_a_link_in_place_of_the_inner_folder_is_refused(place, tmp_path):
    place.mkdir(0o700)
    (tmp_path / "elsewhere").mkdir(0o700)
    (place / "kernels").symlink_to(tmp_path / "elsewhere")
    assert "no folder" in store.Store("kernels").reason


PROGRAM = """
import sys
import numpy as np
from distgrad.backend import get
p = np.ones(1000, "float32")
get("cpu").kernels.sgd_(p, p.copy(), None, 0.25, 0.0, 0.0, 0.0, False, True, 1.0)
assert (p == 0.75).all()
from distgrad.backend.fused.update import _SGD
assert _SGD("float32") is not None
print("numba" in sys.modules)
"""


def start(cache, program=PROGRAM, path=str(ROOT), **variables):
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "DISTGRAD_CACHE": str(cache), "PYTHONPATH": path, **variables})


def finish(process):
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, err
    return out.strip() == "True", err


def test_processes_that_start_together_compile_once_and_survive_damage(tmp_path):
    cache = tmp_path / "cache"
    compiled = [finish(process)[0] for process in [start(cache) for _ in range(4)]]
    assert compiled.count(True) == 1  # the others waited, and needed no numba
    (folder,) = cache.iterdir()
    lock, path = sorted(folder.iterdir())
    assert lock.name == "lock" and path.match("sgd-float32-????????.o")
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    assert finish(start(cache))[0] is True
    assert path.read_bytes()[:24] == whole[:24] and len(path.read_bytes()) == len(whole)
    assert finish(start(cache)) == (False, "")


def test_a_numba_or_an_llvm_that_cannot_be_loaded_costs_time_and_not_the_run(tmp_path):
    program = PROGRAM.replace("is not None", "is None")
    for broken in ("numba", "llvmlite"):
        (tmp_path / broken / broken).mkdir(parents=True)
        (tmp_path / broken / broken / "__init__.py").write_text("raise ImportError('does not fit this numpy')")
    numba, llvm = (start(tmp_path / "cache", program.rpartition("from")[0] if broken == "llvmlite" else program,
                         f"{tmp_path / broken}{os.pathsep}{ROOT}") for broken in ("numba", "llvmlite"))
    for process in (numba, llvm):
        _, err = finish(process)
        assert err.count("does not fit this numpy") == 1 and "numpy's" in err


def test_where_compiling_takes_long_one_rank_says_so_and_where_the_code_is(capsys, monkeypatch, place):
    from distgrad.backend.fused import native as module

    monkeypatch.setattr(module, "_spent", 0.0)
    monkeypatch.setattr(module, "_said", False)
    kept = store.Store("kernels")
    module._note(0.6, kept)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "launcher", lambda: Launcher("MPI", 1, 2, 1))
    module._note(0.6, kept)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "launcher", lambda: Launcher("MPI", 0, 2, 0))
    module._note(0.6, kept)
    module._note(0.6, kept)
    assert capsys.readouterr().err == \
        f"distgrad: compiling kernels for this processor took 1.8 s so far; they are kept in {kept.folder}\n"
