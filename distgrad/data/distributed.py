"""One order, shared by replicas: which samples each of them reads, and how far all of them have come.

Replicas are two plain numbers. Where they are not given, a callable says them, which whoever knows the
ranks has left here (`use_world`); this module knows no communicator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np

from ..config import launcher
from .resumable import ResumableSampler, require_count, require_state

__all__ = ["DistributedSampler", "this_replica", "use_world"]


def _launched() -> tuple[int, int]:
    """What the launcher said, for a program that never asked for ranks; alone without one."""
    found = launcher()
    if found is None:
        return 1, 0
    if found.size is None or found.rank is None:
        raise RuntimeError(f"{found.name} does not say how many ranks there are: pass num_replicas and rank")
    return found.size, found.rank


_ask: Callable[[], tuple[int, int]] = _launched
_final = False


def use_world(ask: Callable[[], tuple[int, int]], final: bool = False) -> None:
    """Let `ask()` say how many replicas there are and which one asks, from now on; `final`, whoever comes later."""
    global _ask, _final
    if not _final:
        _ask, _final = ask, final


def this_replica() -> tuple[int, int]:
    """(how many replicas there are, which one this is), as far as it is known here."""
    return _ask()


class DistributedSampler(ResumableSampler):
    """The indices that one of several replicas reads: every num_replicas-th, beginning at its rank.

    The order of all samples depends on the seed and the epoch alone, not on the replicas. Replicas take
    turns in it: after k samples on each of R replicas, the first k * R of the order are consumed. So

    - batches of `global_batch // R` on each replica make the same global batches for every R, up to the
      last one;
    - the state is a place in that order, the same on every replica, as long as they have been handed
      equally many batches; a replica that has come to its end says that all is consumed;
    - a state that was saved on R replicas loads on any other number: the rest of the order is shared
      among those that are there now, and no sample is lost or read twice (but for padding).

    Args:
        dataset: what is read, or its length.
        num_replicas, rank: how many there are, and which one this is; default the world's size and rank.
        shuffle: a new random order for every epoch; False reads in order.
        seed: the same on all replicas.
        drop_last: leave out up to num_replicas - 1 samples at the end, so that all replicas have the
            same number.
        pad: without drop_last, repeat samples from the beginning of the order, so that all replicas have
            the same number, as torch does. False reads every sample exactly once: the first replicas may
            have one more than the others, which `model.backward(loss, weight=n)` and `Join` take care of.

    `len()` is how many indices a whole epoch has here, also where the next pass is only the rest of one.

    Raises:
        ValueError: a rank outside of [0, num_replicas), or a negative length or seed.
    """

    def __init__(self, dataset: Sized | int, num_replicas: int | None = None, rank: int | None = None,
                 shuffle: bool = True, seed: int = 0, drop_last: bool = False, *, pad: bool = True) -> None:
        if num_replicas is None or rank is None:
            size, here = this_replica()
            num_replicas = size if num_replicas is None else num_replicas
            rank = here if rank is None else rank
        self.num_replicas = require_count("num_replicas", num_replicas, 1)
        self.rank = require_count("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(f"rank {rank} is not one of {num_replicas} replicas: ranks count from 0")
        self.seed = require_count("seed", seed, 0)
        if isinstance(dataset, int):
            require_count("the length of the dataset", dataset, 0)
        for name, flag in (("shuffle", shuffle), ("drop_last", drop_last), ("pad", pad)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} is True or False, got {flag!r}")
        self.dataset = dataset
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.pad = pad
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: call it before each pass, with the same number on all replicas.

        The epoch of a state that was loaded goes on where it was; any other one begins at its beginning.
        """
        if require_count("epoch", epoch, 0) != self.epoch:
            self.epoch = int(epoch)
            self._start, self._resume = 0, False
            self.mark(0)

    @property
    def entropy(self) -> tuple[int, ...]:
        """What the random streams of an epoch's batches begin from."""
        return self.seed, self.epoch

    @property
    def _total(self) -> int:
        return self.dataset if isinstance(self.dataset, int) else len(self.dataset)

    def _count_here(self, samples: int) -> int:
        """How many of so many samples this replica has."""
        if self.drop_last:
            return samples // self.num_replicas
        return max(0, -(-(samples if self.pad else samples - self.rank) // self.num_replicas))

    def __len__(self) -> int:
        return self._count_here(self._total)

    def _rest(self, consumed: int) -> np.ndarray:
        n = self._total
        count = self._count_here(n - consumed)
        places = (consumed + self.rank + self.num_replicas * np.arange(count)) % max(n, 1)
        if not self.shuffle:
            return places
        # Seed and epoch are mixed, not added: seed 1, epoch 0 is not seed 0, epoch 1.
        return np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(n)[places]

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, of JSON types only, the same on every replica: save rank 0's.

        `consumed` samples of the epoch's order have been handed out by all replicas together; what a
        loader has read ahead does not count.
        """
        return {"epoch": self.epoch, "seed": self.seed, "shuffle": self.shuffle, "consumed": self.consumed,
                "length": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next pass has what is left of its epoch, for these replicas.

        Epoch and seed become those of the state. A finished epoch's rest has no samples: go on with the
        next by `set_epoch`.

        Raises:
            TypeError, KeyError: not a state of a DistributedSampler.
            ValueError: a state of data of another length, or of the other `shuffle`.
        """
        what = "DistributedSampler"
        require_state(what, state, {"epoch": int, "seed": int, "shuffle": bool})
        if state["shuffle"] != self.shuffle:
            raise ValueError(f"{what} state: its order is of shuffle={state['shuffle']}, and here it is {self.shuffle}")
        self._load(what, state)
        self.epoch, self.seed = int(state["epoch"]), int(state["seed"])
