"""Optimizers: their trajectories, which parameters they touch, their groups, their state."""

from __future__ import annotations

import copy
import math
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim

START = [[0.5, -1.0], [2.0, 0.25]]

# Five steps from START with `feed`: numbers that torch 2.13 gives.
TRAJECTORIES = [
    (optim.SGD, {"lr": 0.1}, [[0.32748008485, -0.8529701497], [2.0000198008, -0.034765947575]]),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9}, [[0.12381634885, -0.6149020777], [1.9790739928, -0.265147515575]]),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
     [[0.217407876218, -0.692723289835], [2.08173490646, -0.12078697359]]),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
     [[-0.0669285528016, -0.379812027661], [1.66302406587, -0.515790679033]]),
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.1, "maximize": True}, [[0.65, -1.1], [1.9, 0.525]]),
    (optim.Adam, {"lr": 0.1}, [[0.00653363244263, -0.501779472479], [2.06287007767, -0.208214707397]]),
    (optim.Adam, {"lr": 0.1, "weight_decay": 0.1},
     [[0.0019473322087, -0.502955792977], [1.98670030295, -0.215374231911]]),
    (optim.Adam, {"lr": 0.1, "maximize": True, "betas": (0.8, 0.99), "eps": 1e-4},
     [[1.00464703356, -1.50239531881], [1.94154099293, 0.730186002217]]),
    (optim.AdamW, {"lr": 0.1}, [[0.00502176433687, -0.497806154825], [2.0526682881, -0.208520616238]]),
    (optim.AdamW, {"lr": 0.1, "amsgrad": True, "weight_decay": 0.3},
     [[-0.035442234393, -0.390151703176], [1.77400340909, -0.216105010197]]),
    (optim.Adagrad, {"lr": 0.1}, [[0.104653899988, -0.683340092794], [2.04226079185, -0.197598807346]]),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1},
     [[0.169102399479, -0.724463809928], [2.01547620665, -0.12734616565]]),
    (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5, "maximize": True},
     [[0.694246707967, -1.17590151067], [1.97561261244, 0.486164284645]]),
    (optim.RMSprop, {"lr": 0.01}, [[0.103721006194, -0.682053913046], [2.04235724964, -0.198096132651]]),
    (optim.RMSprop, {"lr": 0.01, "momentum": 0.9},
     [[-0.598797601195, -0.0757336364608], [2.17510982952, -0.965002558908]]),
    (optim.RMSprop, {"lr": 0.01, "centered": True, "weight_decay": 0.1},
     [[0.110900081405, -0.681506365021], [2.00623039709, -0.197325487833]]),
    (optim.RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5, "maximize": True},
     [[1.17471154628, -1.56893929572], [1.92620637334, 0.992275674237]]),
]
KINDS = [optim.SGD, optim.Adam, optim.AdamW, optim.Adagrad, optim.RMSprop]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def feed(p, i):
    """The gradient of step i, from 1."""
    p.grad = dg.tensor([[0.1 * i, -0.2], [(-1.0) ** i, 0.05 * i * i]], dtype=p.dtype) + 0.1 * p.detach()


def parameter(dtype=dg.float64):
    return nn.Parameter(dg.tensor(START, dtype=dtype))


@pytest.mark.parametrize(("kind", "options", "end"), TRAJECTORIES,
                         ids=lambda v: v.__name__ if isinstance(v, type) else "")
def test_trajectories(kind, options, end) -> None:
    p = parameter()
    memory = p.array
    opt = kind([p], **options)
    for i in range(1, 6):
        feed(p, i)
        opt.step()
    np.testing.assert_allclose(p.array, end, rtol=1e-10)
    assert p.array is memory and p._version == 5 and opt.steps_taken == 5
    single = nn.Parameter(dg.tensor(START))
    opt = kind([single], **options)
    for i in range(1, 6):
        feed(single, i)
        opt.step()
    np.testing.assert_allclose(single.array, end, rtol=2e-5)


def test_amsgrad_remembers_the_largest() -> None:
    p = nn.Parameter(dg.tensor([1.0], dtype=dg.float64))
    opt = optim.Adam([p], lr=0.1, amsgrad=True)
    m = v = largest = 0.0
    x = 1.0
    for t, g in enumerate([10.0, 0.1, 0.1, 0.1], start=1):
        p.grad = dg.tensor([g], dtype=dg.float64)
        opt.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        largest = max(largest, v)
        x -= 0.1 / (1 - 0.9 ** t) * m / (math.sqrt(largest) / math.sqrt(1 - 0.999 ** t) + 1e-8)
        assert p.item() == pytest.approx(x, rel=1e-12)
    assert opt.state[p]["max_exp_avg_sq"].item() > opt.state[p]["exp_avg_sq"].item()


