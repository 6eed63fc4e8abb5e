#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --time=01:30:00
#SBATCH --no-requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

told='' job=''
pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }
trap pass_on USR2 TERM
python3 -m distgrad run -n 4 --launcher mpiexec --threads 1 train.py --lr 0.1 &
job=$!
[ -z "$told" ] || pass_on
while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early
wait "$job"
code=$?
exit "$code"
