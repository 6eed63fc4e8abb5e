"""Workers as processes: the batches of threads, errors with what happened there, and none is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.data import DataLoader, TensorDataset
from tests.data.readers import (
    Broken,
    Deadly,
    Noisy,
    Pair,
    Part,
    Seen,
    Slow,
    Stuck,
    Texts,
    Whole,
    fail_to_begin,
    halve,
    odd_object,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def processes(*args, **options) -> DataLoader:
    return DataLoader(*args, **{"num_workers": 2, "worker": "process", **options})


def values(loader: DataLoader) -> list:
    return [[part.tolist() for part in batch] for batch in loader]


def test_batches_are_those_of_threads_and_of_no_workers() -> None:
    found = []
    for options in ({"num_workers": 0}, {"num_workers": 3, "worker": "thread"}, {"worker": "process"}):
        loader = processes(Noisy(11, slow=0.002), 3, shuffle=True, generator=dg.Generator(3), **options)
        dg.manual_seed(5)
        found.append([values(loader), values(loader)])
    assert found[0] == found[1] == found[2]
    assert sorted(i for batch in found[0][0] for i in batch[0]) == list(range(11))
    assert found[0][0] != found[0][1]


def test_everything_that_a_batch_is_made_of_comes_back() -> None:
    one, two = (list(DataLoader(Texts(), 4, num_workers=n, worker="process")) for n in (0, 1))
    assert repr(one) == repr(two) and type(two[0]["pair"]) is Pair
    assert two[0]["image"].dtype == np.uint8 and two[0]["image"].shape == (4, 64, 64)
    two[0]["image"][0] = 7  # a batch may be written to
    assert one[0]["raw"] == [bytes([i]) for i in range(4)]


def test_large_batches_of_a_tensor_dataset() -> None:
    x = dg.randn(40, 5000)
    found = dg.cat([batch[0] for batch in processes(TensorDataset(x), 10)])
    np.testing.assert_array_equal(found.numpy(), x.numpy())


def test_exceptions_carry_the_traceback_of_their_process() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError, match="sample 5 is broken") as caught:
        for batch in processes(Broken(12), 2):
            seen.append(batch.tolist())
    assert seen == [[0, 1], [2, 3]]
    text = "".join(traceback.format_exception(caught.value))
    assert "__getitem__" in text and "in DataLoader, batch 2, samples [4, 5]" in text
    assert "worker process 0 (pid" in text
    with pytest.raises(FileNotFoundError, match=r"worker \d finds nothing"):
        list(processes(Noisy(4), worker_init_fn=fail_to_begin))
    with pytest.raises(TypeError, match=r"worker process sends tensors.*not object"):
        list(processes(Noisy(4), collate_fn=odd_object))


def test_a_killed_worker_is_named() -> None:
    seen = []
    with pytest.raises(RuntimeError, match=r"DataLoader worker process 1 \(pid \d+\) was ended by SIGKILL"):
        for batch in processes(Deadly(12), 1):
            seen.append(batch.item())
    assert seen == [0, 1, 2, 3, 4]
    loader = processes(Slow(1000, slow=0.001), persistent_workers=True)
    with pytest.raises(RuntimeError, match="SIGKILL"):
        for number, _ in enumerate(loader):
            if number == 3:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    assert next(iter(loader)).item() == 0, "new workers take the place of those that ended"
    victim = multiprocessing.active_children()[0]
    victim.kill()
    victim.join()
    with pytest.raises(RuntimeError, match="SIGKILL"):
        iter(loader)
    assert len(list(zip(loader, range(3)))) == 3
    del loader


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.02])
def test_a_kill_at_any_moment_hangs_nothing(delay: float) -> None:
    loader = processes(TensorDataset(dg.randn(20_000, 100)), 20)
    iterator = iter(loader)
    next(iterator)
    victim = multiprocessing.active_children()[0].pid
    killer = threading.Timer(delay, os.kill, (victim, signal.SIGKILL))
    killer.start()
    with pytest.raises(RuntimeError, match=rf"pid {victim}\) was ended by SIGKILL"):
        for _ in iterator:
            pass
    killer.join()
    assert not multiprocessing.active_children()


def test_a_worker_that_is_too_slow() -> None:
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"batch 1 did not come within 2\.5 s"):
        list(processes(Stuck(3), timeout=2.5))
    assert time.monotonic() - begin < 40, "a process that does not end is killed"


def test_workers_end_with_the_loop() -> None:
    for _ in processes(Slow(1000), 1):
        assert len(multiprocessing.active_children()) == 2
        break
    assert not multiprocessing.active_children()
    iterator = iter(processes(Slow(1000), 1))
    next(iterator)
    del iterator
    assert not multiprocessing.active_children()


def test_signals_of_a_batch_system_are_not_for_workers() -> None:
    loader = processes(Slow(60, slow=0.002))
    for number, batch in enumerate(loader):
        assert batch.item() == number
        if number == 5:
            for child in multiprocessing.active_children():
                for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                    os.kill(child.pid, name)
    assert number == 59


def test_many_orders_ahead_do_not_fill_the_pipes() -> None:
    loader = processes(Slow(600), batch_sampler=[list(range(500))] * 120, num_workers=1, prefetch_factor=100)
    iterator = iter(loader)
    next(iterator)
    time.sleep(0.5)  # the worker fills its pipe with answers while this process does not read
    assert [batch.tolist() for batch in iterator] == [list(range(500))] * 119


def test_persistent_workers_live_from_pass_to_pass() -> None:
    loader = processes(Seen(8), 2, persistent_workers=True)
    one = dg.stack([dg.stack(batch) for batch in loader]).numpy()  # (batch, what, sample)
    for _ in loader:
        break  # what they read ahead is dropped
    two = dg.stack([dg.stack(batch) for batch in loader]).numpy()
    assert one[:, 0, 0].tolist() == [0, 1, 0, 1] and (one[:, 1] == 2).all()
    assert len(set(one[:, 3].ravel())) == 2 and os.getpid() not in one[:, 3]
    np.testing.assert_array_equal(one[:, 3], two[:, 3])
    assert len(set(one[:, 2].ravel()) | set(two[:, 2].ravel())) == 4, "a seed for each worker and pass"
    assert len(np.unique(one[:, 4:])) == 16, "Python's and numpy's own streams differ between workers"
    del loader
    assert not multiprocessing.active_children()


def test_iterable_datasets_are_shared_out() -> None:
    assert [b.tolist() for b in processes(Part(7), 2)] == [[0, 2], [1, 3], [4, 6], [5]]
    assert [b.tolist() for b in processes(Whole(7), 2, worker_init_fn=halve)] == [[0, 1], [3, 4], [2], [5, 6]]
    with pytest.warns(UserWarning, match="get_worker_info"):
        assert [b.tolist() for b in processes(Whole(3), 2)] == [[0, 1], [0, 1], [2], [2]]


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(RuntimeError, match="worker='thread' needs none of that"):
        iter(processes(Noisy(4), collate_fn=lambda samples: samples))


SCRIPT = """
import os, sys
from distgrad.data import DataLoader, Dataset

