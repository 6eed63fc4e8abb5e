"""What a user reads from the graph: names of nodes, its structure, what they saved."""

from __future__ import annotations

import pytest

from .both import Table, check, leaf, raised

case = Table()


# -- names and structure of nodes

OPS = {
    "add": lambda lib, x, y: x + y, "add number": lambda lib, x, y: x + 1, "sub": lambda lib, x, y: x - y,
    "rsub": lambda lib, x, y: 1 - x, "mul": lambda lib, x, y: x * y, "div": lambda lib, x, y: x / y,
    "rdiv": lambda lib, x, y: 1 / x, "pow": lambda lib, x, y: x ** 2, "pow tensor": lambda lib, x, y: x ** y,
    "rpow": lambda lib, x, y: 2 ** x, "neg": lambda lib, x, y: -x, "exp": lambda lib, x, y: x.exp(),
    "log": lambda lib, x, y: x.log(), "sqrt": lambda lib, x, y: x.sqrt(), "rsqrt": lambda lib, x, y: x.rsqrt(),
    "sin": lambda lib, x, y: x.sin(), "cos": lambda lib, x, y: x.cos(), "tanh": lambda lib, x, y: x.tanh(),
    "sigmoid": lambda lib, x, y: x.sigmoid(), "relu": lambda lib, x, y: x.relu(), "abs": lambda lib, x, y: x.abs(),
    "sum": lambda lib, x, y: x.sum(), "sum dim": lambda lib, x, y: x.sum(0), "mean": lambda lib, x, y: x.mean(),
    "mean dim": lambda lib, x, y: x.mean(0), "prod": lambda lib, x, y: x.prod(), "prod dim": lambda lib, x,
    y: x.prod(0),
    "max": lambda lib, x, y: x.max(), "max dim": lambda lib, x, y: x.max(0)[0], "amax": lambda lib, x, y: x.amax(0),
    "min": lambda lib, x, y: x.min(), "var": lambda lib, x, y: x.var(), "std": lambda lib, x, y: x.std(),
    "matmul": lambda lib, x, y: x @ y, "mv": lambda lib, x, y: x @ y[0], "dot": lambda lib, x, y: x[0] @ y[0],
    "bmm": lambda lib, x, y: lib.bmm(x[None], y[None]), "mm": lambda lib, x, y: x.mm(y), "t": lambda lib, x, y: x.t(),
    "T": lambda lib, x, y: x.T, "transpose": lambda lib, x, y: x.transpose(0, 1), "permute": lambda lib, x, y:
    x.permute(1, 0), "reshape": lambda lib, x, y: x.reshape(4), "view": lambda lib, x, y: x.view(4), "flatten":
    lambda lib, x, y: x.flatten(), "squeeze": lambda lib, x, y: x.squeeze(), "squeeze dim": lambda lib, x, y:
    x.squeeze(0), "unsqueeze": lambda lib, x, y: x.unsqueeze(0), "expand": lambda lib, x, y: x.expand(3, 2, 2),
    "select": lambda lib, x, y: x[0], "slice": lambda lib, x, y: x[0:1], "index": lambda lib, x, y:
    x[lib.tensor([0, 1])], "mask": lambda lib, x, y: x[x > 0], "clone": lambda lib, x, y: x.clone(), "cat":
    lambda lib, x, y: lib.cat([x, y]), "stack": lambda lib, x, y: lib.stack([x, y]), "unbind": lambda lib, x, y:
    x.unbind()[0], "split": lambda lib, x, y: x.split(1)[0], "chunk": lambda lib, x, y: x.chunk(2)[0], "where":
    lambda lib, x, y: lib.where(x > 0, x, y), "clamp": lambda lib, x, y: x.clamp(0, 1), "masked_fill":
    lambda lib, x, y: x.masked_fill(x > 1, 0.0), "softmax": lambda lib, x, y: x.softmax(0), "log_softmax":
    lambda lib, x, y: x.log_softmax(0), "logsumexp": lambda lib, x, y: x.logsumexp(0), "cumsum": lambda lib, x, y:
    x.cumsum(0), "cumprod": lambda lib, x, y: x.cumprod(0), "norm": lambda lib, x, y: x.norm(), "maximum":
    lambda lib, x, y: lib.maximum(x, y), "gather": lambda lib, x, y: x.gather(0, lib.zeros(2, 2, dtype=lib.int64)),
    "index_select": lambda lib, x, y: x.index_select(0, lib.tensor([0])), "to": lambda lib, x, y: x.to(lib.float32),
    "sort": lambda lib, x, y: x.sort()[0], "topk": lambda lib, x, y: x.topk(1)[0], "flip": lambda lib, x, y: x.flip(0),
    "roll": lambda lib, x, y: x.roll(1, 0), "repeat": lambda lib, x, y: x.repeat(2, 1), "tril": lambda lib, x, y:
    x.tril(), "diagonal": lambda lib, x, y: x.diagonal(), "diag": lambda lib, x, y: lib.diag(x), "trace":
    lambda lib, x, y: x.trace(), "inverse": lambda lib, x, y: x.inverse(), "det": lambda lib, x, y: x.det(),
    "einsum": lambda lib, x, y: lib.einsum("ij,jk->ik", x, y), "outer": lambda lib, x, y: lib.outer(x[0], y[0]),
    "square": lambda lib, x, y: x.square(), "reciprocal": lambda lib, x, y: x.reciprocal(), "erf": lambda lib, x, y:
    x.erf(), "floor": lambda lib, x, y: x.floor(), "sign": lambda lib, x, y: x.sign(), "log1p": lambda lib, x, y:
    x.log1p(), "atan2": lambda lib, x, y: lib.atan2(x, y), "addmm": lambda lib, x, y: lib.addmm(x, x, y), "scatter_add":
    lambda lib, x, y: x.scatter_add(0, lib.zeros(1, 2, dtype=lib.int64), y), "median": lambda lib, x, y: x.median(),
    "lerp": lambda lib, x, y: x.lerp(y, 0.5), "addcmul": lambda lib, x, y: x.addcmul(x, y), "add_": lambda lib, x, y:
    (x * 1).add_(y), "mul_": lambda lib, x, y: (x * 1).mul_(y), "zero_": lambda lib, x, y: (x * 1).zero_(), "fill_":
    lambda lib, x, y: (x * 1).fill_(2.0), "copy_": lambda lib, x, y: (x * 1).copy_(y), "setitem": lambda lib, x, y:
    _set(x * 1, y), "embedding": lambda lib, x, y: lib.nn.functional.embedding(lib.tensor([0, 1]), x), "relu_f":
    lambda lib, x, y: lib.nn.functional.relu(x), "linear": lambda lib, x, y: lib.nn.functional.linear(x, y, y[0]),
    "gelu": lambda lib, x, y: lib.nn.functional.gelu(x), "silu": lambda lib, x, y: lib.nn.functional.silu(x),
    "mse": lambda lib, x, y: lib.nn.functional.mse_loss(x, y), "layer_norm": lambda lib, x, y:
    lib.nn.functional.layer_norm(x, (2,)), "nll": lambda lib, x, y: lib.nn.functional.nll_loss(x, lib.tensor([0, 1])),
    "cross_entropy": lambda lib, x, y: lib.nn.functional.cross_entropy(x, lib.tensor([0, 1])),
}


