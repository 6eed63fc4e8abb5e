"""Real ranks where memory is short or hidden, and where they die: it works, falls back or says why; nothing stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgrad.cli.launcher import Job, command_line
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, Vendor, find_mpiexec, identify
from distgrad.distributed import simulate
from tests.distributed.models import lockstep

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 40.0  # seconds for one job
# The libraries' own ways between processes of one machine need to look at them, too.
WITHOUT_SHORTCUTS = {"OMPI_MCA_btl": "self,tcp", "MPIR_CVAR_CH4_CMA_ENABLE": "0"}
TOKEN = "DISTGRAD_TEST_JOB"  # a variable by which all processes of a job are known
KILLED_BY_MEMORY = ("Bus error", "SIGBUS", "Segmentation fault", "SIGSEGV", "signal 7", "signal 11")

try:
    MPIEXEC = find_mpiexec(os.environ)
    VENDOR = identify(MPIEXEC)
except CommandError:
    pytest.skip("needs an mpiexec", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def privileged(program: str, *arguments: str) -> Any:
    """A mark: skip unless this program of util-linux works here."""
    works = shutil.which(program) is not None and os.geteuid() == 0 and subprocess.run(
        [program, *arguments, "true"], capture_output=True, timeout=30).returncode == 0
    return pytest.mark.skipif(not works, reason=f"needs {program} {' '.join(arguments)}, and root")


class Running:
    """A job of real ranks, and all processes that belong to it."""

    def __init__(self, script: str, folder: Path, ranks: int, around_job: list[str], around_rank: list[str],
                 **variables: str) -> None:
        self.folder, self.token = folder, uuid.uuid4().hex
        path = folder / "job.py"
        path.write_text(script)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), TOKEN: self.token, **variables}
        line = command_line(Job(ranks, (str(path),)), Starter(MPIEXEC, VENDOR), environment)
        at = line.argv.index(sys.executable)
        self.process = subprocess.Popen(
            [*around_job, *line.argv[:at], *around_rank, *line.argv[at:]], env={**environment, **line.variables},
            cwd=folder, text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)
        self.output = self.errors = ""

    def ours(self) -> list[int]:
        """Processes of this job that still run, wherever they have got to."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                alive = (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if alive and self.token.encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def wait_for(self, pattern: str, count: int) -> list[Path]:
        """Files that the ranks leave in the folder."""
        deadline = time.monotonic() + LIMIT
        while len(found := sorted(self.folder.glob(pattern))) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"no {pattern} after {LIMIT} s"
            time.sleep(0.02)
        return found

    def end(self) -> int:
        """Wait for the job's end."""
        try:
            self.output, self.errors = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"not done after {LIMIT} s: {self.process.communicate()}")
        return self.process.returncode

    def kill(self) -> None:
        for pid in [self.process.pid, *self.ours()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def results(self) -> list[dict[str, Any]]:
        """What ranks printed after RESULT, by rank; several may stand on one line."""
        found = [json.loads(text) for text in re.findall(r"RESULT (\{.*?\})", self.output)]
        return sorted(found, key=lambda result: result["rank"])

    def nothing_left(self) -> None:
        """No process, hence no memory without a name; and no name either."""
        deadline = time.monotonic() + 5
        while (left := self.ours()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, f"processes {left} are left"
        assert not [name for name in os.listdir("/dev/shm") if "distgrad" in name]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Any]:
    """Starts jobs; afterwards none of their processes is there."""
    started: list[Running] = []

    def start(script: str, ranks: int = 2, around_job: list[str] | None = None, around_rank: list[str] | None = None,
              **variables: str) -> Running:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Running(script, folder, ranks, around_job or [], around_rank or [], **variables))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None or running.ours():
            running.kill()
            running.process.communicate()


# 16 MB of parameters, two steps with a sharded optimizer, checked by every rank.
TRAIN = """
import ctypes, json, os, resource
import numpy as np
import distgrad
from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
comm = world()
module = nn.Linear(2000, 2000, bias=False)
{limit}
model = DataParallel(module)
optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.5)
before = model.weight.detach().numpy().copy()
comm.barrier()
for step in range(2):
    model.zero_grad()
    model(distgrad.full((1, 2000), float(comm.rank + step))).sum().backward()
    optimizer.step()
np.testing.assert_allclose(before - model.weight.detach().numpy(), 0.5 * comm.size, atol=1e-5)
print("RESULT " + json.dumps(dict(rank=comm.rank, size=comm.size, transport=model.transport)), flush=True)
"""


def trained(running: Running, ranks: int = 2) -> set[str]:
    """The job ended well on all ranks; by which transports."""
    code = running.end()
    assert code == 0, running.errors
    results = running.results()
    assert [(result["rank"], result["size"]) for result in results] == [(rank, ranks) for rank in range(ranks)]
    running.nothing_left()
    return {result["transport"] for result in results}


@privileged("unshare", "-m")
def test_a_small_dev_shm_does_not_matter(job: Any) -> None:
    # MPICH's own segments need more than 1 MB before a program begins, and are not reserved by it.
    size = "1m" if VENDOR is Vendor.OPEN_MPI else "8m"
    small = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
    assert trained(job(TRAIN.format(limit=""), around_job=small)) == {"shared"}


