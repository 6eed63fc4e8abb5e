#!/usr/bin/env bash
# Two nodes with four ranks each under Flux: put in your own names and numbers, and submit it with
#   flux batch launch/flux.sh
# Made by: distgrad job --scheduler flux --nodes 2 --ranks-per-node 4 --threads 2 --walltime 01:00:00 \
#   --job-name train --python python3 --resume auto --job-script-prologue 'source .venv/bin/activate' --mpi pmix -- train.py
#
#flux: --job-name=train
#flux: --nodes=2
#flux: --nslots=2
#flux: --cores-per-slot=8
#flux: --time-limit=3600s
#flux: --output=train-{{id}}.out

# Your environment: a virtual environment here, or `module load` lines.
source .venv/bin/activate

# One BLAS thread for each core that a rank has, output at once, stacks when a rank crashes.
export OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 MKL_NUM_THREADS=2 NUMEXPR_NUM_THREADS=2 NUMBA_NUM_THREADS=2 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1

# The run's own limit, so that Flux signals the ranks 180 s ahead of it; -o pmi=pmix is for Open MPI, MPICH needs none.
# After the time limit, submit this script again: it goes on where it stopped.
flux run --nodes=2 --time-limit=3600s --signal=USR2@180s -n 8 --unbuffered -o exit-on-error -o cpu-affinity=per-task -o gpu-affinity=off -c 2 -o pmi=pmix python3 -m distgrad.cli.child train.py --resume auto