def _set(t, y):
    t[0] = y[0]
    return t


def _node_name(lib, op):
    x, y = leaf(lib, [[0.5, 1.5], [2.5, 0.7]]), leaf(lib, [[1.1, 0.2], [0.3, 2.4]])
    return op(lib, x, y).grad_fn.name()


for op_name, op in OPS.items():
    case.add(f"name_of_{op_name}", lambda lib, op=op: _node_name(lib, op))


def walk(node, depth=0):
    """A graph as nested lists of names without their overload numbers."""
    if node is None:
        return None
    return [node.name().split(":")[-1], [(walk(n, depth + 1), i) for n, i in node.next_functions]]


@case
def structure_of_a_graph(lib):
    x, w, b = leaf(lib, [[1.0, 2.0]]), leaf(lib, [[0.5], [1.5]]), lib.ones(1, dtype=lib.float64)
    h = (x @ w + b).tanh()
    return walk((h * h + x.exp().unbind(1)[1] * 2).mean().grad_fn)


@case
def accumulate_node_leads_to_its_leaf(lib):
    x = leaf(lib, 2.0)
    y = x * x
    (a, i), (b, j) = y.grad_fn.next_functions
    return a is b or a == b, a.variable is x, i, j, a.next_functions, lib.ones(1).grad_fn, (y > 1).grad_fn


@case
def metadata_of_a_node(lib):
    y = leaf(lib, 2.0) * 2
    y.grad_fn.metadata["mine"] = 3
    return y.grad_fn.metadata


@case
def gradient_edges(lib):
    x = leaf(lib, [1.0, 2.0])
    edge = lib.autograd.graph.get_gradient_edge
    y = x * 2
    parts = y.unbind()
    found = [edge(parts[1]).node.name(), edge(parts[1]).output_nr, edge(y)[1], edge(x)[0].name().split(":")[-1],
             raised(lambda: edge(lib.ones(1)))]
    return found, lib.autograd.grad(parts[0] * 3 + parts[1], edge(y)), lib.autograd.grad(y.sum(), [edge(x)])


@case
def saved_attributes(lib):
    x, y = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    return [(x * y).grad_fn._saved_self, (x * y).grad_fn._saved_other, x.exp().grad_fn._saved_result,
            (x ** 2).grad_fn._saved_self, (x ** 2).grad_fn._saved_exponent, x.tanh().grad_fn._saved_result,
            x.sin().grad_fn._saved_self, (x / y).grad_fn._saved_other, (x / y).grad_fn._saved_self,
            x.relu().grad_fn._saved_result, x.sigmoid().grad_fn._saved_result, x.log().grad_fn._saved_self,
            x.sqrt().grad_fn._saved_result, x.abs().grad_fn._saved_self,
            raised(lambda: (x + y).grad_fn._saved_self), raised(lambda: x.exp().grad_fn._saved_other)]


@case
def saved_attributes_are_attached(lib):
    x = leaf(lib, [1.0, 2.0])
    y = x.exp()
    z = y * y
    return (y.grad_fn._saved_result.grad_fn is y.grad_fn, z.grad_fn._saved_self is y,
            (x * x).grad_fn._saved_self is x, y.grad_fn._saved_result.requires_grad)


@case
def saved_attributes_after_release(lib):
    y = leaf(lib, [1.0, 2.0]).exp()
    y.sum().backward()
    return raised(lambda: y.grad_fn._saved_result)


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
