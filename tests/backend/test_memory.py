"""The host's memory in the steady state: what a step frees, the next one finds, without a page fault."""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from distgrad.backend import malloc
from distgrad.config import Config, child_environment

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60  # seconds
STEPS = 20
SETTLED = 10  # steps after which sizes of free blocks have found each other

try:
    GLIBC = bool(ctypes.CDLL(None).gnu_get_libc_version)
except (AttributeError, OSError, TypeError):
    GLIBC = False
needs_glibc = pytest.mark.skipif(not GLIBC, reason="other C libraries are left alone")

TRAINING = f"""
import json, resource, sys
from threadpoolctl import threadpool_limits
import numpy as np
from distgrad import from_numpy
from distgrad.bench.workloads import OURS, WORKLOADS
from distgrad.nn.functional import cross_entropy
from distgrad.nn.utils import clip_grad_norm_
from distgrad.optim import Adam

workload, stream, faults = WORKLOADS[sys.argv[1]], np.random.default_rng(0), []
model = workload.build(OURS)
optimizer = Adam(model.parameters())
x, y = map(from_numpy, workload.batch(stream))
with threadpool_limits(1):
    for _ in range({STEPS}):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(faults))
"""


@needs_glibc
@pytest.mark.parametrize("workload", ["cnn", pytest.param("gpt", marks=pytest.mark.slow)])
def test_steps_take_no_pages(workload):
    environment = child_environment(DISTGRAD_KERNELS="reference", DISTGRAD_MALLOC="keep", PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", TRAINING, workload], env=environment, capture_output=True, text=True,
                          timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    faults = json.loads(done.stdout)
    assert statistics.median(faults[SETTLED:]) < 10, faults


def test_what_is_asked_for_is_done(monkeypatch):
    monkeypatch.setattr(malloc, "config", Config(malloc="keep"))
    assert malloc.keep() == GLIBC
    monkeypatch.setattr(malloc, "config", Config(malloc="default"))
    assert not malloc.keep()
    monkeypatch.setattr(malloc, "config", Config(malloc="jemalloc"))
    with pytest.raises(ValueError, match="DISTGRAD_MALLOC='jemalloc'"):
        malloc.keep()
