#!/usr/bin/env bash
#SBATCH --job-name=big-run
#SBATCH --partition=gpu
#SBATCH --account=climate
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --mem=65536M
#SBATCH --gpus-per-node=4
#SBATCH --time=01:30:00
#SBATCH --signal=B:USR2@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.out
#SBATCH --exclusive

module purge
module load openmpi/5.0
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-4}"
export OMP_NUM_THREADS=4 OPENBLAS_NUM_THREADS=4 MKL_NUM_THREADS=4 NUMEXPR_NUM_THREADS=4 NUMBA_NUM_THREADS=4 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
told='' job='' stopping=''
pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }
trap 'stopping=yes; pass_on' USR2
trap pass_on TERM
srun --ntasks=8 --nodes=2 --ntasks-per-node=4 --mpi=pmix --kill-on-bad-exit=1 --unbuffered --cpu-bind=cores --cpus-per-task=4 /opt/venv/bin/python -m distgrad.cli.child train.py --lr 0.1 --resume auto &
job=$!
[ -z "$told" ] || pass_on
while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early
wait "$job"
code=$?
# Told that its time is up, or preempted, and all ranks stopped well: go on in another allocation.
preempted() { scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; }
if [ "$code" -eq 0 ] && { [ -n "$stopping" ] || preempted; }; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
