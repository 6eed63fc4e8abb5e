"""Two hosts of two ranks, joined by a network: the same bits as on simulated ranks.

The hosts are network namespaces of this machine, made by the laboratory's script `../shared/cluster/hosts`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgrad.config import child_environment
from tests.hosts.master import NODES

ROOT = Path(__file__).parents[2]
LABORATORY = ROOT.parent / "shared" / "cluster"
MASTER = Path(__file__).with_name("master.py")
LIMIT = 90.0  # seconds for one job
LAUNCH = {
    "openmpi": ["mpirun", "--prtemca", "plm_ssh_agent", str(LABORATORY / "agent"), "--host", "h1:2,h2:2",
                "--prtemca", "prte_if_include", "eth0", "--mca", "btl_tcp_if_include", "eth0",
                "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"],
    "mpich": ["mpiexec", "-launcher", "ssh", "-launcher-exec", str(LABORATORY / "agent"), "-hosts", "h1,h2",
              "-ppn", "2", "-iface", "eth0"],
}
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1",
               "OPENBLAS_NUM_THREADS": "1"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def call(*arguments: str, limit: float = 30.0) -> str:
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=limit)
    assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
    return ended.stdout


def why_not() -> str:
    """What is missing for hosts of our own; empty if nothing is."""
    if not (LABORATORY / "hosts").exists():
        return "needs the laboratory ../shared/cluster/hosts"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "needs iproute2"
    if call("ip", "netns", "list").strip() or "hostsbr" in call("ip", "-brief", "link"):
        return "somebody's hosts are up; `hosts down` would end them too"
    return ""


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """Two hosts, up for the tests of this module."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    try:
        ended = subprocess.run([LABORATORY / "hosts", "up", "2"], capture_output=True, text=True, timeout=60)
        if ended.returncode:
            pytest.skip(f"this machine cannot make hosts: {ended.stderr.strip()}")
        yield
    finally:
        call(str(LABORATORY / "hosts"), "down", limit=60)
    assert not call("ip", "netns", "list").strip()


def environment_of(mpi: str) -> Path:
    """The folder of an environment with this MPI."""
    folder = ROOT / {"openmpi": ".venv", "mpich": ".venv-mpich"}[mpi]
    if not (folder / "bin" / LAUNCH[mpi][0]).exists():
        pytest.skip(f"needs an environment with {mpi}: DISTGRAD_MPI={mpi} launch/test")
    return folder


def run(command: list[str], binaries: Path) -> str:
    """Run a job on the hosts; when it takes too long, nothing of it stays."""
    inherited = child_environment(**ENVIRONMENT)
    inherited["PATH"] = f"{binaries}{os.pathsep}{inherited['PATH']}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=inherited,
                          start_new_session=True) as job:
        try:
            said, _ = job.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            for host in ("h1", "h2"):
                subprocess.run([LABORATORY / "hosts", "kill", host], timeout=30)
            os.killpg(job.pid, signal.SIGKILL)
            pytest.fail(f"not done after {LIMIT} s: {job.communicate()[0]}")
    assert job.returncode == 0, said
    return said


def results(folder: Path) -> list[dict[str, Any]]:
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(sum(NODES))]


@pytest.mark.parametrize("vendor", sorted(LAUNCH))
def test_two_hosts_of_two_ranks(vendor: str, hosts: None, tmp_path: Path) -> None:
    binaries = environment_of(vendor) / "bin"
    real, simulated = tmp_path / "real", tmp_path / "simulated"
    real.mkdir()
    simulated.mkdir()
    program = [str(binaries / "python"), str(MASTER)]
    run([*program, str(simulated), "simulate"], binaries)
    said = run([str(LABORATORY / "hosts"), "exec", "h1", *LAUNCH[vendor], "-n", str(sum(NODES)), *program, str(real)],
               binaries)
    assert "cannot share memory" not in said
    for mine, theirs in zip(results(real), results(simulated), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)
            assert "transport" not in key or mine[key] == "lanes"
    for host in ("h1", "h2"):
        assert not call("ip", "netns", "pids", host).strip(), "a process is left"
