"""The reducer of one model: turns its ranks' gradients into their mean while backward runs.

It has no flags: the engine says which leaves a backward reaches, a bucket launches when those in it
have arrived, and at the end what is missing counts as zero. Every rank launches every bucket in the
same order, so branches may differ between ranks. `session` orders several models.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

from ..backend import Collectives, of
from ..comm import Communicator
from ..errors import CommError, rank_prefix
from ..flat import Group, Placement, State, not_finite
from ..graph.engine import Run
from ..graph.places import beside
from .bucket import Bucket
from .control import Control, Flag, Kind, Report, compare
from .exchange import Exchange
from .stopping import this_process_was_asked
from .weights import Weights

__all__ = ["Reducer"]

_created = count().__next__
_HAS, _LATE = 1, 2  # bits of a parameter in a report
_PLAIN, _WEIGHTED, _STOP = int(Kind.PLAIN), int(Kind.WEIGHTED), int(Flag.STOP)


class Reducer:
    """Buckets of one model's groups, how they are exchanged, and how the ranks hear of each other.

    Attributes:
        comm: for collectives of the main thread.
        index: the order of creation, the same on every rank, which orders models on the wire.
        sync: False inside `no_sync()`: gradients stay this rank's own.
        weights: what `model.backward` was given since the gradients were last empty.
        flags: what this rank tells the others with its next message.
        reports: what all ranks said at the end of the last backward.
        nonfinite: what becomes of a mean with NaN or inf: 'propagate', 'raise' or 'skip_step'.
        skipped: how many steps were given up for it.
    """

    def __init__(self, groups: Sequence[Group], comm: Communicator, exchange: Exchange, control: Control, *,
                 overlap: bool, nonfinite: str, label: str, collectives: Collectives | None = None) -> None:
        """
        Args:
            comm: the reducer's own; it closes it.
            collectives: those among devices, if the exchange takes them.
        """
        self.index = _created()
        self.label = label
        self.groups = list(groups)
        self.exchange = exchange
        self.sync = True
        self.overlap = overlap
        self.comm = comm
        self.control = control
        self.collectives = collectives
        self.buckets: list[Bucket] = []
        self._of: dict[Placement, list[Bucket]] = {}
        for group in self.groups:
            first = len(self.buckets)
            for begin, end in group.layout.buckets:
                self.buckets.append(Bucket(len(self.buckets), group, begin, end))
            for placement in group.placements:
                touched = [self.buckets[first + i] for i in group.layout.buckets_of(placement.slot)]
                self._of[placement] = touched
                for bucket in touched:
                    bucket.placements.append(placement)
        self.placements = [p for group in self.groups for p in group.placements]
        self.weights = Weights()
        self.seed: float | None = None  # the weight of the `model.backward` that runs
        self._weight: float | None = None
        self.flags = 0
        self.reports: list[Report] = []
        self.nonfinite = nonfinite
        self.skipped = 0
        self._since = time.perf_counter()
        self._error = ""
        self._next = 0

    def note_backward(self) -> None:
        """A backward of this model begins, reduced or not: does it go with those before it?

        Raises:
            RuntimeError: plain and weighted backwards were mixed.
        """
        given_up = [p for p in self.placements if p.slot.index in p.group.given_up]
        left = [p for p in self.placements if p.leaf_grad_is_home() and p.slot.index not in p.group.given_up]
        for group in self.groups:
            group.given_up.clear()
        if not left and (given_up or self.weights.local == 0):
            self.weights.reset()
        elif given_up and self.weights.weighted:
            raise RuntimeError(f"{self.label}: since the last model.backward(loss, weight) the gradients of some "
                               f"parameters (such as {given_up[0].slot.name!r}) were set to None or zero, of others "
                               "not: a model's gradients share their weights, so they are forgotten together")
        self.weights.note(self.seed, self.label)

    def begin(self, run: Run | None) -> None:
        """A backward that reduces begins: count what each bucket will get. Without a run, nothing will come.

        Raises:
            RuntimeError: it was asked to build a graph of itself, which a reduction cannot be part of; its
                loss does not depend on the model; or plain and weighted backwards were mixed.
        """
        self._next = 0
        self._error = ""
        for bucket in self.buckets:
            bucket.reset()
            bucket.expect(0 if run is None else sum(self._reached(p, run) for p in bucket.placements))
        problem = None
        for look in (self.note_backward, partial(self._check, run)):
            try:
                look()
            except RuntimeError as error:
                problem = problem or error
        self._weight = self.weights.take_local() if self.weights.weighted else None
        self.exchange.begin(self._weight, self.weights.total)
        for group in self.groups:
            group.sums_elsewhere = self._weight is not None
            if group.state is State.REDUCED:
                with beside((group.flat,)):
                    group.begin_round()
        if problem is not None:
            raise problem

    def _check(self, run: Run | None) -> None:
        if run is None:
            return
        if run.create_graph:
            raise RuntimeError(f"{self.label}: backward(create_graph=True) cannot reduce gradients over ranks; run it "
                               "inside no_sync(), or use autograd.grad")
        if self.seed is not None and not any(self._reached(p, run) for p in self.placements):
            raise RuntimeError(f"{self.label}: the loss given to model.backward does not depend on its parameters")

    @staticmethod
    def _reached(placement: Placement, run: Run) -> bool:
        leaf = placement.leaf
        return leaf in run.leaves and (run.accumulate is None or leaf in run.accumulate)

    def arrived(self, placement: Placement) -> None:
        """A parameter's gradient is in its slot."""
        for bucket in self._of[placement]:
            bucket.mark_ready()

    def advance(self) -> bool:
        """Launch the buckets that are ready, strictly in order; True when all are on their way."""
        while self._next < len(self.buckets) and self.buckets[self._next].ready:
            self._launch_next()
        self.exchange.progress()
        return self._next == len(self.buckets)

    def launch_rest(self) -> None:
        """At the end of backward nothing more will come."""
        while self._next < len(self.buckets):
            self._launch_next()

    def _launch_next(self) -> None:
        bucket = self.buckets[self._next]
        self._next += 1
        bucket.close()
        self.exchange.launch(bucket)

    def finish(self) -> None:
        """Wait for all buckets, learn which parameters any rank used, and give them their mean.

        The message is heard after the exchange has ended or, on devices, is queued on all ranks; see
        [Note: collectives on devices] in nccl_exchange.

        Raises:
            RankFailedError: another rank's backward raised, or was of another kind than this one's.
            CommError: this rank's device can exchange nothing any more.
        """
        lost = self._look_at_device()
        heard = False
        try:
            self.control.say(self._report(lost))
            self.exchange.finish()
            self.reports = reports = self.control.hear()
            heard = not any(report.flags & Flag.LOST for report in reports)
            if lost is not None:
                raise lost
            compare(reports, self.comm.rank, self.label)
        except BaseException:
            if self.collectives is not None and not heard:  # a sum may be queued that never ends
                self.collectives.abort()
            for group in self.groups:
                with beside((group.flat,)):
                    group.give_up_round()
            raise
        finally:
            for bucket in self.buckets:
                bucket.reset()
            self._since = time.perf_counter()
        if self._weight is not None:
            for report in reports:
                self.weights.total += report.weight
            self.exchange.divide(self.weights.total or 1.0)
        for group in self.groups:
            with beside((group.flat,)):
                group.end_round()
        self._hand_out([report.bits for report in reports])
        for group in self.groups:
            if not group.live:
                group.forget()
            group.remember()
        if self.nonfinite != "propagate":
            self._look_for_nonfinite()

    def _look_for_nonfinite(self) -> None:
        """Decided on every rank alike, from sums that every rank has: no message where the reduction took them."""
        found = [name for group in self.groups for name in not_finite(group)]
        if not found:
            return
        if self.nonfinite == "raise":
            raise RuntimeError(f"{rank_prefix()}{self.label}: the mean of the gradients is not finite, in or near "
                               f"{', '.join(map(repr, found[:5]))}{' and others' if len(found) > 5 else ''}")
        self.skipped += 1
        for placement in self.placements:
            placement.assign(placement.leaf, None)

    def _look_at_device(self) -> CommError | None:
        """What has failed between the devices, as far as this one knows by now."""
        if self.collectives is not None:
            try:
                self.collectives.check()
            except CommError as error:
                self._error = self._error or f"{type(error).__name__}: {error}"
                return error
        return None

    def _report(self, lost: CommError | None) -> Report:
        kind = _PLAIN if self._weight is None else _WEIGHTED
        bits = bytes([_HAS * p.filled | _LATE * (p.late is not None) for p in self.placements])
        flags = self.flags | _STOP if this_process_was_asked() else self.flags
        if lost is not None:
            flags |= Flag.LOST
        return Report(kind, flags, self._weight or 0.0, time.perf_counter() - self._since, self._mark(),
                      self._error, bits)

    def _mark(self) -> int:
        """One fingerprint of all groups' last steps."""
        mark = 0
        for group in self.groups:
            mark = mark * 31 + group.mark
        return mark & 0xFFFFFFFFFFFFFFFF

    def _hand_out(self, bits: Sequence[bytes]) -> None:
        """Every parameter that any rank used has a gradient."""
        together = 0
        for each in bits:
            together |= int.from_bytes(each, "little")
        for placement, has in zip(self.placements, together.to_bytes(len(self.placements), "little"), strict=True):
            if has & _LATE:
                with beside((placement.home,)):
                    self._reduce_late(placement)
            if has:
                placement.hold()
            placement.filled = False

    def abandon(self, error: Exception) -> None:
        """This rank's backward raised: take part to the end all the same, and tell the others why."""
        self._error = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):  # what the others or a comm hook have to say: this rank's error is raised
            self.launch_rest()
            self.finish()

    def _reduce_late(self, placement: Placement) -> None:
        """A gradient that came after its bucket had left (a backward inside a hook): reduced by itself."""
        target = placement.home.array
        xp = of(target).xp
        send = xp.zeros(target.shape, target.dtype) if placement.late is None else xp.ascontiguousarray(placement.late)
        recv = xp.empty_like(send)
        self.comm.allreduce(send, recv, mean=self._weight is None)
        if self._weight is not None:
            recv /= recv.dtype.type(self.weights.total or 1.0)
        target += recv
        placement.group.partials = None
        placement.late = None

    def gather(self, part: Any, counts: list[int]) -> Any:
        """All ranks' float64 partial sums, in rank order; `counts` says how many each rank has."""
        whole = of(part).xp.empty(sum(counts), part.dtype)
        self.comm.allgatherv(of(part).xp.ascontiguousarray(part), whole, counts)
        return whole

    def close(self) -> None:
        """Give back communicators and thread; collective."""
        self.exchange.close()
        self.comm.close()