@every_kind
def test_parameters_without_gradients_are_left_alone(kind) -> None:
    a, b = parameter(), parameter()
    opt = kind([a, b], lr=0.1)
    feed(a, 1)
    opt.step()
    assert b.tolist() == START and b not in opt.state and b._version == 0
    b.grad = dg.zeros(2, 2, dtype=dg.float64)
    opt.step()
    if kind is not optim.SGD:
        assert opt.state[a]["step"].item() == 2 and opt.state[b]["step"].item() == 1


@every_kind
def test_state_goes_on_where_it_was(kind) -> None:
    options = {"lr": 0.05, **({"momentum": 0.9} if kind in (optim.SGD, optim.RMSprop) else {})}
    whole, part = parameter(), parameter()
    one, first = kind([whole], **options), kind([part], **options)
    for i in range(1, 4):
        for p, opt in ((whole, one), (part, first)):
            feed(p, i)
            opt.step()
    state = copy.deepcopy(first.state_dict())
    second = kind([part], lr=9.0)
    second.load_state_dict(state)
    for i in range(4, 7):
        for p, opt in ((whole, one), (part, second)):
            feed(p, i)
            opt.step()
    assert part.tolist() == whole.tolist() and second.param_groups[0]["lr"] == 0.05
    assert state["param_groups"][0]["params"] == [0] and set(state) == {"state", "param_groups"}
    assert any((state["state"][0][name] != value).any() for name, value in second.state[part].items()), "not a copy"


