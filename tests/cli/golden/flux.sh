#!/usr/bin/env bash
#flux: --job-name=big-run
#flux: --queue=gpu
#flux: --setattr=bank=climate
#flux: --nodes=2
#flux: --nslots=2
#flux: --cores-per-slot=16
#flux: --gpus-per-slot=4
#flux: --time-limit=5400s
#flux: --output=logs/big-run-{{id}}.out
#flux: --exclusive

module purge
module load openmpi/5.0
export OMP_NUM_THREADS=4 OPENBLAS_NUM_THREADS=4 MKL_NUM_THREADS=4 NUMEXPR_NUM_THREADS=4 NUMBA_NUM_THREADS=4 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
flux run --nodes=2 --time-limit=5400s --signal=USR2@300s -n 8 --unbuffered -o exit-on-error -o cpu-affinity=per-task -o gpu-affinity=off -c 4 -o pmi=pmix /opt/venv/bin/python -m distgrad.cli.child train.py --lr 0.1 --resume auto
