#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --time=01:30:00
#SBATCH --signal=B:USR2@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1 NUMBA_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
told='' job='' stopping=''
pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }
trap 'stopping=yes; pass_on' USR2
trap pass_on TERM
srun --ntasks=2 --nodes=1 --ntasks-per-node=2 --mpi=pmix --kill-on-bad-exit=1 --unbuffered --cpu-bind=cores --cpus-per-task=1 python3 -m distgrad.cli.child train.py --lr 0.1 &
job=$!
[ -z "$told" ] || pass_on
while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early
wait "$job"
code=$?
# Told that its time is up, or preempted, and all ranks stopped well: go on in another allocation.
preempted() { scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; }
if [ "$code" -eq 0 ] && { [ -n "$stopping" ] || preempted; }; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