@privileged("unshare", "-p", "-f", "--mount-proc")
def test_ranks_that_do_not_see_each_others_processes(job: Any) -> None:
    """As in a container for each rank: they count as machines of their own, and everything goes over MPI."""
    running = job(TRAIN.format(limit=""), around_rank=["unshare", "-p", "-f", "--mount-proc"],
                  **WITHOUT_SHORTCUTS)
    assert trained(running) <= {"lanes", "mpi"}


def test_memory_that_cannot_be_shared(job: Any) -> None:
    """All ranks fall back, also where only one of them has to, and rank 0 says why in one line."""
    limit = "if comm.rank == 1: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))"
    running = job(TRAIN.format(limit=limit))
    assert trained(running) == {"mpi"}
    said = [line for line in running.errors.splitlines() if "distgrad: " in line]
    assert len(said) == 1 and "gradients travel over MPI" in said[0] and "rank 1: " in said[0], said
    assert "File too large" in said[0]


@pytest.mark.long
@privileged("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")
def test_processes_that_may_not_look_at_each_other(job: Any) -> None:
    limit = "if comm.rank == 1: ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE"
    running = job(TRAIN.format(limit=limit),
                  around_job=["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"],
                  **WITHOUT_SHORTCUTS)
    assert trained(running) == {"mpi"}
    assert running.errors.count("gradients travel over MPI") == 1 and "Permission denied" in running.errors


@pytest.mark.parametrize("megabytes", [pytest.param(4, marks=pytest.mark.long), 24])
def test_too_little_memory_is_an_exception(megabytes: int, job: Any) -> None:
    """One rank may map no more than that: less than its gradients, or less than its own and the other's."""
    limit = f"""
if comm.rank == 1:
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ({megabytes} << 20),) * 2)
"""
    running = job(TRAIN.format(limit=limit))
    code = running.end()
    assert not [word for word in KILLED_BY_MEMORY if word in running.errors + running.output]
    assert code == 1 and "rank 1" in running.errors, running.errors
    assert re.search(r"MemoryError: |Cannot allocate memory|BLAS error: Memory allocation", running.errors)
    running.nothing_left()


# Trains until it is ended, or for ten steps; what rank 1 does at step 5 is put in.
ENDLESS = """
import os, sys, time
import distgrad
from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
comm = world()
model = DataParallel(nn.Linear(500, 500), transport="shared")
optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.5)
for step in range({steps}):
    if step == 5:
        with open("pid" + str(comm.rank), "w") as file:
            file.write(str(os.getpid()))
        {event}
    model.zero_grad()
    model(distgrad.ones(1, 500)).sum().backward()
    optimizer.step()
"""
ENDINGS: dict[str, tuple[int, str]] = {  # how many steps there are, and what rank 1 does at the fifth
    "the normal end": (10, "pass"),
    "an exception": (10 ** 9, "assert comm.rank != 1, 'enough'"),
    "an exit": (10 ** 9, "if comm.rank == 1: sys.exit(3)"),
    "SIGKILL of one rank": (10 ** 9, "pass"),
    "SIGKILL of one that is waited for": (10 ** 9, "if comm.rank == 1: time.sleep(600)"),
    "SIGTERM of one rank": (10 ** 9, "pass"),
    "SIGTERM of the job": (10 ** 9, "pass"),
}


TYPICAL = ("the normal end", "SIGKILL of one that is waited for", "SIGTERM of the job")


@pytest.mark.parametrize("ending", [pytest.param(ending, marks=[] if ending in TYPICAL else [pytest.mark.long])
                                    for ending in sorted(ENDINGS)])
def test_nothing_is_left_after(ending: str, job: Any) -> None:
    steps, event = ENDINGS[ending]
    running = job(ENDLESS.format(steps=steps, event=event), ranks=3)
    if "SIG" in ending:
        pids = [int(path.read_text() or 0) for path in running.wait_for("pid*", 3)]
        while not all(pids):
            pids = [int(path.read_text() or 0) for path in running.wait_for("pid*", 3)]
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]
        assert all(text.count("memfd:distgrad") >= 3 for text in maps), "every rank maps every rank's memory"
        number = getattr(signal, ending.split()[0])
        os.kill(running.process.pid if "job" in ending else pids[1], number)
    begin = time.monotonic()
    code = running.end()
    assert (code == 0) is (ending == "the normal end"), running.errors
    if "SIG" in ending:
        assert time.monotonic() - begin < 10
    assert not [word for word in KILLED_BY_MEMORY if word in running.errors + running.output]
    running.nothing_left()


EIGHT = """
import numpy as np
from distgrad.distributed import world
from tests.distributed.models import lockstep
comm = world()
run = lockstep("transformer", "float32", [comm.rank], comm.size, sharded=True, bucket_bytes=1, transport="shared")
np.savez(f"rank{comm.rank}.npz", parameters=run.parameters, norms=run.norms)
"""


@pytest.mark.long
def test_eight_ranks_have_the_bits_of_one(job: Any) -> None:
    running = job(EIGHT, ranks=8)
    assert running.end() == 0, running.errors
    running.nothing_left()
    (expected,) = simulate(1)(lambda rank: lockstep("transformer", "float32", list(range(8)), 8))
    for rank in range(8):
        found = np.load(running.folder / f"rank{rank}.npz")
        np.testing.assert_array_equal(found["parameters"], expected.parameters)
        assert found["norms"].tolist() == expected.norms
