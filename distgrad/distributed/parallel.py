"""DataParallel: a module whose gradients are the mean over all ranks.

It owns the flat groups and the reducer; forward, names and state_dict are the module's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from .._tensor.creation import full_like
from .._typing import Array
from ..backend import device_of, of
from ..comm import nodes
from ..comm.shared import NodeMemory, node_memory
from ..comm.staging import on_host
from ..config import config
from ..errors import rank_prefix
from ..flat import GRID, Group, Layout, Placement, State, plan
from ..graph.base import wrap
from ..graph.hooks import leaf_hooks
from ..graph.modes import is_grad_enabled
from ..graph.places import beside
from ..nn import Module
from . import session
from .alone import AloneExchange
from .bucket import Hook
from .control import Flag, NodeControl, WireControl, message_room
from .exchange import Exchange, NodeExchange
from .reducer import Reducer
from .staged import staged, standing_in, twin_of
from .stopping import this_process_was_asked
from .transport import choose, join_devices
from .turns import name_of
from .verify import broadcast_tensors, verify_same
from .weights import checked_weight
from .world import as_communicator

__all__ = ["DataParallel"]


class DataParallel:
    """Wrap a module so that `backward` leaves in every `.grad` the mean over the ranks.

    Parameters and buffers are compared over the ranks and taken from rank 0. Attributes pass through
    to the module, so state_dict has the module's own names; `dp.module` is the module itself.

    Args:
        module: the model; its parameters stay where they are, their gradients move to flat memory.
        comm: None for the world, or any mpi4py intracommunicator (it is duplicated). Collective.
        bucket_bytes: how much is reduced at a time; default DISTGRAD_BUCKET_BYTES, or 4 MiB on one node, 1 MiB
            between nodes, where the last bucket's way over the network is hidden by nothing, and 25 MiB by NCCL,
            whose sums of little data take as long as those of more.
        overlap: reduce while backward still runs.
        transport: 'nccl' reduces from device to device, for ranks on CUDA devices of their own; 'shared' in memory
            that the ranks of a node share, and between nodes in lanes, one for each rank of a node; 'mpi' sends
            everything over MPI. 'auto' takes NCCL for parameters on devices, if it can be had and there is no hook,
            else shared memory where every node can have it and the hook, if any, acts between nodes. By all ways but
            NCCL gradients on a device pass through the host. The attribute says what it came to: 'nccl' (for
            parameters on devices; any others go their own way), 'shared' (one node), 'lanes' or 'mpi'.
        hook: how a bucket is reduced, `hook(bucket, comm) -> Work`; default the mean in rank order. Those of
            `distributed.hooks` that compress, and others marked with `between_nodes`, act on what is sent between
            nodes and leave 'auto' its choice; any other gets every rank's own gradients, over MPI. What it raises
            on one rank, backward raises on every rank.
        nonfinite: what happens when a reduced gradient holds NaN or inf, decided on all ranks alike: 'propagate'
            leaves it there, 'raise' raises from backward on every rank, 'skip_step' forgets the gradients, so that
            the optimizer has nothing to do, and counts it in `skipped_steps`.
        buffers: 'broadcast' takes them from rank 0 when wrapping and before `state_dict`; 'local'
            leaves them alone.

    Raises:
        TypeError: no Module, or no communicator.
        ValueError: an option that does not exist, or a communicator that is freed or null.
        RuntimeError: the module is wrapped already, or the transport that was asked for is not possible here.
        CollectiveMismatchError: the ranks' models differ; names the first parameter that does.
    """

    def __init__(self, module: Module, comm: Any = None, *, bucket_bytes: int | None = None, overlap: bool = True,
                 transport: str = "auto", hook: Hook | None = None, nonfinite: str = "propagate",
                 buffers: str = "broadcast") -> None:
        if not isinstance(module, Module):
            raise TypeError(f"DataParallel wraps an nn.Module, got {type(module).__name__}")
        if transport not in ("auto", "nccl", "shared", "mpi"):
            raise ValueError(f"transport is 'auto', 'nccl', 'shared' or 'mpi', got {transport!r}")
        if buffers not in ("broadcast", "local"):
            raise ValueError(f"buffers is 'broadcast' or 'local', got {buffers!r}")
        if nonfinite not in ("propagate", "raise", "skip_step"):
            raise ValueError(f"nonfinite is 'propagate', 'raise' or 'skip_step', got {nonfinite!r}")
        if bucket_bytes is not None and bucket_bytes <= 0:
            raise ValueError(f"bucket_bytes is positive, got {bucket_bytes}")
        communicator = as_communicator(comm)
        one_node = len(nodes(communicator)) == 1  # collective: asked on every rank, whatever its options
        bucket_bytes = bucket_bytes or config.bucket_bytes
        named = [(name, p) for name, p in module.named_parameters() if p.dtype.kind in "fc"]
        for name, p in named:
            if p.placement is not None:
                raise RuntimeError(f"parameter {name!r} belongs to {p.placement.group.label} already; a module is "
                                   "wrapped once, by one rank (simulated ranks each build their own)")
        label = f"DataParallel({type(module).__name__})"
        settings = {"bucket_bytes": bucket_bytes, "nonfinite": nonfinite,
                    "hook": None if hook is None else name_of(hook)}
        verify_same([*module.named_parameters(), *module.named_buffers()], settings, communicator, label)
        self.module = module
        self.comm = communicator
        self._buffers_mode = buffers
        self._nonfinite = nonfinite
        broadcast_tensors([p for _, p in module.named_parameters()], communicator)
        if buffers == "broadcast":
            broadcast_tensors([b for _, b in module.named_buffers()], communicator)
        kinds = _by_kind(named)
        devices = join_devices(transport, hook, communicator, kinds)
        bucket_bytes = bucket_bytes or (25 << 20 if devices else 4 << 20 if one_node else 1 << 20)
        layouts = [plan([(name, p.array) for name, p in members], bucket_bytes) for members in kinds]
        there = [not on_host(members[0][1].array) for members in kinds]
        chosen = choose(transport, hook, communicator, layouts, devices, there)
        self.transport = chosen.name
        self._groups: list[Group] = []
        self._twins: dict[Group, Group] = {}  # in host memory, of groups on a device
        alone = communicator.size == 1 and hook is None
        for members, layout, host in zip(kinds, layouts, chosen.flats.mine, strict=True):
            like = members[0][1].array
            flat, twin = twin_of(layout, like, None if alone and not on_host(like) else host, label)
            self._groups.append(_place(members, layout, flat, label))
            if twin is not None:
                self._twins[self._groups[-1]] = twin
        self._reducer: Reducer | None = None
        if not alone:
            own = communicator.dup()
            control = NodeControl(chosen.ground, len(named)) if isinstance(chosen.ground, NodeMemory) \
                else WireControl(own)
            exchange = staged(chosen.exchange(standing_in(self._groups, self._twins)), self._twins)
            self._reducer = Reducer(self._groups, own, exchange, control, overlap=overlap, nonfinite=nonfinite,
                                    label=label, collectives=chosen.collectives)
            _connect(self._reducer)
            for group in self._groups:
                group.collectives = None if on_host(group.flat) else chosen.collectives
        elif nonfinite != "propagate":
            self._ensure_reducer()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward. In grad mode, the next backward reduces this model."""
        reducer = self._reducer
        if reducer is not None and reducer.sync and is_grad_enabled():
            session.announce(reducer)
        return self.module(*args, **kwargs)

    forward = __call__

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Inside, backward leaves gradients unreduced; the next one outside reduces their sum."""
        reducer = self._reducer
        if reducer is None:
            yield
            return
        before, reducer.sync = reducer.sync, False
        try:
            yield
        finally:
            reducer.sync = before

    def backward(self, loss: Any, weight: float = 1.0, *, retain_graph: bool | None = None) -> None:
        """Backward of a loss that weighs `weight` samples (or tokens): the exact mean over uneven batches.

        The step's gradient is sum(n_i g_i) / sum(n_i) over all ranks and all successive calls since
        `zero_grad`; hooks see the weighted gradient n_i g_i. Inside `no_sync()` nothing is exchanged, and
        the next call outside takes what was gathered with it.

        Args:
            loss: one element, the mean over this rank's samples; None, with weight 0, on a rank without data.
            weight: how much this loss counts.

        Raises:
            TypeError, ValueError: the weight is no number, or negative, NaN or infinite.
            RuntimeError: plain `loss.backward()` was used since zero_grad, or the loss does not depend on
                the model. What is wrong on one rank raises RankFailedError on the others.
        """
        seed = checked_weight(weight)
        if loss is None and seed:
            raise ValueError(f"backward: without a loss the weight is 0, got {weight}")
        if loss is not None and loss.numel() != 1:
            raise RuntimeError(f"backward: a loss is one element, the mean over this rank's samples, got shape "
                               f"{tuple(loss.shape)}")
        reducer = self._ensure_reducer()
        reducer.seed = seed
        try:
            if loss is None:
                if reducer.sync:
                    session.reduce_nothing(reducer)
                return
            if reducer.sync:
                session.announce(reducer)  # also where the loss turns out not to depend on the model
            else:
                reducer.note_backward()
            loss.backward(full_like(loss, seed), retain_graph=retain_graph)
        finally:
            reducer.seed = None

    @property
    def buffers_are_local(self) -> bool:
        """Whether each rank has buffers of its own; see `buffers`."""
        return self._buffers_mode == "local"

    @property
    def skipped_steps(self) -> int:
        """How many backwards left no gradients because they were not finite; see `nonfinite`."""
        return 0 if self._reducer is None else self._reducer.skipped

    @property
    def work_seconds(self) -> list[float]:
        """For each rank, how long it worked between the end of the last backward but one and its own end of the last
        one, waiting not counted: who is slow makes the others wait."""
        return [] if self._reducer is None else [report.seconds for report in self._reducer.reports]

    def request_stop(self) -> None:
        """Ask all ranks to stop: `stop_requested` turns true on all of them after the next backward."""
        self._ensure_reducer().flags |= Flag.STOP

    @property
    def stop_requested(self) -> bool:
        """Whether any rank was asked to stop before the last backward, by `request_stop` or by a signal; the same
        answer on every rank. See `stop_on_signals`."""
        if self._reducer is None:
            return this_process_was_asked()
        return any(report.flags & Flag.STOP for report in self._reducer.reports)

    @property
    def out_of_data(self) -> bool:
        """Whether this rank has no more data; `Join` sets it."""
        return self._reducer is not None and bool(self._reducer.flags & Flag.JOINED)

    @out_of_data.setter
    def out_of_data(self, value: bool) -> None:
        reducer = self._ensure_reducer()
        reducer.flags = reducer.flags | Flag.JOINED if value else reducer.flags & ~Flag.JOINED

    @property
    def all_out_of_data(self) -> bool:
        """Whether all ranks had none at the last backward."""
        return self._reducer is not None and all(report.flags & Flag.JOINED for report in self._reducer.reports)

    def _ensure_reducer(self) -> Reducer:
        """A world of one has no reducer until a weighted backward asks for what it keeps."""
        if self._reducer is None:
            count = sum(len(group.placements) for group in self._groups)
            memory = node_memory(self.comm, message_room(count))
            assert isinstance(memory, NodeMemory)
            here = [group for group in self._groups if on_host(group.flat)]
            partials = [[of(group.flat).xp.zeros(group.layout.size // GRID)] for group in here]
            exchange: Exchange = NodeExchange(here, memory, [[group.flat] for group in here], partials)
            if len(here) < len(self._groups):
                exchange = AloneExchange([group for group in self._groups if group not in here], exchange)
            self._reducer = Reducer(self._groups, self.comm.dup(), exchange, NodeControl(memory, count), overlap=False,
                                    nonfinite=self._nonfinite, label=self._groups[0].label)
            _connect(self._reducer)
        return self._reducer

    def full_grad(self, parameter: Any) -> Any:
        """A parameter's reduced gradient as a new tensor, also where gradients are sharded. Collective.

        None if the parameter has none.

        Raises:
            ValueError: the parameter is not one of this model's.
            RuntimeError: the gradients were not reduced yet.
        """
        placement = parameter.placement
        if placement is None or placement.group not in self._groups:
            raise ValueError(f"full_grad: a parameter of shape {tuple(parameter.shape)} does not belong to this model")
        if not placement.leaf_grad_is_home():
            return None
        group = placement.group
        if group.state is State.LOCAL and group.ranks > 1:
            raise RuntimeError(f"{rank_prefix()}full_grad: the gradients of {group.label} were not reduced yet")
        if group.peers is None:
            return parameter.grad.clone()
        flat = group.collect()
        with beside((flat,)):
            return wrap(placement.slot.view(flat).copy())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The module's state_dict, under the module's own names. Collective: buffers come from rank 0."""
        if self._buffers_mode == "broadcast":
            broadcast_tensors([b for _, b in self.module.named_buffers()], self.comm)
        found: dict[str, Any] = self.module.state_dict(*args, **kwargs)
        return found

    def close(self) -> None:
        """Give communicators and thread back, and the parameters their freedom. Collective."""
        for placement in [p for group in self._groups for p in group.placements]:
            leaf = placement.leaf
            placement.group.settle()
            if leaf is not None and placement.group.peers is not None:
                leaf.grad = None  # only its owners have it
            if leaf is not None:
                leaf.placement = None
                if leaf.hooks is not None:
                    leaf.hooks.last = None
        if self._reducer is not None:
            self._reducer.close()

    def __getattr__(self, name: str) -> Any:
        if name == "module":  # not there yet: the constructor raised
            raise AttributeError(name)
        return getattr(self.module, name)

    def __repr__(self) -> str:
        inner = repr(self.module).replace("\n", "\n  ")
        return f"DataParallel(\n  (module): {inner}\n)"


