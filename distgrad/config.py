"""The settings of this process, read once from the environment. `os.environ` appears nowhere else.

`config` is what distgrad's own DISTGRAD_* variables say; `launcher()` is what mpirun, srun and
their kin said about this process before MPI starts; `child_environment()` is for starting others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["Config", "Launcher", "cache_folder", "child_environment", "config", "launcher", "preset", "waiting_tasks"]


@dataclass(frozen=True)
class Config:
    """What DISTGRAD_* variables set; each field's variable is its name in capitals.

    soft_timeout, hard_timeout: seconds a rank waits before it names who is missing, and before
        the job is aborted.
    bucket_bytes: the size of a gradient bucket; 0 leaves it to DataParallel.
    transport: 'auto', 'shared' or 'mpi', how ranks of one node exchange gradients.
    mpi: 'openmpi' or 'mpich', which library the launch scripts install.
    traceback: 'framed' or 'plain', how an exception that ends a rank is shown.
    terminal: 1 where a launcher's pipe ends at a person's terminal (`distgrad run` sets it).
    kernels: 'auto' takes compiled kernels where numba is installed, 'reference' never.
    blas: who multiplies matrices on the host: 'auto', 'numpy' or 'mkl'; see `backend.blas`.
    malloc: 'keep' has freed memory kept for the next step, 'default' leaves the C library's allocator as it is.
    cuda_mpi: 1 where MPI takes CUDA memory as it is; otherwise it never gets any.
    cudnn: 0 leaves convolution on a GPU to the package's own kernels also where cuDNN is installed.
    tf32: 1 lets products of float32 matrices and convolutions on a GPU round their inputs to 10 bits of mantissa.
    cache: a folder for compiled kernels; see `cache_folder`.
    """

    soft_timeout: float = 30.0
    hard_timeout: float = 60.0
    bucket_bytes: int = 0
    transport: str = "auto"
    mpi: str = "openmpi"
    traceback: str = "framed"
    terminal: int = 0
    kernels: str = "auto"
    blas: str = "auto"
    malloc: str = "keep"
    cuda_mpi: int = 0
    cudnn: int = 1
    tf32: int = 0
    cache: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Config:
        """Read every field; a value of the wrong kind raises ValueError and names its variable."""
        found: dict[str, Any] = {}
        for field in fields(cls):
            name = f"DISTGRAD_{field.name.upper()}"
            text = environment.get(name)
            if text is None:
                continue
            kind = type(field.default)
            try:
                found[field.name] = kind(text)
            except ValueError:
                raise ValueError(f"{name}={text!r} is not a valid {kind.__name__}") from None
        return cls(**found)


@dataclass(frozen=True)
class Launcher:
    """What a launcher told this process. size is None where the launcher does not say it."""

    name: str
    rank: int | None
    size: int | None
    local_rank: int | None


# (name, rank, sizes, local rank, what must be set besides the rank): the variables by which each launcher makes
# itself known, the innermost first: Hydra's and Open MPI's daemons are themselves tasks of Slurm or Flux, and Slurm's
# and Flux' tasks carry PMI_RANK as Hydra's do, but no MPI_LOCALRANKID.
_LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_LOCAL_RANK", ""),
    ("jsrun", "JSM_NAMESPACE_RANK", ("JSM_NAMESPACE_SIZE",), "JSM_NAMESPACE_LOCAL_RANK", ""),
    ("PALS", "PALS_RANKID", ("PALS_SIZE", "PMI_SIZE"), "PALS_LOCAL_RANKID", ""),
    ("Hydra", "PMI_RANK", ("PMI_SIZE",), "MPI_LOCALRANKID", "MPI_LOCALRANKID"),
    ("Flux", "FLUX_TASK_RANK", ("FLUX_JOB_SIZE",), "FLUX_TASK_LOCAL_ID", ""),
    # A batch script's own shell has SLURM_PROCID without a step; SLURM_NTASKS may be the allocation's, not the step's.
    ("Slurm", "SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_LOCALID", "SLURM_STEP_ID"),
    ("PMI", "PMI_RANK", ("PMI_SIZE",), "PMI_LOCAL_RANK", ""),
    ("PMIx", "PMIX_RANK", ("PMIX_SIZE",), "PMIX_LOCAL_RANK", ""),
    # `distgrad run` by an mpiexec that it does not know, and that may set none of these: MPI alone knows the rank.
    ("distgrad run", "DISTGRAD_RANKS", ("DISTGRAD_RANKS",), "", ""),
)


def launcher(environment: Mapping[str, str] | None = None) -> Launcher | None:
    """The launcher that started this process, or None when a person or a plain shell did."""
    env = os.environ if environment is None else environment
    for name, rank, sizes, local, needed in _LAUNCHERS:
        if rank in env and (not needed or needed in env):
            size = next((env[variable] for variable in sizes if variable in env), None)
            return Launcher(name, None if rank in sizes else _int(env[rank]), _int(size), _int(env.get(local)))
    return None


def waiting_tasks(environment: Mapping[str, str] | None = None) -> int:
    """How many tasks a Slurm batch script's own shell was given to start; 0 inside of a step and elsewhere."""
    env = os.environ if environment is None else environment
    return (_int(env.get("SLURM_NTASKS")) or 0) if "SLURM_JOB_ID" in env and launcher(env) is None else 0


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def child_environment(**extra: str) -> dict[str, str]:
    """A copy of this process's environment with `extra` added, for a process to be started."""
    return {**os.environ, **extra}


def cache_folder() -> str:
    """Where this user's compiled kernels are kept: DISTGRAD_CACHE, or `distgrad` in XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return config.cache or os.path.join(home if os.path.isabs(home) else os.path.expanduser("~/.cache"), "distgrad")


def preset(name: str, value: str) -> str:
    """Set a variable for a library that is about to be loaded, unless the user has set it; what it is then."""
    return os.environ.setdefault(name, value)


config = Config.from_environment(os.environ)
