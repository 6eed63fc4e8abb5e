"""einops on tensors: found in whatever order the two are imported, and recorded in the graph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd import gradcheck

einops = pytest.importorskip("einops")

X = np.random.default_rng(0).normal(size=(2, 3, 4, 6))

CALLS: dict[str, Callable[[Any], Any]] = {
    "flatten": lambda x: einops.rearrange(x, "b c h w -> b (c h w)"),
    "transpose": lambda x: einops.rearrange(x, "b c h w -> b h w c"),
    "patches": lambda x: einops.rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=3),
    "new axis": lambda x: einops.rearrange(x, "b c h w -> b 1 c h w"),
    "list": lambda x: einops.rearrange([x, 2 * x], "n b c h w -> b n c (h w)"),
    "mean": lambda x: einops.reduce(x, "b c h w -> b c", "mean"),
    "max pool": lambda x: einops.reduce(x, "b c (h 2) (w 2) -> b c h w", "max"),
    "min": lambda x: einops.reduce(x, "b c h w -> h w", "min"),
    "sum": lambda x: einops.reduce(x, "b c h w -> ", "sum"),
    "prod": lambda x: einops.reduce(x, "b c h w -> c b", "prod"),
    "repeat": lambda x: einops.repeat(x, "b c h w -> b c (h 2) w n", n=3),
    "einsum": lambda x: einops.einsum(x, x, "b c h w, b d h w -> c d"),
    "pack": lambda x: einops.pack([x, x[..., 0]], "b c *")[0],
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_einops_own_and_have_gradients(name: str) -> None:
    call = CALLS[name]
    t = dg.tensor(X, requires_grad=True)
    result = call(t)
    assert isinstance(result, dg.Tensor) and result.requires_grad
    np.testing.assert_allclose(result.detach().numpy(), call(X), rtol=1e-12)
    assert gradcheck(call, t)


def test_other_parts() -> None:
    t = dg.tensor(X, requires_grad=True)
    assert einops.parse_shape(t, "b c _ w") == {"b": 2, "c": 3, "w": 6}
    assert np.array_equal(einops.asnumpy(t), X)
    assert einops.reduce(t > 0, "b c h w -> b", "any").tolist() == [True, True]
    parts = einops.unpack(*einops.pack([t, t[..., 0]], "b c *"), "b c *")
    assert [part.shape for part in parts] == [(2, 3, 4, 6), (2, 3, 4)]


@pytest.mark.parametrize("imports", ["import distgrad, einops", "import einops, distgrad",
                                     "import distgrad; distgrad.ones(1); from einops import rearrange; import einops"])
def test_any_order_of_imports(imports: str) -> None:
    code = f"""
import sys
{imports}
print(einops.rearrange(distgrad.ones(2, 3), "a b -> (b a)").shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "(6,)\n", done.stderr


def test_distgrad_alone_does_not_import_einops() -> None:
    code = "import sys, distgrad, distgrad.utils.einops; print('einops' in sys.modules, len(sys.meta_path))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    plain = subprocess.run([sys.executable, "-c", "import sys; print(len(sys.meta_path))"], capture_output=True,
                           text=True, timeout=60)
    assert done.stdout.split() == ["False", str(int(plain.stdout) + 1)], done.stderr