def _by_kind(named: list[tuple[str, Any]]) -> list[list[tuple[str, Any]]]:
    """Parameters of one (dtype, device) together: a flat group for each."""
    kinds: dict[Any, list[tuple[str, Any]]] = {}
    for name, p in named:
        kinds.setdefault((p.dtype, device_of(p.array)), []).append((name, p))
    return list(kinds.values())


def _place(members: list[tuple[str, Any]], layout: Layout, flat: Array, label: str) -> Group:
    """A group over `flat`, with every parameter placed in its slot."""
    group = Group(layout, flat, label=label)
    for slot, (_, p) in zip(layout.slots, reversed(members), strict=True):
        before = p.grad
        p.grad = None
        p.placement = Placement(group, slot, wrap, weakref.ref(p))
        if before is not None:
            with beside((flat,)):
                p.grad = before
    return group


class _Arrival(partial):  # type: ignore[type-arg]
    """The last hook of a wrapped leaf; carries its reducer so that a session can find it."""

    reducer: Reducer


def _connect(reducer: Reducer) -> None:
    """Let the reducer hear of every gradient, and the groups share the work of passes over them."""
    for group in reducer.groups:
        group.share_among(reducer.comm.rank, reducer.comm.size, [(0, group.layout.size)])
        group.gather, group.comm = reducer.gather, reducer.comm
        if isinstance(reducer.exchange, NodeExchange):
            group.shard = partial(reducer.exchange.shard, group)
    session.watch()
    for placement in reducer.placements:
        hook = _Arrival(lambda _leaf, placement=placement: session.arrived(reducer, placement))
        hook.reducer = reducer
        leaf_hooks(placement.leaf).last = hook