def test_state_in_torchs_format() -> None:
    p = parameter()
    opt = optim.Adam([p], lr=0.1)
    feed(p, 1)
    opt.step()
    assert list(opt.state_dict()["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]
    assert opt.state[p]["step"].dtype == dg.float32 and opt.state[p]["exp_avg"].dtype == dg.float64
    given = {"state": {0: {"step": dg.tensor(3.0), "exp_avg": dg.ones(2, 2), "exp_avg_sq": dg.ones(2, 2)}},
             "param_groups": [{"lr": 0.5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0, "amsgrad": False,
                               "maximize": False, "foreach": None, "decoupled_weight_decay": False, "params": [0]}]}
    opt.load_state_dict(given)
    assert opt.state[p]["exp_avg"].dtype == dg.float64 and opt.state[p]["step"].dtype == dg.float32
    opt.step()
    assert opt.state[p]["step"].item() == 4 and given["state"][0]["step"].item() == 3
    given["state"][0]["exp_avg"] = dg.ones(3)
    before = opt.state[p]["exp_avg"].tolist()
    with pytest.raises(ValueError, match="exp_avg"):
        opt.load_state_dict(given)
    assert opt.state[p]["exp_avg"].tolist() == before
    for groups in ([], [{"params": [0, 1]}]):
        with pytest.raises(ValueError):
            opt.load_state_dict({"state": {}, "param_groups": groups})


def test_groups_have_their_own_options() -> None:
    a, b, c = parameter(), parameter(), parameter()
    opt = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.1)
    opt.add_param_group({"params": [c], "lr": 0.0})
    for p in (a, b, c):
        p.grad = dg.ones(2, 2, dtype=dg.float64)
    opt.step()
    assert [p[0, 0].item() for p in (a, b, c)] == [0.4, -0.5, 0.5]
    opt.param_groups[2]["lr"] = dg.tensor(1.0)  # a rate may be a tensor
    opt.step()
    assert c[0, 0].item() == -0.5
    numbers = [group["params"] for group in opt.state_dict()["param_groups"]]
    assert numbers == [[0], [1], [2]]
    named = optim.SGD([("w", a), ("b", b)], lr=0.1)
    assert named.param_groups[0]["param_names"] == ["w", "b"] and named.param_groups[0]["params"] == [a, b]


@pytest.mark.parametrize(("error", "act"), [
    (ValueError, lambda p: optim.SGD([])),
    (TypeError, lambda p: optim.SGD(p)),
    (TypeError, lambda p: optim.SGD([1])),
    (TypeError, lambda p: optim.SGD([{"params": {p}}])),
    (ValueError, lambda p: optim.SGD([p, p])),
    (ValueError, lambda p: optim.SGD([{"params": [p]}, {"params": [p]}])),
    (ValueError, lambda p: optim.SGD([p * 2])),
    (ValueError, lambda p: optim.SGD([("a", p), parameter()])),
    (TypeError, lambda p: optim.SGD([p]).add_param_group([p])),
    (ValueError, lambda p: optim.SGD([p]).add_param_group({"params": [p]})),
    (ValueError, lambda p: optim.SGD([p], lr=-1)), (ValueError, lambda p: optim.SGD([p], momentum=-0.1)),
    (ValueError, lambda p: optim.SGD([p], nesterov=True)),
    (ValueError, lambda p: optim.SGD([p], momentum=0.9, dampening=0.1, nesterov=True)),
    (ValueError, lambda p: optim.Adam([p], betas=(1.0, 0.9))), (ValueError, lambda p: optim.Adam([p], eps=-1)),
    (ValueError, lambda p: optim.Adam([p], lr=math.nan)),
    (ValueError, lambda p: optim.RMSprop([p], alpha=-1)), (ValueError, lambda p: optim.Adagrad([p], lr_decay=-1)),
    (ValueError, lambda p: optim.SGD([{"params": [p], "lr": -1}])),
    (TypeError, lambda p: optim.Optimizer([p])),
])
def test_refusals(error, act) -> None:
    with pytest.raises(error):
        act(parameter())


def test_closures_hooks_and_zero_grad() -> None:
    p = parameter()
    opt = optim.SGD([p], lr=0.1)
    log = []
    opt.register_step_pre_hook(lambda o, args, kwargs: log.append("pre"))
    handle = opt.register_step_post_hook(lambda o, args, kwargs: log.append("post"))

    def closure():
        log.append("closure")
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with dg.no_grad():
        assert opt.step(closure).item() == pytest.approx(5.3125)
    assert log == ["pre", "closure", "post"] and p[0, 0].item() == pytest.approx(0.4)
    handle.remove()
    grad = p.grad
    opt.zero_grad(set_to_none=False)
    assert p.grad is grad and not grad.any()
    opt.zero_grad()
    assert p.grad is None
    opt.step()
    assert log[-1] == "pre"


def test_an_update_between_forward_and_backward_is_noticed() -> None:
    p = parameter()
    loss = (p * p).sum()
    opt = optim.SGD([p], lr=0.1)
    feed(p, 1)
    opt.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@every_kind
@pytest.mark.parametrize("layout", ["transposed", "strided", "scalar", "long"])
def test_any_memory_order(kind, layout) -> None:
    rng = np.random.default_rng(0)
    options = {"lr": 0.05, **({"momentum": 0.9} if kind in (optim.SGD, optim.RMSprop) else {})}
    plain = rng.standard_normal({"scalar": (), "long": (50_000,)}.get(layout, (4, 6)))
    arrange = {"transposed": lambda: np.array(plain.T, order="C").T, "strided": lambda: np.repeat(plain, 2, 1)[:, ::2]}
    array = arrange.get(layout, plain.copy)()
    a, b = nn.Parameter(dg.from_numpy(plain.copy())), nn.Parameter(dg.from_numpy(array))
    one, other = kind([a], **options), kind([b], **options)
    memory = b.array
    for _ in range(3):
        g = rng.standard_normal(plain.shape)
        a.grad, b.grad = dg.tensor(g), dg.tensor(g)  # here the gradient's order is not the parameter's
        one.step()
        other.step()
    assert b.array is memory and np.array_equal(a.array, b.array)


def test_complex_parameters_are_pairs_of_real_ones() -> None:
    z, pair = nn.Parameter(dg.tensor([1 + 2j, -1j])), nn.Parameter(dg.tensor([[1.0, 2.0], [0.0, -1.0]]))
    one, other = optim.Adam([z], lr=0.1), optim.Adam([pair], lr=0.1)
    for _ in range(3):
        z.grad, pair.grad = dg.tensor([2 + 1j, 1 - 1j]), dg.tensor([[2.0, 1.0], [1.0, -1.0]])
        one.step()
        other.step()
    assert np.allclose(z.array.view(np.float32).reshape(2, 2), pair.array)


def test_a_users_optimizer() -> None:
    class Sign(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @dg.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad.sign() * group["lr"])

    p = parameter()
    feed(p, 1)
    Sign([p], lr=0.5).step()
    assert p.tolist() == [[0.0, -0.5], [2.5, -0.25]]
    q = parameter()
    feed(q, 1)
    with pytest.raises(NotImplementedError):
        optim.Optimizer([q], {}).step()


def test_repr() -> None:
    assert repr(optim.SGD([parameter()], lr=0.5)) == """SGD (
Parameter Group 0
    dampening: 0
    lr: 0.5
    maximize: False
    momentum: 0
    nesterov: False
    weight_decay: 0
)"""


def test_learning_to_divide_the_plane() -> None:
    dg.manual_seed(0)
    x = dg.randn(256, 2)
    target = ((x[:, 0] * x[:, 1]) > 0).long()
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    opt = optim.Adam(net.parameters(), lr=0.02)
    first = last = nn.functional.cross_entropy(net(x), target)
    for _ in range(150):
        opt.zero_grad()
        last = nn.functional.cross_entropy(net(x), target)
        last.backward()
        nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        opt.step()
    assert last.item() < 0.2 < first.item()


def test_gradients_that_were_forgotten_are_not_kept():
    p = dg.nn.Parameter(dg.ones(100))
    opt = optim.Adam([p])
    for step in range(4):
        (p * p).sum().backward()
        opt.step()
        memory = weakref.ref(p.grad.array)
        opt.zero_grad()
        assert step == 0 or memory() is None  # the first might have been in memory that stays