class Mine(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return index

{guard}
    loader = DataLoader(Mine(), 1, num_workers=2, worker="{worker}", persistent_workers=True)
    iterator = iter(loader)
    next(iterator)
    from multiprocessing import active_children
    print(*[child.pid for child in active_children()], flush=True)
    {end}
"""


def run(folder: Path, end: str, worker: str = "process", guard: str = "if __name__ == '__main__':",
        launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT.format(guard=guard, end=end, worker=worker))
    return subprocess.run([sys.executable, *launcher, str(path)], capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("end, code", [("pass", 0), ("sys.exit(3)", 3), ("1 / 0", 1), ("os._exit(4)", 4),
                                       ("os.kill(os.getpid(), 9)", -9)])
def test_workers_end_with_the_program(end: str, code: int, tmp_path: Path) -> None:
    done = run(tmp_path, end)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2 and done.returncode == code, done.stderr
    assert ("Error" in done.stderr) == (end == "1 / 0"), "nothing is said at the end"
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its program"
        time.sleep(0.01)


def test_threads_end_with_the_program(tmp_path: Path) -> None:
    done = run(tmp_path, "pass", worker="thread")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "pass", guard="if True:")
    assert done.returncode == 1 and "__main__" in done.stderr and "worker process 0" in done.stderr


def test_simulated_ranks_are_told_to_take_threads(tmp_path: Path) -> None:
    done = run(tmp_path, "pass", launcher=("-m", "distgrad", "run", "--simulate", "-n", "2"))
    assert done.returncode == 1 and "worker='thread' needs none of that" in done.stderr
